"""German traffic signs (GTSRB) as published, in folders with tables beside the pictures, and in Kaggle's edition."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from advex.data import dealing
from advex.data.dataset import counted
from advex.data.evidence import Region
from advex.data.images.decode import SUFFIXES
from advex.data.published import pictures, text_tables
from advex.data.source import Opened, Place, Source, Split, shortened
from advex.errors import DataError
from advex.registry import register

CLASSES = tuple(f"{number:02d}" for number in range(43))
_BOX = ("roi.x1", "roi.y1", "roi.x2", "roi.y2")
_TRAINING = ("Final_Training/Images", "Training")  # the second: the archive of the competition, corrected
_TEST, _UNLABELLED = "GT-final_test.csv", "GT-final_test.test.csv"


@dataclass(frozen=True, kw_only=True)
class _Sign:
    """A picture: its path below the root, its class, the physical sign that it shows, and where the sign lies in it."""

    path: PurePosixPath
    label: int
    track: str = ""
    box: Region | None = None


@register("dataset", "gtsrb", cites="Stallkamp et al. 2012")
def gtsrb(*, root: str = "", validation: bool = False) -> Opened:
    """German traffic signs: `Final_Training`, `Final_Test` and their tables, or Kaggle's `Train.csv` and `Test.csv`.

    root: their folder, or the one above `GTSRB`, or one of Parquet files; left away, `gtsrb` in the folder ADVEX_DATA,
    which may also hold them in another form that is read. validation: a fifth of each class of `train` becomes the
    split `validation`, by chance (always alike) and by track: the 30 pictures of one sign stay together. Raises
    DataError.
    """
    from advex import data  # where all forms are known

    place = Place(pictures.folder_of("gtsrb", root))
    if (source := _source(place, validation)) is not None:
        return source
    if validation:
        raise DataError(
            f"{place.path} is not in the original form of GTSRB, the only one that tells which pictures show "
            "the same sign."
        )
    if root and not any(path.suffix == ".parquet" for path in place.path.iterdir()):
        raise DataError(
            f"{place.path} is not gtsrb: expected Final_Training/Images, GTSRB/Final_Training/Images, "
            "Train.csv or Parquet files there."
        )
    return data.opened(place)


@register("format", "gtsrb", cites="Stallkamp et al. 2012")
@dataclass(frozen=True)
class GTSRB:
    """The folder of GTSRB's training and test pictures, with the tables beside them."""

    reads: ClassVar[str] = "a folder of GTSRB"
    order: ClassVar[int] = 42

    def find(self, place: Place) -> Source | None:
        """Splits `train` and `test`; the latter needs the table of its classes."""
        return _source(place, False)


def _source(place: Place, validation: bool) -> Source | None:
    if not place.path.is_dir():
        return None
    below = "GTSRB/" if (place.path / "GTSRB").is_dir() else ""
    splits: dict[str, Callable[[], list[_Sign]]] = {}
    for folder in _TRAINING:
        if _class_folders(place.path / below / folder):
            splits.setdefault("train", partial(_training, place, below + folder))
    tested = PurePosixPath(below, "Final_Test", "Images")
    if (place.path / tested).is_dir():
        splits["test"] = partial(_testing, place, below)
    if not splits:
        splits = {
            split: partial(_listed, place.path, PurePosixPath(name))
            for split, name in (("train", "Train.csv"), ("test", "Test.csv"))
            if (place.path / name).is_file() and "roi.x1" in _first_line(place.path / name)
        }
    if not splits:
        return None
    opened: dict[str, Callable[[], Split]] = {
        split: partial(_split, place, made, tested if split == "test" else None) for split, made in splits.items()
    }
    if validation and "train" in splits:
        for name, part in (("train", dealing.LEARN), ("validation", dealing.TEST)):
            opened[name] = partial(_part, place, splits["train"], part)
    return Source(name=place.path.resolve().name, class_names=CLASSES, splits=opened, root=place.path)


def _class_folders(folder: Path) -> list[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    digits = [name for name in names if name.isascii() and name.isdigit() and len(name) == 5]
    return sorted(name for name in digits if os.path.isdir(folder / name))


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1000).decode("latin-1").lower()


# -- what is where -------------------------------------------------------------------------------------------


def _training(place: Place, folder: str) -> list[_Sign]:
    """Class folders `00000` to `00042`, each with pictures TRACK_FRAME.ppm and a table GT-CLASS.csv."""
    signs: list[_Sign] = []
    pictured: dict[str, list[PurePosixPath]] = {}
    for path in place.files:
        if path.is_relative_to(folder) and path.suffix.lower() in SUFFIXES and len(path.parts) > 1:
            pictured.setdefault(path.parent.name, []).append(path)
    for name in _class_folders(place.path / folder):
        if int(name) >= len(CLASSES):
            raise DataError(f"{place.path / folder / name}: GTSRB has classes 0 to {len(CLASSES) - 1}.")
        table = place.path / folder / name / f"GT-{name}.csv"
        boxes = _boxes(table, int(name)) if table.is_file() else {}
        listed = {PurePosixPath(folder, name, text_tables.inside(table, each)) for each in boxes}
        for path in sorted({*listed, *pictured.get(name, [])}):  # one that is not there is named when it is read
            track = f"{name}/{path.stem.partition('_')[0]}"
            signs.append(_Sign(path=path, label=int(name), track=track, box=boxes.get(path.name)))
    return signs


