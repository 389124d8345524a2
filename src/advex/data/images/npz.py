"""NPZ archives of arrays, read row by row and without pickle."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from advex.data.source import Encoded, Place, Source, Split, Unreadable, shortened
from advex.errors import DataError, quoted
from advex.files import check_file
from advex.registry import register

_WHOLE = {"x": "y", "images": "labels"}
_MOST_LABELS, _LARGEST_LABELS = 10_000_000, 2**30  # of a split; bytes


@register("format", "npz")
@dataclass(frozen=True)
class NPZ:
    """An .npz file of images and labels."""

    reads: ClassVar[str] = "an .npz file"
    order: ClassVar[int] = 60

    def find(self, place: Place) -> Source | None:
        """The arrays of a file; of a folder that holds nothing else, one must be named."""
        if place.suffix == ".npz":
            return source(place.path)
        if place.files and all(path.suffix.lower() == ".npz" for path in place.files):
            held = shortened([str(place.path / path) for path in place.files])
            raise DataError(f"{place.path} is a folder of NPZ files ({held}): choose one of them.")
        return None


def source(path: Path) -> Source:
    """The arrays of an NPZ file: `x` and `y`, `images` and `labels`, or pairs `x_train` and `y_train`.

    Images are uint8, or float in [0, 1]; [n, height, width], or with 1 or 3 channels first or last.
    Labels are whole numbers or text. `class_names` is optional. Raises DataError.
    """
    with _archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        pairs = _pairs(names)
        if not pairs:
            raise DataError(
                f"{path} needs arrays 'x' and 'y' ('images' and 'labels'), or 'x_train', 'y_train', 'x_test' and "
                f"'y_test'; it contains {shortened([*map(quoted, names)], 12) or 'none'}."
            )
        labels = {split: _labels(path, archive, y) for split, (_, y) in pairs.items()}
        class_names = _class_names(path, archive) if "class_names" in names else None
    if class_names is None:
        class_names = _found_classes(path, list(labels.values()))
    index = {name: number for number, name in enumerate(class_names)}
    for split, values in labels.items():
        if values.dtype.kind == "U":
            labels[split] = np.array([index.get(value, -1) for value in values.tolist()], dtype=np.int64)
    return Source(
        name=path.stem,
        class_names=class_names,
        splits={split: partial(_split, path, x, labels[split], split) for split, (x, _) in pairs.items()},
    )


def _pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Split -> the names of its images and labels; "" where there are no splits."""
    pairs = {}
    for split in ("train", "val", "test"):
        for x, y in ((f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")):
            if x in names and y in names:
                pairs[split] = x, y
    for x, y in _WHOLE.items():
        if x in names and y in names:
            pairs["all" if pairs else ""] = x, y
    return pairs


def _split(path: Path, key: str, labels: np.ndarray, split: str) -> Split:
    with _archive(path) as archive, _array(path, archive, key) as (_, shape, dtype):
        _layout(path, key, shape)
        if not (dtype == np.uint8 or dtype.kind == "f"):
            raise DataError(
                f"{path}: '{key}' is of type {dtype}; images must be uint8 (0 to 255) or float (0 to 1). "
                f"Convert it, e.g. {key}.astype('uint8')."
            )
        if shape[0] != len(labels):
            raise DataError(f"{path}: '{key}' contains {shape[0]} images, but there are {len(labels)} labels.")
    return Split(
        ids=[f"{split or path.stem}/{row:06d}" for row in range(len(labels))],
        labels=labels,
        read=partial(_rows, path, key),
    )


def _rows(path: Path, key: str, rows: Sequence[int]) -> Iterator[Encoded]:
    """The chosen rows [c, h, w], ascending; the others are passed over and never held."""
    with _archive(path) as archive, _array(path, archive, key) as (file, shape, dtype):
        layout = _layout(path, key, shape)
        size = math.prod(shape[1:]) * dtype.itemsize
        at = 0
        for row in rows:
            file.seek((row - at) * size, 1)
            at = row + 1
            read = np.frombuffer(_taken(path, key, file, size), dtype)
            image = read.reshape(shape[1:] if len(shape) == 4 else (1, *shape[1:]))
            image = image.transpose(2, 0, 1) if layout == "last" else image
            yield image if dtype == np.uint8 else _checked(path, key, row, image)


def _checked(path: Path, key: str, row: int, image: np.ndarray) -> np.ndarray | Unreadable:
    if not np.isfinite(image).all():
        return Unreadable("contains values that are NaN or infinite")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        cause = (
            "Divide by 255."
            if low >= 0 and high <= 255
            else "Undo the normalisation: the classifier normalises its inputs itself."
        )
        raise DataError(
            f"{path}: float images must be in [0, 1]; row {row} of '{key}' is in [{low:.4g}, {high:.4g}]. {cause}"
        )
    return image.astype(np.float32)


def _layout(path: Path, key: str, shape: tuple[int, ...]) -> str:
    """Where the channels are: "none", "first" or "last". Raises DataError where that cannot be told."""
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if min(shape, default=0) < 1 or not (len(shape) == 3 or first or last):
        raise DataError(
            f"{path}: '{key}' has shape {shape}. Images must be [n, height, width], [n, channels, height, "
            "width] or [n, height, width, channels] with 1 or 3 channels."
        )
    if first and last:
        raise DataError(
            f"{path}: '{key}' has shape {shape}: its channels may be first or last. Save grey images as [n, "
            "height, width]; otherwise pad or crop the images so that only one axis has length 1 or 3."
        )
    return "first" if first else "last" if last else "none"


def _labels(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    values = _whole(path, archive, key)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: '{key}' is {values.dtype} of shape {values.shape}; labels must be integers or text, "
            "one per image. (For one-hot rows, save their argmax.)"
        )
    return values if values.dtype.kind == "U" else values.astype(np.int64)


def _class_names(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    values = _whole(path, archive, "class_names")
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataError(f"{path}: 'class_names' must be a list of strings, not {values.dtype} of shape {values.shape}.")
    names = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in values.tolist()]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: 'class_names' contains a class twice.")
    return tuple(names)


def _found_classes(path: Path, labels: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Class names from the labels of all splits: the texts sorted, or the numbers from 0."""
    texts = {values.dtype.kind == "U" for values in labels}
    if texts == {True}:
        return tuple(sorted({value for values in labels for value in values.tolist()}))
    if texts == {True, False}:
        raise DataError(f"{path}: the labels of one split are text, but those of another are numbers.")
    return numbered(str(path), max((int(values.max()) for values in labels if len(values)), default=0))


def numbered(name: str, highest: int) -> tuple[str, ...]:
    """Names "0", "1", ... for classes known by number only. Raises DataError for numbers that cannot be classes."""
    if highest >= 1_000_000:
        raise DataError(f"{name}: labels go up to {highest}; they must be class indices counted from 0.")
    return tuple(map(str, range(highest + 1)))


# -- one array of an archive ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{path} is damaged or not an NPZ archive: {error}.") from None


@contextlib.contextmanager
def _array(path: Path, archive: zipfile.ZipFile, key: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """An array's data as an open file, its shape and its type. Raises DataError unless its length is as it says."""
    member = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.namelist() else key)
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
        except MemoryError:
            raise
        except Exception as error:  # NumPy's parser raises whatever a damaged header makes it trip over
            raise DataError(f"{path}: '{key}' is not an array: {error}") from None
        if dtype.hasobject or dtype.fields is not None:
            raise DataError(
                f"{path}: '{key}' contains Python objects or records. Loading those could run code, so it is "
                "refused: save numbers or plain text, e.g. numpy.array(labels, dtype=str)."
            )
        if fortran and len(shape) > 1:
            raise DataError(f"{path}: '{key}' is stored in column-major order; save numpy.ascontiguousarray({key}).")
        need = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or not dtype.itemsize:
            raise DataError(f"{path}: '{key}' is damaged: no array of shape {shape} and type {dtype} is possible.")
        if (size := member.file_size - file.tell()) != need:
            raise DataError(f"{path}: '{key}' is damaged: expected {need} bytes, found {size}.")
        yield file, shape, dtype


def _whole(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """A small array, all of it."""
    with _array(path, archive, key) as (file, shape, dtype):
        need = math.prod(shape) * dtype.itemsize
        if need > _LARGEST_LABELS or max(shape, default=0) > _MOST_LABELS:
            raise DataError(
                f"{path}: '{key}' contains {math.prod(shape):,} values in {need:,} bytes; the limit is "
                f"{_MOST_LABELS:,} labels."
            )
        return np.frombuffer(_taken(path, key, file, need), dtype).reshape(shape)


def _taken(path: Path, key: str, file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise DataError(f"{path}: '{key}' ends too early; the file is damaged.")
    return data
