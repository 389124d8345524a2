"""What a long loop says, and how it is stopped: progress on stderr, signals, and how to go on later."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from advex import bars
from advex.errors import visible

_BEAT = 0.5  # seconds between two looks at how many passes a network has made
_Value = TypeVar("_Value")


def plain(stream: Any) -> bool:
    """Whether a stream must stay free of colours and moving bars."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not stream.isatty()


@contextlib.contextmanager
def _held(variable: ContextVar[_Value], value: _Value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


_called: ContextVar[str | None] = ContextVar("called", default=None)


def called(text: str) -> contextlib.AbstractContextManager[None]:
    """Inside, `command_line` is this text: a call from Python, where nothing was typed."""
    return _held(_called, text)


def command_line(*without: str) -> str:
    """What was typed, to be typed again, less some flags; after `torchrun` where that has started this process.

    The passwords of URLs are left out: it is kept in files and shown to others. Inside `called` it is that text.
    """
    if (text := _called.get()) is not None:
        return text
    typed = shlex.join(["advex", *[without_password(word) for word in sys.argv[1:] if word not in without]])
    machines, here = number_in("GROUP_WORLD_SIZE"), max(number_in("LOCAL_WORLD_SIZE"), 1)
    if machines > 1:  # where they meet is not known here
        met = f"--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT --rdzv-id={os.environ.get('TORCHELASTIC_RUN_ID', 'ID')}"
        return f"torchrun --nnodes={machines} --nproc-per-node={here} {met} -m {typed}"
    return typed if here == 1 else f"torchrun --nproc-per-node={here} -m {typed}"


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


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Inside, of processes that speak into one terminal (torchrun's, srun's) all but the first are silent.

    What one of srun's tasks writes into a file is its own: srun itself reads from pipes.
    """
    if not number_in("RANK", "SLURM_PROCID"):
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as silenced:
        if number_in("RANK") or not _is_file(sys.stdout):
            silenced.enter_context(contextlib.redirect_stdout(nowhere))
        if number_in("RANK") or not _is_file(sys.stderr):
            silenced.enter_context(contextlib.redirect_stderr(nowhere))
            silenced.enter_context(_held(_silent, True))
        yield


def _is_file(stream: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, AttributeError):  # a stream of Python's alone
        return False


# -- progress ----------------------------------------------------------------------------------------------


_waits: ContextVar[Callable[[str, float], None]] = ContextVar("waits", default=lambda what, seconds: None)


def waits(what: str, seconds: float) -> None:
    """To be called again and again while this process waits for another: the bar says it, or a note (`hearing`)."""
    _waits.get()(what, seconds)


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """How much to say on stderr."""

    quiet: bool = False

    def note(self, sentence: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            print(visible(sentence), file=sys.stderr, flush=True)

    def hearing(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what this process waits for is a note, once, where no bar shows it."""
        said = set[str]()

        def note(what: str, seconds: float) -> None:
            if what not in said:
                said.add(what)
                self.note(f"waiting for {what}")

        return _held(_waits, note)

    @contextlib.contextmanager
    def progress(self, what: str, *, brief: bool = False) -> Iterator[Callable[..., None]]:
        """A callable (done, total, *texts, what=None) that shows how far a long loop is, with the time left.

        A bar on a terminal; one plain line every few seconds elsewhere; nothing when quiet. texts: more about it, each
        on lines of its own. A new `what` begins anew. brief: no line for a loop that is over within a few seconds.
        Between two calls the passes of networks are told, so that also a long step shows that it goes on, and what is
        waited for.
        """
        if self.quiet:
            yield lambda done, total, *texts, what=None: None
        elif plain(sys.stderr):
            lines = bars.Lines(what)
            with _alive(lines) as show:
                yield show
            if lines.spoke or not brief:
                lines.finish()
        else:
            with bars.bar(what) as bar, _alive(bar) as show:
                yield show


@contextlib.contextmanager
def _alive(bar: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """The same bar, which now and then says again what it said last, with the passes of networks so far or a wait."""
    said: tuple[Any, ...] = (0, 0)
    passes, last = 0, time.monotonic()

    def show(*args: Any, what: str | None = None) -> None:
        nonlocal said, last
        said, last = args, time.monotonic()
        bar(*args, what=what)

    def beside(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _BEAT:
            last = time.monotonic()
            bar(*said, text)

    def tick() -> None:
        nonlocal passes
        passes += 1
        beside(f"{passes:,} passes of the network")

    def wait(what: str, seconds: float) -> None:
        beside(f"waiting for {what}, {bars.clock(seconds)} so far")

    with each_pass(tick), _held(_waits, wait):
        yield show


QUIET = Terminal(quiet=True)  # what library calls say unless they are given another


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

    with _held(_listener, both):
        tick()
        yield


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
        if not _silent.get():  # not print: the signal may have come in the middle of one
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
