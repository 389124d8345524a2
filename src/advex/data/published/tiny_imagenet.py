"""Tiny-ImageNet in its official layout, with the boxes of its things."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from advex.data.evidence import Region
from advex.data.images.boxes import region
from advex.data.published import pictures
from advex.data.published.imagenet import SYNSET, text
from advex.data.source import Place, Source, Split, Unreadable
from advex.errors import DataError, quoted
from advex.registry import register

_LIST, _WORDS, _VALIDATION = "wnids.txt", "words.txt", "val_annotations.txt"


@register("dataset", "tiny-imagenet", cites="Le and Yang 2015")
def tiny_imagenet(*, root: str = "") -> Source:
    """Tiny-ImageNet in its official layout: 200 classes, 64 x 64, in `train` and `val` (`test` has no classes).

    root: the folder of `wnids.txt`; left away, `tiny-imagenet` in the folder ADVEX_DATA. Classes are the synsets in
    ascending order, with the first name that `words.txt` has. Evidence are the boxes of `nXXXXXXXX_boxes.txt` and
    `val_annotations.txt`: x0, y0, x1, y1 from 0, both ends inside. A picture that has no box, or one that cannot be
    believed, is skipped and named. Raises DataError for what is not of this form.
    """
    return _source(pictures.folder_of("tiny-imagenet", root))


@register("format", "tiny-imagenet")
@dataclass(frozen=True)
class TinyImageNet:
    """The folder of Tiny-ImageNet, by its lists."""

    reads: ClassVar[str] = "the folder of Tiny-ImageNet"
    order: ClassVar[int] = 33

    def find(self, place: Place) -> Source | None:
        """Splits `train` and `val`."""
        root = place.path
        if not (root / _LIST).is_file():
            return None
        known = (root / "val" / _VALIDATION).is_file() or any(root.glob("train/n*/n*_boxes.txt"))
        return _source(root) if known else None


def _source(root: Path) -> Source:
    if not (root / _LIST).is_file():
        raise DataError(f"{root} is not the folder of tiny-imagenet: it contains no {_LIST}.")
    synsets = sorted({line.strip() for line in text(root / _LIST).splitlines() if line.strip()})
    if wrong := [each for each in synsets if not SYNSET.fullmatch(each)]:
        raise DataError(f"{root / _LIST}: '{wrong[0][:40]}' is not a synset such as n01440764.")
    names = _names(root / _WORDS, synsets)
    splits = {"train": _training, "val": _validation}
    present = {name: partial(make, root, synsets) for name, make in splits.items() if (root / name).is_dir()}
    if not present:
        raise DataError(f"{root} contains neither 'train' nor 'val'.")
    return Source(name=root.resolve().name, class_names=names, splits=present, indivisible=True, root=root)


def _names(path: Path, synsets: Sequence[str]) -> tuple[str, ...]:
    """`n01440764<tab>tench, Tinca tinca`: the first name, with the synset behind it where several have one name."""
    lines = text(path).splitlines() if path.is_file() else []
    words = {key: rest.partition(",")[0].strip() for key, _, rest in (line.partition("\t") for line in lines)}
    plain = [words.get(each) or each for each in synsets]
    return tuple(
        f"{name} ({each})" if plain.count(name) > 1 else name for name, each in zip(plain, synsets, strict=True)
    )


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The lines of a table with tabs. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}, which lists the boxes, is missing.")
    rows = [row for row in csv.reader(text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    for number, row in enumerate(rows, 1):
        if len(row) < columns:
            raise DataError(f"{path}, line {number}: expected {columns} columns, not {len(row)}.")
        if {"/", "\\"} & set(row[0]) or row[0].startswith("."):
            raise DataError(f"{path}, line {number}: {quoted(row[0], 40)} is not a file name.")
    return rows


def _training(root: Path, synsets: Sequence[str]) -> Split:
    boxes: dict[str, list[list[str]]] = {}
    files, labels = [], []
    for label, synset in enumerate(synsets):
        folder = root / "train" / synset
        for name, *box in _rows(folder / f"{synset}_boxes.txt", 5) if folder.is_dir() else ():
            boxes.setdefault(f"{synset}/images/{name}", []).append(box)
        mine = sorted(path.name for path in (folder / "images").glob("*.JPEG"))
        files += [f"{synset}/images/{name}" for name in mine]
        labels += [label] * len(mine)
    return _split(root / "train", files, labels, boxes)


def _validation(root: Path, synsets: Sequence[str]) -> Split:
    rows = _rows(root / "val" / _VALIDATION, 6)
    index = {synset: label for label, synset in enumerate(synsets)}
    boxes: dict[str, list[list[str]]] = {}
    labels: dict[str, int] = {}
    for name, synset, *box in rows:
        boxes.setdefault(f"images/{name}", []).append(box)
        label = index.get(synset, -1)
        if labels.setdefault(f"images/{name}", label) != label:
            raise DataError(f"{root / 'val' / _VALIDATION}: {quoted(name, 40)} has two classes.")
    return _split(root / "val", list(labels), list(labels.values()), boxes)


def _split(folder: Path, files: Sequence[str], labels: Sequence[int], boxes: Mapping[str, list[list[str]]]) -> Split:
    def evidence(row: int) -> list[Region]:
        if files[row] not in boxes:
            raise Unreadable("it has no box in the table")
        return [region(box) for box in boxes[files[row]]]

    return Split(
        ids=[f"{folder.name}/{name}" for name in files],
        labels=np.array(labels, dtype=np.int64),
        read=lambda rows: (folder / files[row] for row in rows),
        evidence=evidence,
    )
