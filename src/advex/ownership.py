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
from collections.abc import Callable, Iterator, Sequence, Set
from datetime import datetime
from pathlib import Path

from advex.documents import read_json
from advex.errors import AdvexWarning, ArtifactError, quoted
from advex.files import LOCK, maker_of, writing
from advex.progress import command_line, waits

_BEYOND = 2**30  # bytes: what Windows locks cannot be read, and who holds the lock shall be
_LOOK = 0.2  # seconds between two looks at what another process has
_PATIENCE = 2.0  # seconds that a copy waits for another that is just leaving, and silently for anything
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
            _unlocked(folder / LOCK, lock, keep=not last or (failed and _unknown(names, ours)))
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
    until = time.monotonic() + (_PATIENCE if shared else 0.0)
    while True:
        try:
            lock, locked = _lock(folder / LOCK, shared)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise ArtifactError(_in_use(folder, _owner(folder / LOCK))) from None
            time.sleep(_PATIENCE / 40)
            continue
        if not locked:
            without = (
                f"The file system of {folder} has no locks: two commands that write to it at the same time "
                "are not detected."
            )
            warnings.warn(without, AdvexWarning, stacklevel=2)
        return lock


def _lock(path: Path, shared: bool = False, fresh: bool = False) -> tuple[int, bool]:
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


def _unlocked(path: Path, lock: int, *, keep: bool) -> None:
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


# -- pieces of it --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(folder: Path, name: str, *, fresh: bool = False) -> Iterator[bool]:
    """Whether this process, of those that share a folder, has `name` for itself until the block ends; does not wait.

    The claim is a lock of the system's on a file `.NAME.lock`, and ends with its process. True, too, where the file
    system has no locks, or they fail: what is claimed may be done twice, and must bear it. fresh: not what another has
    claimed, as the file says, even if that has died since: then nothing is done twice. Raises ArtifactError.
    """
    path = folder / f".{name}.lock"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock, _ = _lock(path, fresh=fresh)
        except (BlockingIOError, FileExistsError):
            lock = None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _unlocked(path, lock, keep=False)


class Wait:
    """Called between two looks at what another process is at: sleeps a little, and says after a while for what."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        if seconds >= _PATIENCE:
            waits(what, seconds)
        time.sleep(_LOOK)


@contextlib.contextmanager
def in_turn(
    folder: Path, name: str, between: Callable[[], None] = lambda: None, *, what: str = "another process"
) -> Iterator[None]:
    """As `claimed`, and waits for it. between: called between two looks; what it raises ends the waiting.

    what: is waited for, as it is said.
    """
    wait = Wait()
    while True:
        with claimed(folder, name) as ours:
            if ours:
                yield
                return
        between()
        wait(what)


def unclaimed(folder: Path, name: str) -> bool:
    """Whether no process has claimed `name`, as far as the file system has locks to tell. A claim's file is removed."""
    path = folder / f".{name}.lock"
    try:
        lock, locked = _lock(path)
    except (OSError, ArtifactError):  # another process has it
        return False
    _unlocked(path, lock, keep=False)
    return locked


def forget_claims(folder: Path) -> None:
    """Take away the files of claims that no process has, or all without locks. Who waits for one makes it anew."""
    for path in folder.glob(".*.lock"):
        unclaimed(folder, path.name.removeprefix(".").removesuffix(".lock"))
