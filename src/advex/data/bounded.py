"""Small files that say something about a data set: read whole, and never a huge one by mistake."""

from __future__ import annotations

from pathlib import Path

from advex.errors import DataError


def read_bytes(path: Path, largest: int, what: str) -> bytes:
    """A file of at most `largest` bytes. what: it should be, e.g. "a table of answers". Raises DataError."""
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > largest:
        raise DataError(f"{path} is longer than {largest:,} bytes; {what} is never that large.")
    return data
