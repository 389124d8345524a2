"""One owner: a folder that is written into belongs to one process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from advex.documents import read_json
from advex.errors import AdvexWarning, ArtifactError, quoted
from advex.files import LOCK, maker_of, writing
from advex.progress import command_line

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BEYOND = 2**30  # bytes: what Windows locks cannot be read, and who holds the lock shall be
_owned: dict[tuple[int, int], int] = {}  # folders (device, inode) that this process owns: the thread that does


@contextlib.contextmanager
def owned(folder: Path, ours: Sequence[str] | None = None) -> Iterator[Path]:
    """A folder to write into, made where it is not there: no other process has it until the block ends.

    The lock is the system's and ends with its process, whatever ends that; the file `.in-use` says whose it is. What a
    process that died had left unfinished is removed. The thread that owns a folder may own it once more, and so may
    processes forked from it. ours: names by which such a folder is known; where the block fails and has left none of
    them, `.in-use` stays, by which the folder is known, too.

    Raises ArtifactError where another process, or thread, has the folder, and where it cannot be written. Warns on
    file systems without locks.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.stat()
    key, thread = (place.st_dev, place.st_ino), threading.get_ident()
    if key in _owned:
        if _owned[key] != thread:
            raise ArtifactError(_in_use(folder, "another thread of this process"))
        yield folder
        return
    with writing(folder):
        lock = _locked(folder)
    process, failed = os.getpid(), True
    _owned[key] = thread
    try:
        with writing(folder):
            os.ftruncate(lock, 0)
            os.write(lock, _about_this_process())
            _remove_unfinished(folder)
        yield folder
        failed = False
    finally:
        if os.getpid() == process:
            del _owned[key]
            names = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
            _unlocked(folder, lock, keep=failed and ours is not None and bool(names) and names.isdisjoint(ours))
            for path in made:
                with contextlib.suppress(OSError):  # something is in it
                    path.rmdir()


def _about_this_process() -> bytes:
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": command_line()}
    return json.dumps(about).encode()


def _in_use(folder: Path, by: str) -> str:
    return f"{folder} is in use by {by}: wait until it has ended, or choose another --out."


def _locked(folder: Path) -> int:
    """The descriptor of the folder's lock, which is this process's now. Raises ArtifactError, OSError."""
    path = folder / LOCK
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                raise ArtifactError(f"{path} is not a file; take it away, or choose another --out.")
            _lock(lock, folder)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BlockingIOError:
            by = _owner(path)
            os.close(lock)
            raise ArtifactError(_in_use(folder, by)) from None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its last owner has just removed it


def _lock(lock: int, folder: Path) -> None:
    """Raises BlockingIOError where another process has the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(lock, _BEYOND, os.SEEK_SET)
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
            os.lseek(lock, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError:  # how Windows says it
        raise BlockingIOError from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        without = f"The file system of {folder} has no locks: two commands that write into it at once are not noticed."
        warnings.warn(without, AdvexWarning, stacklevel=2)


def _unlocked(folder: Path, lock: int, *, keep: bool) -> None:
    if sys.platform == "win32":  # where no open file can be removed
        os.close(lock)
    if not keep:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
    if sys.platform != "win32":
        os.close(lock)


def _owner(path: Path) -> str:
    """Who has a lock, in words."""
    try:
        about = read_json(path, "a lock", ArtifactError, largest=2**16)
        words = {name: quoted(str(about[name]), 200)[1:-1] for name in ("process", "host", "since", "command")}
    except (ValueError, TypeError, KeyError):  # it has only just begun
        return "another process"
    return "process {process} on {host}, since {since} ({command})".format(**words)


def _remove_unfinished(folder: Path) -> None:
    for place, folders, files in os.walk(folder):  # which follows no links
        for name in [*folders, *files]:
            maker = maker_of(name)
            if maker is None or _alive(maker):
                continue
            if name in folders:
                shutil.rmtree(Path(place, name), ignore_errors=True)
            else:
                Path(place, name).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether another process of this machine has that number: one that writes a report into the folder, say."""
    if process == os.getpid() or sys.platform == "win32":  # where asking would end it
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
