"""MNIST's format, as published: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, packed by gzip or not."""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from advex.data.images.npz import numbered
from advex.data.source import Place, Source, Split
from advex.errors import DataError
from advex.files import check_file
from advex.registry import register

_NAME = re.compile(r"(?P<split>.+?)[-_.](?P<what>images|labels)[-_.]idx(?P<axes>[13])[-_.]ubyte(?P<packed>\.gz)?")
_SPLITS = {"t10k": "test"}
_MOST_LABELS = 2**28


@register("format", "idx", cites="LeCun et al. 1998")
@dataclass(frozen=True)
class IDX:
    """The folder of MNIST's files, or of others in its format (Fashion-MNIST, KMNIST), packed by gzip or not."""

    reads: ClassVar[str] = "a folder of MNIST's idx files"
    order: ClassVar[int] = 36

    def find(self, place: Place) -> Source | None:
        """Splits `train` and `test` (t10k), classes by number. Raises DataError for images without labels."""
        if place.path.is_file() and _NAME.fullmatch(place.path.name):
            raise DataError(
                f"{place.path} is one of two files, images and labels: give the folder, {place.path.parent}."
            )
        files: dict[tuple[str, str], Path] = {}
        for path in sorted(place.files, key=lambda path: len(path.name), reverse=True):  # those without .gz last
            if (match := _NAME.fullmatch(path.name)) and len(path.parts) <= 2:
                files[_SPLITS.get(match["split"], match["split"]), match["what"]] = place.path / path
        images = {split: path for (split, what), path in files.items() if what == "images"}
        if not images:
            return None
        if lacking := [path for split, path in images.items() if (split, "labels") not in files]:
            raise DataError(f"{lacking[0]} has no label file next to it.")
        labels = {split: _labels(files[split, "labels"]) for split in images}
        highest = max(int(each.max(initial=0)) for each in labels.values())
        return Source(
            name=place.path.resolve().name,
            class_names=numbered(str(place.path), highest),
            splits={split: partial(_split, split, path, labels[split]) for split, path in sorted(images.items())},
        )


def _split(split: str, path: Path, labels: np.ndarray) -> Split:
    with _opened(path, 3) as (_, shape):
        if shape[0] != len(labels):
            raise DataError(f"{path} contains {shape[0]:,} images, but there are {len(labels):,} labels.")
    return Split(ids=[f"{split}/{row:06d}" for row in range(len(labels))], labels=labels, read=partial(_rows, path))


@contextlib.contextmanager
def _opened(path: Path, axes: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """A file of bytes after its header, and how long its axes are. Raises DataError."""
    check_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, 8, axes)):
                raise DataError(f"{path} is not an idx file of bytes with {axes} axes.")
            shape = struct.unpack(f">{axes}I", header[4:])
            if 0 in shape:
                raise DataError(f"{path} is empty: its axes are {shape}.")
            yield file, shape  # pyright: ignore[reportReturnType]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}.") from None


def _labels(path: Path) -> np.ndarray:
    with _opened(path, 1) as (file, (count,)):
        if count > _MOST_LABELS or len(data := file.read(count + 1)) != count:
            raise DataError(f"{path} is damaged: it does not contain the {count:,} labels that its header gives.")
    return np.frombuffer(data, np.uint8).astype(np.int64)


def _rows(path: Path, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The chosen images, ascending; the others are passed over and never held."""
    with _opened(path, 3) as (file, (_, height, width)):
        at = 0
        for row in rows:
            file.seek((row - at) * height * width, 1)
            at = row + 1
            if len(data := file.read(height * width)) < height * width:
                raise DataError(f"{path} is damaged: it ends before image {row:,}.")
            yield np.frombuffer(data, np.uint8).reshape(1, height, width)
