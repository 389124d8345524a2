"""Files: written whole or not at all, read up to a limit; which of them a process had not finished."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advex.errors import AdvexError, ArtifactError, DataError, SpecError

LOCK = ".in-use"
HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()  # stands for this machine in names
_TEMPORARY = re.compile(r"\..+\.(?P<process>[0-9a-f]+)-(?P<host>[0-9a-f]{8})?[0-9a-f]{8}\.new")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one that a process of ours had not finished when it ended."""
    return name == LOCK or _TEMPORARY.fullmatch(name) is not None


def maker_of(name: str) -> tuple[int, bool] | None:
    """The number of the process that was writing a temporary file or folder, and whether it is one of this machine;
    None for other names."""
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else (int(match["process"], 16), match["host"] in (HOST, None))


def at_home(path: str | Path) -> Path:
    """The path with `~` and `~user` as folders; as it stands where that user is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def as_path(given: Any, what: str) -> Path:
    """A path as it is given. what: stands there, for the SpecError about what is none."""
    if not isinstance(given, str | os.PathLike):
        raise SpecError(f"{what} must be a name or a path, not {type(given).__name__}.")
    return Path(given)


# -- writing -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk inside, or whatever else keeps a file from being written, as a sentence (ArtifactError)."""
    try:
        yield
    except OSError as error:
        room = ": free some space and run the same command again to resume" if error.errno in _FULL else ""
        kept = ". The previous contents are kept" if os.path.exists(path) else ""  # which raises for no path
        raise ArtifactError(f"{path} cannot be written: {error.strerror or error}{kept}{room}.") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file written there takes its place when the block ends well.

    Its bytes are on the disk before it does, and two processes never share a temporary name. Where the block fails,
    what was there is kept and the temporary file is removed. Raises ArtifactError when the disk does not take it.
    """
    temporary = beside(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _on_the_disk(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic`, of a folder with files, at a place where nothing is yet."""
    temporary = beside(path)
    try:
        with writing(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                _on_the_disk(file)
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all. Raises ArtifactError."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_new(path: Path, text: str) -> None:
    """As `write_text`, unless another process has just written the file: then that one stays. Raises ArtifactError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        try:
            temporary.write_text(text, encoding="utf-8", newline="")
            _on_the_disk(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # no links on this file system
                os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file completely or not at all. Raises ArtifactError."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def beside(path: Path) -> Path:
    """A temporary name in the same folder that no other process makes, on no other host: see `is_temporary`."""
    return path.with_name(f".{path.name}.{os.getpid():x}-{HOST}{secrets.token_hex(4)}.new")


def _on_the_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


# -- reading -------------------------------------------------------------------------------------------------


def check_file(path: Path, error: type[AdvexError] = DataError) -> None:
    """Raise `error` for a pipe, which would be waited for, a device, which may never end, and for a folder."""
    if path.exists() and not path.is_file():
        raise error(f"{path} is not a file.")


def read_bytes(path: Path, largest: int, what: str, error: type[AdvexError] = DataError) -> bytes:
    """A file of at most `largest` bytes. what: it should be, e.g. "a table of answers". Raises `error`."""
    try:
        check_file(path, error)
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}.") from None
    if len(data) > largest:
        raise error(f"{path} is larger than {largest:,} bytes, the limit for {what}.")
    return data
