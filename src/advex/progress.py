"""What a long loop says, and how it is stopped: progress on stderr, signals, and how to go on later."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

from advex.errors import visible

PERIOD = 5.0  # seconds between plain progress lines
_BEAT = 0.5  # seconds between two looks at how many passes a network has made
_BESIDE, _BELOW = 44, 98  # of 100 columns: beside a bar, or on lines of their own


def plain(stream: Any) -> bool:
    """Whether a stream must stay free of colours and moving bars."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not stream.isatty()


_called: ContextVar[str | None] = ContextVar("called", default=None)


@contextlib.contextmanager
def called(text: str) -> Iterator[None]:
    """Inside, `command_line` is this text: a call from Python, where nothing was typed."""
    token = _called.set(text)
    try:
        yield
    finally:
        _called.reset(token)


def command_line(*without: str) -> str:
    """What was typed, to be typed again, less some flags; after `torchrun` where that has started this process.

    The passwords of URLs are left out: it is kept in files and shown to others. Inside `called` it is that text.
    """
    if (text := _called.get()) is not None:
        return text
    typed = shlex.join(["advex", *[without_password(word) for word in sys.argv[1:] if word not in without]])
    machines, here = int(os.environ.get("GROUP_WORLD_SIZE", "1")), os.environ.get("LOCAL_WORLD_SIZE", "1")
    if machines > 1:  # where they meet is not known here
        met = f"--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT --rdzv-id={os.environ.get('TORCHELASTIC_RUN_ID', 'ID')}"
        return f"torchrun --nnodes={machines} --nproc-per-node={here} {met} -m {typed}"
    return typed if here == "1" else f"torchrun --nproc-per-node={here} -m {typed}"


def without_password(word: str) -> str:
    """A word of a command line in which stars stand for the password of a URL.

    >>> without_password("--database=postgresql://me:p:a@ss/w@host/name?sslpassword=x&port=1")
    '--database=postgresql://me:***@host/name?sslpassword=***&port=1'
    """
    word = re.sub(r"(://[^/:@]*:).*@", r"\1***@", word, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", r"\1***", word, flags=re.DOTALL | re.IGNORECASE)


def number_in(*names: str) -> int:
    """The largest number that these variables of the environment hold; 0 where they hold none."""
    return max(int(value) if (value := os.environ.get(name, "")).isdecimal() else 0 for name in names)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Inside, of processes that speak into one terminal (torchrun's, srun's) all but the first are silent."""
    if not number_in("RANK", "SLURM_PROCID"):
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


# -- progress ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """How much to say on stderr."""

    quiet: bool = False

    def note(self, sentence: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            print(visible(sentence), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, *, brief: bool = False) -> Iterator[Callable[..., None]]:
        """A callable (done, total, *texts, what=None) that shows how far a long loop is, with the time left.

        A bar on a terminal; one plain line every few seconds elsewhere; nothing when quiet. texts: more about it, each
        on lines of its own. A new `what` begins anew. brief: no line for a loop that is over within a few seconds.
        Between two calls the passes of networks are told, so that also a long step shows that it goes on.
        """
        if self.quiet:
            yield lambda done, total, *texts, what=None: None
        elif plain(sys.stderr):
            lines = _Lines(what)
            with _alive(lines) as show:
                yield show
            if lines.spoke or not brief:
                lines.finish()
        else:
            with _bar(what) as bar, _alive(bar) as show:
                yield show


def _of(done: int, total: int) -> str:
    """How much of how much is done; nothing before that is known."""
    return f"{done}/{total}" if total else ""


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(visible(text), width, break_on_hyphens=False)]


@contextlib.contextmanager
def _alive(bar: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """The same bar, which now and then says again what it said last, with the passes of networks so far."""
    said: tuple[Any, ...] = (0, 0)
    passes, last = 0, time.monotonic()

    def show(*args: Any, what: str | None = None) -> None:
        nonlocal said, last
        said, last = args, time.monotonic()
        bar(*args, what=what)

    def tick() -> None:
        nonlocal passes, last
        passes += 1
        if time.monotonic() - last >= _BEAT:
            last = time.monotonic()
            bar(*said, f"{passes:,} passes of the network")

    with each_pass(tick):
        yield show


QUIET = Terminal(quiet=True)  # what library calls say unless they are given another


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task(visible(what), total=None, count="", text="")
        shown = what

        def show(done: int, total: int, *texts: str, what: str | None = None) -> None:
            nonlocal shown
            if what not in (None, shown):
                shown = what
                progress.reset(task, description=visible(what))
            count, text = _of(done, total), "\n".join(_wrapped(texts, _BESIDE))
            progress.update(task, completed=done, total=total or None, count=count, text=text)

        yield show


class _Lines:
    """The same as plain lines, one every few seconds, and the last."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = self.shown = time.monotonic()
        self.spoke = False
        self.first: int | None = None
        self.pending: str | None = None

    def __call__(self, done: int, total: int, *texts: str, what: str | None = None) -> None:
        now = time.monotonic()
        if what not in (None, self.what):
            self.what, self.began, self.first = what, now, None
        self.first = done if self.first is None else self.first
        left = ""
        if done > self.first and done < total:
            seconds = round((now - self.began) * (total - done) / (done - self.first))
            left = f", {seconds // 60}:{seconds % 60:02d} left"
        text = "\n  ".join(_wrapped(texts, _BELOW))
        share = f"{_of(done, total)} ({100 * done // total} %){left}" if total else ""
        self.pending = f"{self.what}: {', '.join(part for part in (share, text) if part)}"
        if now - self.shown >= PERIOD:
            self.shown, self.spoke = now, True
            self.finish()

    def finish(self) -> None:
        if self.pending is not None:
            print(visible(self.pending), file=sys.stderr, flush=True)
            self.pending = None


# -- stopping ----------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """A long loop was asked to stop. What it had finished is kept, and the same call goes on from there.

    signal: the number of the signal that asked for it; 0 where the caller did.
    """

    signal: int = 0


class Stop:
    """True once SIGINT or SIGTERM came: long loops ask after each step and keep what they have."""

    signal: int = 0

    def __call__(self) -> bool:
        return self.signal != 0


class Stopped(BaseException):
    """Raised between two passes of a network, once a caller is no longer waiting: see `each_pass`."""


_listener: ContextVar[Callable[[], None]] = ContextVar("listener", default=lambda: None)


@contextlib.contextmanager
def each_pass(tick: Callable[[], None]) -> Iterator[None]:
    """Inside, `tick` is called before every forward pass of any classifier in this thread, and once at the beginning.

    It may say how far a long computation is, or raise Stopped to end it. What listens outside is called, too.
    """
    outside = _listener.get()

    def both() -> None:
        outside()
        tick()

    token = _listener.set(both)
    try:
        tick()
        yield
    finally:
        _listener.reset(token)


def beat() -> None:
    """Said by a classifier before a pass of its network: see `each_pass`."""
    _listener.get()()


@contextlib.contextmanager
def until(stop: Callable[[], bool], sentence: str) -> Iterator[None]:
    """Inside, the next pass of a network raises Interrupted with this sentence once `stop` says so."""

    def tick() -> None:
        if stop():
            raise Stopped

    try:
        with each_pass(tick):
            yield
    except Stopped:
        raise Interrupted(sentence) from None


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets the flag; the second ends at once.

    In a thread that is not the main one signals are not heard, and the flag is never set: Python allows no more.
    """
    stop = Stop()

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping at the next safe point (press again to stop at once)\n")

    heeded = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, heard) for number in heeded}
    try:
        yield stop
    except Interrupted as interrupted:
        interrupted.signal = stop.signal
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
