"""MATLAB files of level 5: their arrays of numbers, as streams. Nothing else of such a file is built.

A file is a header of 128 bytes and elements, most of them packed by zlib; an array lies column by column, so that the
last axis varies most slowly. Source: MAT-File Format, MathWorks.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from advex.errors import DataError, quoted
from advex.files import check_file

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _PACKED = 14, 15
_NUMBERS = range(6, 16)  # classes of arrays that hold plain numbers
_COMPLEX = 0x800
# Name, shape and type of an array; where it is so short that it lies in its own tag, its numbers.
_Header = tuple[str, tuple[int, ...], np.dtype, bytes | None]
_MOST_AXES, _LONGEST_NAME, _MOST_ARRAYS = 8, 256, 1000


@dataclass(frozen=True, kw_only=True)
class MatlabArray:
    """An array of numbers in a file: its shape, the type that they are stored in, and where its element begins."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    at: int

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Its numbers as a stream of bytes, column by column. Raises DataError for a damaged file."""
        with _opened(self.path) as (file, order):
            file.seek(self.at)
            kind, length = _tag(file, order)[:2]
            stream = _Inflated(file, length) if kind == _PACKED else file
            if kind == _PACKED:
                _tag(stream, order)
            header = _header(self.path, stream, order)
            small = header[3] if header is not None else None
            yield stream if small is None else io.BytesIO(small)  # pyright: ignore[reportReturnType]

    def whole(self, most: int) -> np.ndarray:
        """All of it, at most so many numbers. Raises DataError."""
        if (count := math.prod(self.shape)) > most:
            raise DataError(f"{self.path}: {quoted(self.name)} has {count:,} numbers; expected at most {most:,}.")
        with self.opened() as stream:
            data = _exactly(stream, count * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F")


def arrays(path: Path) -> dict[str, MatlabArray]:
    """The arrays of numbers in a file by name; none is decoded. Raises DataError for a file of another kind."""
    held: dict[str, MatlabArray] = {}
    with _opened(path) as (file, order):
        size = path.stat().st_size
        while len(start := file.read(8)) == 8 and len(held) < _MOST_ARRAYS:
            kind, length = struct.unpack(f"{order}II", start)
            at = file.tell()
            if at + length > size:
                raise EOFError
            if (header := _described(path, file, order, kind, length)) is not None:
                name, shape, dtype, _ = header
                held[name] = MatlabArray(path=path, name=name, shape=shape, dtype=dtype, at=at - 8)
            file.seek(at + length)
    return held


def _described(path: Path, file: IO[bytes], order: str, kind: int, length: int) -> _Header | None:
    """The header of an element, None for what is no array of numbers. kind, length: by its tag."""
    end = file.tell() + length
    if kind == _PACKED:
        stream = _Inflated(file, length)
        return _header(path, stream, order) if _tag(stream, order)[0] == _MATRIX else None
    header = _header(path, file, order) if kind == _MATRIX else None
    if header is not None and header[3] is None and file.tell() + math.prod(header[1]) * header[2].itemsize > end:
        raise EOFError
    return header


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A file after its header, and the order of its bytes."""
    check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(128)
            if start.startswith((b"MATLAB 7.3", b"\x89HDF")):
                raise DataError(
                    f"{path} is a MATLAB 7.3 file (HDF5), which is not supported. Save it again in MATLAB "
                    "with save(..., '-v7'), or use the file as published."
                )
            order = {b"IM": "<", b"MI": ">"}.get(start[126:128])
            if order is None:
                raise DataError(f"{path} is not a MATLAB file of level 5.")
            yield file, order
    except (zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {str(error) or 'it ends too early'}.") from None
    except struct.error:
        raise DataError(f"{path} is damaged: one of its elements does not have the length that it should.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def whole_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 of numbers of any type, and where [n] bool they are these very numbers (not broken, NaN or infinite)."""
    with np.errstate(invalid="ignore"):
        numbers = values.astype(np.int64)
    return numbers, numbers == values


class _Inflated:
    """What a packed element holds, unpacked as far as it is read."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.left = file, length
        self.inflater = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """At most `count` bytes; fewer at the end."""
        parts, size = [], 0
        while size < count and not self.inflater.eof:
            packed = self.inflater.unconsumed_tail or self.file.read(min(self.left, 2**16))
            self.left -= 0 if self.inflater.unconsumed_tail else len(packed)
            parts.append(self.inflater.decompress(packed, count - size))
            size += len(parts[-1])
            if not packed and not parts[-1]:
                break
        return b"".join(parts)


def _exactly(stream: IO[bytes] | _Inflated, count: int) -> bytes:
    if len(data := stream.read(count)) < count:
        raise EOFError
    return data


def _tag(stream: IO[bytes] | _Inflated, order: str) -> tuple[int, int, bytes | None]:
    """Type and length of an element; of a small one, which lies in its own tag, also its data."""
    start = _exactly(stream, 8)
    kind, length = struct.unpack(f"{order}II", start)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, start[4 : 4 + (kind >> 16)]
    return kind, length, None


def _element(stream: IO[bytes] | _Inflated, order: str, most: int) -> tuple[int, bytes]:
    """Type and data of a short element; the bytes that fill it up to eight are passed over."""
    kind, length, data = _tag(stream, order)
    if length > most:
        raise EOFError(f"an element of {length:,} bytes where at most {most} are expected")
    return kind, _exactly(stream, -(-length // 8) * 8)[:length] if data is None else data


def _header(path: Path, stream: IO[bytes] | _Inflated, order: str) -> _Header | None:
    """The stream is then at the array's numbers; None for what is no array of numbers."""
    _, flags = _element(stream, order, 8)
    (bits,) = struct.unpack(f"{order}I", flags[:4])
    if bits & 0xFF not in _NUMBERS or bits & _COMPLEX:
        return None
    _, data = _element(stream, order, 4 * _MOST_AXES)
    shape = struct.unpack(f"{order}{len(data) // 4}i", data)
    name = _element(stream, order, _LONGEST_NAME)[1].decode("latin-1")
    kind, length, small = _tag(stream, order)
    if kind not in _TYPES or min(shape, default=-1) < 0:
        raise DataError(f"{path}: {quoted(name)} is damaged: no numbers of type {kind} and shape {shape} are possible.")
    dtype = np.dtype(f"{order}{_TYPES[kind]}")
    if (need := math.prod(shape) * dtype.itemsize) != length:
        raise DataError(
            f"{path}: {quoted(name)} of shape {shape} would take {need:,} bytes, but the file gives {length:,}."
        )
    return name, shape, dtype, small
