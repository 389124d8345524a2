"""Files: written whole or not at all, read up to a limit."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from advex.errors import AdvexError, ArtifactError, DataError

_UNFINISHED = ".new"


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `atomic` had not finished when its process ended."""
    return name.startswith(".") and name.endswith(_UNFINISHED)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file written there takes its place when the block ends well.

    Its bytes are on the disk before it does, and two processes never share a temporary name. Where the block fails,
    what was there is kept and the temporary file is removed. Raises ArtifactError when the disk does not take it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid():x}{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.strerror or error}. What was there is kept.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all. Raises ArtifactError."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file completely or not at all. Raises ArtifactError."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def read_bytes(path: Path, largest: int, what: str, error: type[AdvexError] = DataError) -> bytes:
    """A file of at most `largest` bytes. what: it should be, e.g. "a table of answers". Raises `error`."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise error(f"{path} is not a file.")
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}.") from None
    if len(data) > largest:
        raise error(f"{path} is longer than {largest:,} bytes; {what} is never that large.")
    return data
