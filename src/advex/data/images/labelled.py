"""A folder of pictures and a table that says their classes: `metadata.csv`, `labels.csv` and the like."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from advex.data.dataset import counted
from advex.data.images.decode import SUFFIXES
from advex.data.images.folders import SPLITS
from advex.data.source import Place, Source, Split, Unreadable, shortened
from advex.data.tables.inference import TARGETS, in_order
from advex.errors import DataError, quoted
from advex.files import read_bytes
from advex.registry import register

_LARGEST = 2**26


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """The rows of a table: pictures relative to root, None for one that is not there; their labels; column and file."""

    where: str
    column: str
    names: list[str]
    pictures: list[PurePosixPath | None]
    labels: list[str]


@register("format", "labelled")
@dataclass(frozen=True)
class Labelled:
    """Pictures whose classes a CSV file says: one column names a file, with or without its ending, one the class."""

    reads: ClassVar[str] = "a folder of pictures with a CSV file of their labels"
    order: ClassVar[int] = 80

    def find(self, place: Place) -> Source | None:
        """A table in the folder itself, or one in each of its split folders."""
        images = [path for path in place.files if path.suffix.lower() in SUFFIXES]
        tables = [path for path in place.files if path.suffix.lower() == ".csv" and len(path.parts) <= 2]
        listed: dict[str, _Listed] = {}
        for table in tables if images else ():
            split = table.parts[0] if len(table.parts) > 1 else ""
            if split in listed or (split and split.lower() not in SPLITS):
                continue
            if (rows := _rows(place.path, table, images)) is not None:
                listed[split] = rows
        listed = {"": listed[""]} if "" in listed else listed
        if not listed:
            return None
        class_names = in_order({label for rows in listed.values() for label in rows.labels if label})
        return Source(
            name=place.path.resolve().name,
            class_names=class_names,
            splits={
                split: partial(_split, place.path, rows, class_names, images, split) for split, rows in listed.items()
            },
            root=place.path,
        )


def _rows(root: Path, table: PurePosixPath, images: Sequence[PurePosixPath]) -> _Listed | None:
    """What a table says of the pictures; None where no column of it names them, or none their classes."""
    text = read_bytes(root / table, _LARGEST, "a table of labels").decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)) if any(row)]
    except csv.Error as error:
        raise DataError(f"{root / table} is damaged: {error}.") from None
    names = [name.strip() for name in rows[0]] if rows else []
    body = [row for row in rows[1:] if len(row) == len(names)]
    if not body or len(body) < len(rows) - 1:
        return None
    known = _by_name(table.parent, images)
    hits = [sum(row[place].strip() in known for row in body) for place in range(len(names))]
    where = int(np.argmax(hits))
    if 2 * hits[where] < min(len(body), len(images)) or not hits[where]:
        return None
    others = [place for place in range(len(names)) if place != where]
    usual = [place for place in others if names[place].lower() in (*TARGETS, "category", "label_name", "class_name")]
    label = usual[0] if usual else others[0] if len(others) == 1 else None
    if label is None:
        return None
    return _Listed(
        where=str(table),
        column=names[label],
        names=[row[where].strip() for row in body],
        pictures=[known.get(row[where].strip()) for row in body],
        labels=[row[label].strip() for row in body],
    )


def _by_name(folder: PurePosixPath, images: Sequence[PurePosixPath]) -> Mapping[str, PurePosixPath]:
    """Every way in which a table in `folder` may name a picture; a way that several share is none."""
    ways: dict[str, PurePosixPath | None] = {}
    for path in images:
        if not path.is_relative_to(folder):
            continue
        inside = path.relative_to(folder)
        for name in {str(path), str(inside), path.name, path.stem, str(inside.with_suffix(""))}:
            ways[name] = path if name not in ways else None
    return {name: path for name, path in ways.items() if path is not None}


def _split(root: Path, rows: _Listed, class_names: Sequence[str], images: Sequence[PurePosixPath], split: str) -> Split:
    index = {name: number for number, name in enumerate(class_names)}
    ids = [str(path) if path else name for path, name in zip(rows.pictures, rows.names, strict=True)]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{root / rows.where} lists {quoted(twice)} twice.")
    mine = {path for path in images if not split or path.parts[0] == split}
    loose = sorted(map(str, mine - set(rows.pictures)))
    notes = [f"classes come from '{rows.column}' in {rows.where}"]
    if loose:
        notes.append(f"{counted(len(loose), 'picture')} not listed in it and left out ({shortened(loose)})")
    return Split(
        ids=ids,
        labels=np.array([index.get(label, -1) for label in rows.labels], dtype=np.int64),
        read=lambda chosen: (
            root / path if (path := rows.pictures[row]) else Unreadable("the picture does not exist") for row in chosen
        ),
        notes=tuple(notes),
    )
