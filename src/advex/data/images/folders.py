"""A folder of class folders: root/class/image, or root/split/class/image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from advex.data.dataset import counted
from advex.data.images.decode import FORMATS, SUFFIXES, UNREAD
from advex.data.source import Place, Source, Split, shortened
from advex.errors import DataError, quoted
from advex.registry import register

# Folders of these names, and only these, on the first level are splits and not classes.
SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev"))


@register("format", "folder")
@dataclass(frozen=True)
class Folder:
    """Class folders of images: what no other format knows."""

    reads: ClassVar[str] = "a folder of class folders"
    order: ClassVar[int] = 90

    def find(self, place: Place) -> Source | None:
        """The images below a folder."""
        return source(place.path, place.files) if place.path.is_dir() else None


def source(root: Path, files: Sequence[PurePosixPath]) -> Source:
    """The images among the files below root. Raises DataError where no class folders are found."""
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = [path for path in files if path.suffix.lower() not in SUFFIXES]
    tops = {path.parts[0] for path in images if len(path.parts) > 1}
    if not tops:
        unread = _unread(others)
        where = f"its {len(images)} images are not in class folders" if images else "it contains no images"
        held = f" (it contains {shortened([_text(path) for path in others])})" if others else ""
        raise DataError(
            f"{root} cannot be read as a data set: {where}{held}. Expected one folder of images per class "
            "(root/class/image.png or root/train/class/image.png), or Parquet "
            f"files.{unread and f' {unread}.'}",
            absent=not images,
        )
    named = {top for top in tops if top.lower() in SPLITS}
    if 1 < len(named) < len(tops):
        raise DataError(
            f"{root} contains the folders {', '.join(sorted(named))}, which look like splits, next to "
            f"{shortened(sorted(tops - named))}, which does not. Open one of them, or move the rest "
            "elsewhere."
        )
    split_names = sorted(named) if named == tops and any(_depth(path) > 2 for path in images) else [""]
    depth = 1 if split_names != [""] else 0
    classes = {_class(path, depth) for path in images if _depth(path) > depth + 1}
    class_names = tuple(sorted(classes))
    return Source(
        name=root.resolve().name,
        class_names=class_names,
        splits={name: partial(_split, root, name, images, others, class_names) for name in split_names},
        root=root,
    )


def _without_images(base: Path, class_names: Sequence[str]) -> str:
    """A sentence about folders that would be classes, were there an image in them of any split; empty for none."""
    names = {unicodedata.normalize("NFC", _text(path.name)) for path in base.iterdir() if os.path.isdir(path)}
    empty = sorted(name for name in names - set(class_names) if not name.startswith(".") and name != "__MACOSX")
    if not empty:
        return ""
    return f"{counted(len(empty), 'class folder')} without images left out ({shortened([*map(quoted, empty)])})"


def _unread(paths: Sequence[PurePosixPath]) -> str:
    """A sentence about pictures in formats that are not read, empty for none."""
    kinds = [UNREAD[path.suffix.lower()] for path in paths if path.suffix.lower() in UNREAD]
    if not kinds:
        return ""
    named = ", ".join(sorted(set(kinds)))
    return f"{counted(len(kinds), 'picture')} left out: {named} cannot be read (supported: {', '.join(FORMATS)})"


def _depth(path: PurePosixPath) -> int:
    return len(path.parts)


def _class(path: PurePosixPath, depth: int) -> str:
    # One spelling of accents, so that a class is the same whichever system made its folders.
    return unicodedata.normalize("NFC", _text(path.parts[depth]))


def _text(name: object) -> str:
    """A file name as text; bytes that are no UTF-8 are spelt out."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


def _split(
    root: Path,
    name: str,
    images: Sequence[PurePosixPath],
    others: Sequence[PurePosixPath],
    class_names: tuple[str, ...],
) -> Split:
    depth = 1 if name else 0
    mine = [path for path in images if not name or path.parts[0] == name]
    classed = [path for path in mine if _depth(path) > depth + 1]
    index = {each: number for number, each in enumerate(class_names)}

    def read(rows: Sequence[int]) -> Iterator[Path]:
        return (root / classed[row] for row in rows)

    ignored = [path for path in others if not name or path.parts[0] == name or _depth(path) == 1]
    strange = [path for path in ignored if path.suffix.lower() not in UNREAD]
    notes = (
        _without_images(root / name, class_names),
        _unread(ignored),
        _note(strange, "not an image file", "not image files"),
        _note([path for path in mine if _depth(path) <= depth + 1], "not in a class folder", "not in a class folder"),
    )
    return Split(
        ids=[_text(path) for path in classed],
        labels=np.array([index[_class(path, depth)] for path in classed], dtype=np.int64),
        read=read,
        notes=tuple(filter(None, notes)),
    )


def _note(paths: Sequence[PurePosixPath], singular: str, plural: str) -> str:
    """A sentence about files that were left out, empty for none."""
    if not paths:
        return ""
    count = "1 file is" if len(paths) == 1 else f"{len(paths):,} files are"
    names = shortened([_text(path) for path in paths])
    return f"{count} {singular if len(paths) == 1 else plural} and left out ({names})"
