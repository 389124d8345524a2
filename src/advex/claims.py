"""Pieces of a folder that copies of one command share: each is claimed by one of them, and waited for by the others."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from advex.errors import ArtifactError
from advex.files import HOST, writing
from advex.ownership import PATIENCE, changed_within, is_alive, lock_of, unlocked
from advex.progress import waits

_LOOK = 0.2  # seconds between two looks at what another process has
_RENEWAL, _STALE = 10.0, 120.0  # seconds between renewals of a claim, and since the last of one that is given up


@contextlib.contextmanager
def claimed(folder: Path, name: str, *, fresh: bool = False, once: bool = False) -> Iterator[bool]:
    """Whether this process, of those that share a folder, has `name` for itself until the block ends; does not wait.

    The claim is a lock of the system's on a file `.NAME.lock`, and ends with its process. True, too, where the file
    system has no locks, or they fail: what is claimed may be done twice, and must bear it. fresh: not what another has
    claimed, as the file says, even if that has died since: then nothing is done twice. once: of what cannot bear it;
    the file then says who has it, and has it as long as it lives, on another machine as long as it renews the file.
    Raises ArtifactError.
    """
    path = folder / f".{name}.lock"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _claim(path, fresh, once)
        except (BlockingIOError, FileExistsError):
            lock = None
    try:
        with _renewing(path) if lock is not None and once else contextlib.nullcontext():
            yield lock is not None
    finally:
        if lock is not None:
            unlocked(path, lock, keep=False)


def _claim(path: Path, fresh: bool, once: bool) -> int:
    """The descriptor of a claim. Raises BlockingIOError, or FileExistsError, where it is another's."""
    if not once:
        return lock_of(path, fresh=fresh)[0]
    try:
        lock, _ = lock_of(path, fresh=True)
    except FileExistsError:
        if fresh:
            raise
        lock, locked = lock_of(path)
        if _elsewhere(path, lock, locked):
            os.close(lock)
            raise BlockingIOError from None
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, f"{HOST} {os.getpid()}".encode())
    return lock


def _elsewhere(path: Path, lock: int, locked: bool) -> bool:
    """Whether a process has what is to be done once, though its lock cannot be seen from here."""
    host, _, process = os.read(lock, 100).decode("ascii", "replace").partition(" ")
    if host != HOST:
        return bool(host) and changed_within(path, _STALE)
    return not locked and process.isdecimal() and is_alive(int(process))


@contextlib.contextmanager
def _renewing(path: Path) -> Iterator[None]:
    """Inside, a file is renewed again and again."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEWAL):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Wait:
    """Called between two looks at what another process is at: sleeps a little, and says after a while for what."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        if seconds >= PATIENCE:
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
        lock, locked = lock_of(path)
        elsewhere = _elsewhere(path, lock, locked)
    except (OSError, ArtifactError):  # another process has it
        return False
    unlocked(path, lock, keep=elsewhere)
    return locked and not elsewhere


def forget_claims(folder: Path) -> None:
    """Take away the files of claims that no process has, or all without locks. Who waits for one makes it anew."""
    for path in folder.glob(".*.lock"):
        unclaimed(folder, path.name.removeprefix(".").removesuffix(".lock"))
