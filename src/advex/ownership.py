"""One owner: a folder that is written into belongs to one process at a time, or to copies of one command."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from datetime import datetime
from pathlib import Path

from advex.documents import read_json
from advex.errors import AdvexWarning, ArtifactError, quoted
from advex.files import LOCK, maker_of, writing
from advex.progress import command_line

_BEYOND = 2**30  # bytes: what Windows locks cannot be read, and who holds the lock shall be
PATIENCE = 2.0  # seconds that a copy waits for another that is just leaving, and silently for anything
_FORGOTTEN = 86_400.0  # seconds after which another machine is no longer at a file
_owned: dict[tuple[int, int], int] = {}  # folders (device, inode) that this process owns: the thread that does


@contextlib.contextmanager
def owned(folder: Path, ours: Sequence[str] | None = None, *, shared: bool = False) -> Iterator[Path]:
    """A folder to write into, made where it is not there: no other process has it until the block ends.

    The lock is the system's and ends with its process, whatever ends that; the file `.in-use` says whose it is. What a
    process that died had left unfinished is removed. The thread that owns a folder may own it once more, and so may
    processes forked from it. ours: names by which such a folder is known; where the block fails and has left none of
    them, `.in-use` stays, by which the folder is known, too.

    shared: processes that all say so own it together. What they do in it they must agree on and divide themselves: see
    `evaluation.shards`. (On Windows, whose locks are of one process alone, the second is refused.)

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
        lock = _locked(folder, shared)
    process, failed = os.getpid(), True
    _owned[key] = thread
    try:
        with writing(folder):
            os.ftruncate(lock, 0)
            os.write(lock, _about_this_process(shared))
            if not shared:
                _remove_unfinished(folder)
        yield folder
        failed = False
    finally:
        if os.getpid() == process:
            del _owned[key]
            names = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
            last = not shared or _alone(lock, folder)
            if shared and last:
                _remove_unfinished(folder)
            unlocked(folder / LOCK, lock, keep=not last or (failed and _unknown(names, ours)))
            for path in made:
                with contextlib.suppress(OSError):  # something is in it
                    path.rmdir()


def _unknown(names: Set[str], ours: Sequence[str] | None) -> bool:
    """Whether a folder holds something, but nothing by which it is known as ours."""
    return ours is not None and bool(names) and names.isdisjoint(ours)


def _about_this_process(shared: bool) -> bytes:
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": command_line()}
    about |= {"shared": True} if shared else {}
    return json.dumps(about).encode()


def _in_use(folder: Path, by: str) -> str:
    return f"{folder} is in use by {by}: wait until it has ended, or choose another folder."


def _locked(folder: Path, shared: bool) -> int:
    """The descriptor of the folder's lock, which is this process's now. Raises ArtifactError, OSError."""
    until = time.monotonic() + (PATIENCE if shared else 0.0)
    while True:
        try:
            lock, locked = lock_of(folder / LOCK, shared)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise ArtifactError(_in_use(folder, _owner(folder / LOCK))) from None
            time.sleep(PATIENCE / 40)
            continue
        if not locked:
            without = (
                f"The file system of {folder} has no locks: two commands that write to it at the same time "
                "are not detected."
            )
            warnings.warn(without, AdvexWarning, stacklevel=2)
        return lock


def lock_of(path: Path, shared: bool = False, fresh: bool = False) -> tuple[int, bool]:
    """The descriptor of a lock's file, which is made, and whether the file system has locks.

    Raises BlockingIOError where another process has the lock, ArtifactError where something else lies there, OSError;
    FileExistsError where the file is there and shall be fresh.
    """
    while True:
        made = os.O_CREAT | (os.O_EXCL if fresh else 0)
        lock = os.open(path, os.O_RDWR | made | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                raise ArtifactError(f"{path} is not a file; remove it, or choose another folder.")
            locked = _taken(lock, path.parent, shared)
            if _in_place(path, lock):
                return lock, locked
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its last owner has just removed it


def _in_place(path: Path, lock: int) -> bool:
    """Whether a lock's file is still in its place, and not another one's."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False


def _taken(lock: int, folder: Path, shared: bool) -> bool:
    """Take a lock of a file in a folder; False where the file system has none, or they fail, by whatever error.

    Raises BlockingIOError where another process has it.
    """
    try:
        _flock(lock, shared)
    except BlockingIOError:
        raise
    except PermissionError:  # how Windows and network drives of Windows say it
        if sys.platform == "win32" or _lockable(folder):
            raise BlockingIOError from None
        return False
    except OSError:
        return False
    return True


def _flock(lock: int, shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(lock, _BEYOND, os.SEEK_SET)
        msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        os.lseek(lock, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@functools.cache
def _lockable(folder: Path) -> bool:
    """Whether files in a folder can be locked: a new one, which no other process knows. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            _flock(file.fileno(), shared=False)
        except OSError:
            return False
    return True


def _alone(lock: int, folder: Path) -> bool:
    """Whether no other process shares the lock, which is this one's alone then."""
    try:
        return sys.platform == "win32" or _taken(lock, folder, shared=False)
    except OSError:
        return False


def unlocked(path: Path, lock: int, *, keep: bool) -> None:
    """Give a lock back, and take its file away unless that is kept."""
    ours = False
    with contextlib.suppress(OSError):
        ours = not keep and _in_place(path, lock)
    if sys.platform == "win32":  # where no open file can be removed
        os.close(lock)
    if ours:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    if sys.platform != "win32":
        os.close(lock)


def _owner(path: Path) -> str:
    """Who has a lock, in words."""
    try:
        about = read_json(path, "a lock", ArtifactError, largest=2**16)
        words = {name: quoted(str(about[name]), 200)[1:-1] for name in ("process", "host", "since", "command")}
    except (ValueError, TypeError, KeyError):  # it has only just begun
        return "another process"
    copies = "copies of one command, the last of them " if about.get("shared") else ""
    return copies + "process {process} on {host}, since {since} ({command})".format(**words)


def _remove_unfinished(folder: Path) -> None:
    for place, folders, files in os.walk(folder):  # which follows no links
        for name in [*folders, *files]:
            path, maker = Path(place, name), maker_of(name)
            if maker is None or (is_alive(maker[0]) if maker[1] else changed_within(path, _FORGOTTEN)):
                continue
            if name in folders:
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
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


def changed_within(path: Path, within: float) -> bool:
    """Whether a file or folder was changed within so many seconds, by the clock of its file system."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as now:
            return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime < within
    except OSError:
        return False
