"""Street View House Numbers, format 2: cropped digits of 32 x 32 pixels in MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from advex.data.published import matlab, pictures
from advex.data.published.matlab import MatlabArray
from advex.data.source import Place, Source, Split
from advex.errors import DataError
from advex.registry import register

_SPLITS = ("train", "test", "extra")
_NAME = "{}_32x32.mat"
_BOXES = "digitStruct.mat"  # of format 1
_MOST = 2**24  # pictures in a file; the largest published one has half a million
_SIDE = 32


@register("dataset", "svhn", cites="Netzer et al. 2011")
def svhn(*, root: str = "") -> Source:
    """SVHN's cropped digits: `train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat`, whichever are present.

    root: their folder; left away, `svhn` in the folder ADVEX_DATA. Classes are the digits in order; the files call 0
    10. Raises DataError.
    """
    place = pictures.folder_of("svhn", root)
    if (source := SVHN().find(Place(place))) is None:
        raise DataError(f"{place} does not contain the files of SVHN ({', '.join(map(_NAME.format, _SPLITS))}).")
    return source


@register("format", "svhn", cites="Netzer et al. 2011")
@dataclass(frozen=True)
class SVHN:
    """The folder of SVHN's files of cropped digits (format 2), or one of them."""

    reads: ClassVar[str] = "a folder of SVHN's 32x32 files"
    order: ClassVar[int] = 41

    def find(self, place: Place) -> Source | None:
        """Splits `train`, `test` and `extra`. Raises DataError for format 1, whole pictures with boxes."""
        root = place.path.parent if place.suffix == ".mat" else place.path
        files = {split: root / _NAME.format(split) for split in _SPLITS}
        files = {split: path for split, path in files.items() if path.is_file() and place.path in (root, path)}
        if files:
            return Source(
                name=root.resolve().name,
                class_names=tuple("0123456789"),
                splits={split: partial(_split, split, path) for split, path in files.items()},
            )
        if any(each.is_file() for each in (root / _BOXES, *(root / split / _BOXES for split in _SPLITS))):
            raise DataError(
                f"{place.path} is SVHN in format 1, whole pictures with boxes, which is not supported. "
                "Download format 2, the cropped digits, from the same page: "
                f"{', '.join(map(_NAME.format, _SPLITS))}."
            )
        return None


def _split(split: str, path: Path) -> Split:
    held = matlab.arrays(path)
    if not {"X", "y"} <= held.keys():
        raise DataError(f"{path} must contain the arrays X and y; it contains {', '.join(held) or 'none'}.")
    x, y = held["X"], held["y"]
    if len(x.shape) != 4 or x.shape[:3] != (_SIDE, _SIDE, 3) or x.dtype.itemsize != 1 or x.dtype.kind != "u":
        raise DataError(f"{path}: X is {x.dtype} of shape {x.shape}; expected [32, 32, 3, pictures] of bytes.")
    count = x.shape[3]
    if sorted(y.shape) != sorted((1, count)):
        raise DataError(f"{path}: y of shape {y.shape} does not match the {count:,} pictures of X.")
    labels, known = matlab.whole_numbers(y.whole(_MOST).reshape(-1))
    return Split(
        ids=[f"{split}/{row:06d}" for row in range(count)],
        labels=np.where(known, np.where(labels == 10, 0, labels), -1),
        read=partial(_rows, x),
    )


def _rows(array: MatlabArray, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The chosen pictures [3, 32, 32], ascending; the others are passed over and never held."""
    size, at = 3 * _SIDE * _SIDE, 0
    with array.opened() as stream:
        for row in rows:
            for skipped in range(at, row):
                if len(stream.read(size)) < size:
                    raise DataError(f"{array.path} is damaged: it ends before picture {skipped:,}.")
            at = row + 1
            if len(data := stream.read(size)) < size:
                raise DataError(f"{array.path} is damaged: it ends before picture {row:,}.")
            yield np.frombuffer(data, np.uint8).reshape(3, _SIDE, _SIDE).transpose(0, 2, 1)
