"""CIFAR-10-C as published: a NumPy file for each corruption, with the test pictures at one severity after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from advex.data.source import Place, Source, Split
from advex.errors import DataError, SpecError, did_you_mean
from advex.files import at_home, check_file
from advex.registry import register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEVERITIES = 5
_NAMES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression", "speckle_noise",
    "gaussian_blur", "spatter", "saturate",
)  # fmt: skip
_LABELS = "labels.npy"
_PICTURES = 50_000  # of a file, as published


@register("dataset", "cifar10c", cites="hendrycks2019")
def cifar10c(*, corruption: str = "gaussian_noise", severity: int = 3, root: str = "CIFAR-10-C") -> Source:
    """The test pictures of CIFAR-10, corrupted, from the published NumPy files.

    corruption: the name of its file, e.g. fog. severity: 1 to 5, of which each is a fifth of the file's rows. root: the
    folder with the files, or its name in ADVEX_DATA.
    """
    if not 1 <= severity <= SEVERITIES:
        raise SpecError(f"severity={severity}: the severities of CIFAR-10-C are 1 to {SEVERITIES}.")
    folder = _folder(root)
    held = _held(folder)
    if not held:
        raise DataError(
            f"{folder} does not contain the files of CIFAR-10-C, such as {corruption}.npy and {_LABELS}. "
            "Unpack CIFAR-10-C.tar and give its folder as root=FOLDER."
        )
    if corruption not in held:
        raise DataError(f"{folder} has no {corruption}.npy: {did_you_mean(corruption, held)}")
    pictures, labels = _arrays(folder, corruption)
    return _source(f"cifar10c-{corruption}-{severity}", pictures, labels, severity)


@register("format", "cifar10c", cites="hendrycks2019")
@dataclass(frozen=True)
class CIFAR10C:
    """The folder of CIFAR-10-C, of which a corruption and a severity are to be named."""

    reads: ClassVar[str] = "a folder of CIFAR-10-C's NumPy files"
    order: ClassVar[int] = 34

    def find(self, place: Place) -> Source | None:
        """None of it can be read as a whole. Raises DataError that says how it is read."""
        names = {str(path) for path in place.files}
        held = [name for name in _NAMES if f"{name}.npy" in names]
        if not held or _LABELS not in names:
            return None
        raise DataError(
            f"{place.path} is CIFAR-10-C, test pictures at five severities: choose one corruption and one "
            f"severity, e.g. cifar10c:corruption={held[0]},severity=3,root={place.path}. Its pictures are "
            "for testing only, not for training."
        )


def _folder(root: str) -> Path:
    shared = os.environ.get("ADVEX_DATA")
    places = [at_home(root), *([Path(shared) / root] if shared else [])]
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"There is no folder {' or '.join(map(str, places))}. For cifar10c, unpack CIFAR-10-C.tar and give "
        "its folder as root=FOLDER, or put it into the folder set by ADVEX_DATA.",
        absent=True,
    )


def _held(folder: Path) -> list[str]:
    return [name for name in _NAMES if (folder / f"{name}.npy").exists()]


def _arrays(folder: Path, corruption: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [n, 32, 32, 3] uint8, read as they are looked at, and labels [n]. Raises DataError."""
    pictures = _array(folder / f"{corruption}.npy")
    labels = _array(folder / _LABELS)
    n = len(pictures) if pictures.ndim else 0
    if pictures.dtype != np.uint8 or pictures.shape != (n, 32, 32, 3) or not n or n % SEVERITIES:
        raise DataError(
            f"{folder / corruption}.npy is {pictures.dtype} of shape {pictures.shape}; expected uint8 of "
            f"shape ({_PICTURES}, 32, 32, 3), a fifth for each severity."
        )
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise DataError(
            f"{folder / _LABELS} is {labels.dtype} of shape {labels.shape}; expected one integer for each of "
            f"the {n:,} pictures of {corruption}.npy."
        )
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(
            f"{folder / _LABELS}: labels range from {labels.min()} to {labels.max()}; the classes are 0 to 9."
        )
    return pictures, labels.astype(np.int64)


def _array(path: Path) -> np.ndarray:
    """An array in a file. What would have to be unpickled is refused, as is one shorter than it says."""
    check_file(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: it is part of CIFAR-10-C.") from None
    except Exception as error:  # whatever a header can be made of
        said = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path} is damaged, or contains Python objects, which are not loaded: {said[0]}.") from None


def _source(name: str, pictures: np.ndarray, labels: np.ndarray, severity: int) -> Source:
    """One severity, which is the split `test`."""
    each = len(labels) // SEVERITIES
    rows = slice(each * (severity - 1), each * severity)

    def opened() -> Split:
        return Split(
            ids=[f"test/{row:06d}" for row in range(each)],
            labels=labels[rows],
            read=partial(_rows, pictures[rows]),
            notes=()
            if each == _PICTURES // SEVERITIES
            else (
                f"{each:,} pictures of each severity, not 10,000: five severities of one length are taken for granted",
            ),
        )

    return Source(name=name, class_names=CLASSES, splits={"test": opened})


def _rows(pictures: np.ndarray, rows: Sequence[int]) -> Iterator[np.ndarray]:
    for row in rows:
        yield np.array(pictures[row]).transpose(2, 0, 1)
