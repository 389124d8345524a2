"""What a verb says and how it ends: data on stdout, progress and errors on stderr, exit codes, signals.

Exit codes: 0 done, 1 failed, 2 asked for something that does not exist, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, ParamSpec

from advex.errors import AdvexError, AdvexWarning, SpecError

P = ParamSpec("P")

FAILED, USAGE, INTERRUPTED = 1, 2, 130
PERIOD = 5.0  # seconds between plain progress lines


def plain(stream: Any) -> bool:
    """Whether a stream must stay free of colours and moving bars."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not stream.isatty()


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """A command whose failures are one line on stderr and an exit code; with `verbose` also the traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with _warnings_in_one_line():
            try:
                function(*args, **kwargs)
            except BrokenPipeError:
                raise  # the reader of our output has left: no failure of ours
            except KeyboardInterrupt:
                fail("interrupted.", INTERRUPTED)
            except (AdvexError, OSError) as error:
                if kwargs.get("verbose"):
                    import traceback

                    traceback.print_exc()
                fail(str(error), USAGE if isinstance(error, SpecError) else FAILED)

    return run


def fail(sentence: str, code: int = FAILED) -> NoReturn:
    """End with one line on stderr."""
    print(f"error: {_one_line(sentence)}", file=sys.stderr)
    sys.exit(code)


def _one_line(text: object) -> str:
    """Text without line breaks, and without the control characters that names of files may hold."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(str(text).split()))


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    before = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if issubclass(category, AdvexWarning):
            print(f"warning: {_one_line(message)}", file=sys.stderr)
        else:
            before(message, category, filename, lineno, *rest)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


# -- saying ------------------------------------------------------------------------------------------------


def emit(text: str) -> None:
    """Data, on stdout."""
    print(text, flush=True)


def emit_json(value: Any) -> None:
    """Strict JSON on stdout: no NaN, no infinity."""
    emit(json.dumps(value, allow_nan=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout; without a terminal as plain columns of any width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_plain = plain(sys.stdout)
    console = Console(file=sys.stdout, force_terminal=False if is_plain else None, width=1000 if is_plain else None)
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*[Text(cell) for cell in row])  # Text: brackets in a user's names are not markup
    with console.capture() as captured:
        console.print(drawn)
    emit("\n".join(line.rstrip() for line in captured.get().splitlines()))


def command_line(*without: str) -> str:
    """What was typed, to be typed again, less some flags."""
    return shlex.join(["advex", *[word for word in sys.argv[1:] if word not in without]])


# -- progress ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """How much to say on stderr."""

    quiet: bool = False

    def note(self, sentence: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            print(sentence, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, *, brief: bool = False) -> Iterator[Callable[..., None]]:
        """A callable (done, total, text="", what=None) that shows how far a long loop is, with the time left.

        A bar on a terminal; one plain line every few seconds elsewhere; nothing when quiet. A new `what`
        begins anew. brief: no line for a loop that is over within a few seconds.
        """
        if self.quiet:
            yield lambda done, total, text="", what=None: None
        elif plain(sys.stderr):
            lines = _Lines(what)
            yield lines
            if lines.spoke or not brief:
                lines.finish()
        else:
            with _bar(what) as bar:
                yield bar


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task(what, total=None, text="")
        shown = what

        def show(done: int, total: int, text: str = "", what: str | None = None) -> None:
            nonlocal shown
            if what not in (None, shown):
                shown = what
                progress.reset(task, description=what)
            progress.update(task, completed=done, total=total, text=text)

        yield show


class _Lines:
    """The same as plain lines, one every few seconds, and the last."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = self.shown = time.monotonic()
        self.spoke = False
        self.first: int | None = None
        self.pending: str | None = None

    def __call__(self, done: int, total: int, text: str = "", what: str | None = None) -> None:
        now = time.monotonic()
        if what not in (None, self.what):
            self.what, self.began, self.first = what, now, None
        self.first = done if self.first is None else self.first
        left = ""
        if done > self.first and done < total:
            seconds = round((now - self.began) * (total - done) / (done - self.first))
            left = f", {seconds // 60}:{seconds % 60:02d} left"
        share = f" ({100 * done // total} %)" if total else ""
        self.pending = f"{self.what}: {done}/{total}{share}{left}{', ' if text else ''}{text}"
        if now - self.shown >= PERIOD:
            self.shown, self.spoke = now, True
            self.finish()

    def finish(self) -> None:
        if self.pending is not None:
            print(self.pending, file=sys.stderr, flush=True)
            self.pending = None


# -- stopping ----------------------------------------------------------------------------------------------


class Stop:
    """True once SIGINT or SIGTERM came: long loops ask after each step and keep what they have."""

    signal: int = 0

    def __call__(self) -> bool:
        return self.signal != 0

    @property
    def code(self) -> int:
        """The exit code that says which signal it was."""
        return 128 + self.signal

    def resume_later(self, sentence: str) -> NoReturn:
        """End, saying what was kept and how to go on."""
        print(f"{sentence}\nresume with: {command_line('--no-resume', '--overwrite')}", file=sys.stderr, flush=True)
        sys.exit(self.code)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets the flag; the second ends at once."""
    stop = Stop()

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping at the next safe point (again: at once)\n")

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