def _boxes(table: Path, label: int) -> dict[str, Region]:
    rows = text_tables.csv_rows(table, ("filename", *_BOX, "classid"))
    for row in rows:
        if text_tables.whole_numbers(table, [row["classid"]], 0, len(CLASSES) - 1) != [label]:
            raise DataError(
                f"{table}: {row['filename'][:80]} is of class {row['classid']}, but its folder is {label:05d}."
            )
    boxes = {row["filename"]: _box(table, row) for row in rows}
    if len(boxes) < len(rows):
        raise DataError(f"{table} lists a picture twice.")
    return boxes


def _testing(place: Place, below: str) -> list[_Sign]:
    """`Final_Test/Images`, labelled by a table that comes in an archive of its own."""
    images = PurePosixPath(below, "Final_Test", "Images")
    places = [place.path / folder / _TEST for folder in (images, images.parent, below, "")]
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        other = (
            f" ({_UNLABELLED} is there, but has no classes)" if (place.path / images / _UNLABELLED).is_file() else ""
        )
        raise DataError(
            f"{place.path / images} contains test pictures without their classes{other}: {_TEST}, with the "
            "column ClassId, comes in a separate archive, GTSRB_Final_Test_GT. Put it next to the pictures."
        )
    return _rows(table, images, "filename")


def _listed(root: Path, table: PurePosixPath) -> list[_Sign]:
    """Kaggle's table: `Path` names the picture, whose name is CLASS_TRACK_FRAME in training."""
    return _rows(root / table, PurePosixPath(), "path")


def _rows(table: Path, folder: PurePosixPath, column: str) -> list[_Sign]:
    rows = text_tables.csv_rows(table, (column, *_BOX, "classid"))
    labels = text_tables.whole_numbers(table, [row["classid"] for row in rows], 0, len(CLASSES) - 1)
    paths = [folder / text_tables.inside(table, row[column]) for row in rows]
    if len(set(paths)) < len(paths):
        raise DataError(f"{table} lists {next(str(path) for path in paths if paths.count(path) > 1)} twice.")
    return [
        _Sign(path=path, label=label, track=f"{label}/{path.stem.rpartition('_')[0]}", box=_box(table, row))
        for path, label, row in zip(paths, labels, rows, strict=True)
    ]


def _box(table: Path, row: Mapping[str, str]) -> Region:
    """The published corners are taken as pixels that both belong to the sign, of a picture of the size that is said."""
    x0, y0, x1, y1 = text_tables.whole_numbers(table, [row[name] for name in _BOX], 0, 2**16)
    if x1 < x0 or y1 < y0:
        raise DataError(f"{table}: the corners {x0}, {y0} and {x1}, {y1} do not form a box.")
    said = [row[name] for name in ("height", "width") if name in row]
    height, width = text_tables.whole_numbers(table, said, 1, 2**16) if len(said) == 2 else (0, 0)
    return Region(box=(x0, y0, x1 + 1, y1 + 1), of=(height, width) if height else None)


# -- splits --------------------------------------------------------------------------------------------------


def _part(place: Place, made: Callable[[], list[_Sign]], part: str) -> Split:
    signs = made()
    tracks = np.unique([sign.track for sign in signs], return_inverse=True)[1]
    rows = dealing.dealt(np.array([sign.label for sign in signs], dtype=np.int64), tracks)[part]
    return _split(place, lambda: [signs[row] for row in rows], note=dealing.held_out("validation", "pictures", "track"))


def _split(
    place: Place, made: Callable[[], Sequence[_Sign]], folder: PurePosixPath | None = None, note: str = ""
) -> Split:
    """folder: all pictures of which should be in the table."""
    signs = made()
    listed, notes = {sign.path for sign in signs}, [note] if note else []
    beside = [path for path in place.files if path.parent == folder and path.suffix.lower() in SUFFIXES]
    if lacking := [path.name for path in beside if path not in listed]:
        notes.append(
            f"{counted(len(lacking), 'picture')} of {folder} left out: not in its table ({shortened(lacking)})"
        )
    labels = np.array([sign.label for sign in signs], dtype=np.int64)
    return Split(
        ids=[str(sign.path) for sign in signs],
        labels=labels,
        read=lambda rows: (place.path / signs[row].path for row in rows),
        notes=(*notes, *pictures.empty_classes(labels, CLASSES)),
        evidence=lambda row: [] if (box := signs[row].box) is None else [box],
    )
