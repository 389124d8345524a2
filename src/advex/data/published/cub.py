"""Caltech-UCSD Birds 200-2011: pictures of birds with boxes, and masks where their archive is unpacked too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from advex.data.dataset import counted
from advex.data.evidence import Region
from advex.data.images import decode
from advex.data.published import pictures, text_tables
from advex.data.source import Place, Source, Split, Unreadable, shortened
from advex.data.window import Window
from advex.errors import DataError
from advex.registry import register

_IMAGES, _CLASSES, _LABELS = "images.txt", "classes.txt", "image_class_labels.txt"
_PARTS, _BOXES = "train_test_split.txt", "bounding_boxes.txt"
_VOTED = 127  # grey levels of a mask are votes: above it the pixel is bird


@dataclass(frozen=True, kw_only=True)
class _Bird:
    """A picture. id: in the tables. box: its edges in pixels; None where no table has them."""

    id: str
    path: PurePosixPath
    label: int
    box: tuple[float, float, float, float] | None


@register("dataset", "cub", cites="Wah et al. 2011")
def cub(*, root: str = "") -> Source:
    """CUB-200-2011: `images/` and its tables of text; boxes from `bounding_boxes.txt`, masks from `segmentations/`.

    Either is evidence without the other: where there are no boxes, they are those around the masks.

    root: the folder of `images.txt`, or the one above `CUB_200_2011`; left away, `cub` in the folder ADVEX_DATA.
    Splits are `train` and `test`. Raises DataError for tables that contradict themselves or each other.
    """
    place = pictures.folder_of("cub", root)
    if (base := _base(place)) is None:
        raise DataError(f"{place} is not cub: expected {_IMAGES}, {_LABELS} and {_PARTS} there.")
    return _source(place, base)


@register("format", "cub", cites="Wah et al. 2011")
@dataclass(frozen=True)
class CUB:
    """The folder of CUB-200-2011."""

    reads: ClassVar[str] = "a folder of CUB-200-2011"
    order: ClassVar[int] = 44

    def find(self, place: Place) -> Source | None:
        """Splits `train` and `test`."""
        if not place.path.is_dir():
            return None
        if (base := _base(place.path)) is not None:
            return _source(place.path, base)
        for base in _places(place.path):
            if (base / _IMAGES).is_file() and ((base / _LABELS).is_file() or (base / _PARTS).is_file()):
                return cub(root=str(base))  # says what is missing
        return None


def _base(place: Path) -> Path | None:
    """The folder of the tables."""
    needed = (_IMAGES, _LABELS, _PARTS)
    return next((base for base in _places(place) if all((base / name).is_file() for name in needed)), None)


def _places(place: Path) -> tuple[Path, Path]:
    return place, place / "CUB_200_2011"


def _source(place: Path, base: Path) -> Source:
    listed = text_tables.by_id(base / _IMAGES, 1)
    files = {number: text_tables.inside(base / _IMAGES, row[0]) for number, row in listed.items()}
    if len(set(files.values())) < len(files):
        raise DataError(f"{base / _IMAGES} lists a picture under two ids.")
    labels, parts = text_tables.by_id(base / _LABELS, 1), text_tables.by_id(base / _PARTS, 1)
    boxes = text_tables.by_id(base / _BOXES, 4) if (base / _BOXES).is_file() else {}
    for name, table in ((_LABELS, labels), (_PARTS, parts), (_BOXES, boxes or files)):
        if odd := sorted(files.keys() ^ table.keys()):
            raise DataError(f"{base / name} does not match {_IMAGES}: only one of them has the ids {shortened(odd)}.")
    names = _class_names(base, {row[0] for row in labels.values()})
    index = {number: label for label, number in enumerate(names)}
    by_part: dict[str, list[_Bird]] = {"train": [], "test": []}
    for number, path in files.items():
        if labels[number][0] not in index:
            raise DataError(
                f"{base / _LABELS}: the class {labels[number][0][:20]} of picture {number} is not in {_CLASSES}."
            )
        box = _box(base / _BOXES, number, boxes[number]) if boxes else None
        (training,) = text_tables.whole_numbers(base / _PARTS, [parts[number][0]], 0, 1)
        by_part["train" if training else "test"].append(
            _Bird(id=number, path=path, label=index[labels[number][0]], box=box)
        )
    masks = next((path for path in (base / "segmentations", place / "segmentations") if path.is_dir()), None)
    return Source(
        name=place.resolve().name,
        class_names=tuple(names.values()),
        splits={part: partial(_split, base, birds, masks, names) for part, birds in by_part.items() if birds},
        root=place,
    )


def _class_names(base: Path, used: set[str]) -> dict[str, str]:
    """Number in the tables -> name, without the number that is put before it; in the table's order."""
    if not (base / _CLASSES).is_file():
        return {number: number for number in sorted(used, key=lambda each: (len(each), each))}
    listed = {number: row[0] for number, row in text_tables.by_id(base / _CLASSES, 1).items()}
    if len(set(listed.values())) < len(listed):
        raise DataError(f"{base / _CLASSES} lists a class twice.")
    return listed


def _box(table: Path, number: str, cells: tuple[str, ...]) -> tuple[float, float, float, float]:
    """Edges of x, y, width, height, as published."""
    try:
        x, y, width, height = map(float, cells)
    except ValueError:
        raise DataError(f"{table}: the box of picture {number} is not four numbers.") from None
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise DataError(f"{table}: the box of picture {number}, {' '.join(cells)[:80]}, has no area.")
    return x, y, x + width, y + height


def _split(base: Path, birds: list[_Bird], masks: Path | None, names: Mapping[str, str]) -> Split:
    labels = np.array([bird.label for bird in birds], dtype=np.int64)
    notes = [*pictures.empty_classes(labels, tuple(names.values()))]
    paths = [None if masks is None else masks / bird.path.with_suffix(".png") for bird in birds]
    outlines = [path if path is not None and path.is_file() else None for path in paths]
    if masks is not None and (lacking := outlines.count(None)):
        notes.append(f"{counted(lacking, 'picture')} of {len(birds):,} without a mask")

    def evidence(row: int) -> list[Region]:
        bird, mask = birds[row], outlines[row]
        if bird.box is not None:
            return [Region(box=bird.box, outline=None if mask is None else partial(_outline, mask))]
        return [] if mask is None else pictures.of_mask(mask, base / "images" / bird.path, _voted, "bird")

    return Split(
        ids=[str(bird.path) for bird in birds],
        labels=labels,
        read=lambda rows: (base / "images" / birds[row].path for row in rows),
        notes=tuple(notes),
        evidence=evidence if any(bird.box for bird in birds) or any(outlines) else None,
    )


def _voted(pixels: np.ndarray) -> np.ndarray:
    """[height, width] bool of the grey levels of a mask, which are votes."""
    return pixels[0] > _VOTED


def _outline(path: Path, window: Window) -> np.ndarray:
    """The bird's pixels in a window of its picture. Raises DataError for a mask that cannot be read or does not fit."""
    try:
        with decode.quiet():
            bird = _voted(decode.pixels(path, channels=1))
    except Unreadable as error:
        raise DataError(f"{path} cannot be read as a mask: {error}.") from None
    if bird.shape != window.of:
        raise DataError(f"{path} does not have the size of its picture.")
    return window.sampled(bird)
