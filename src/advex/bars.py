"""How far a long loop is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence

from advex.errors import visible

PERIOD = 5.0  # seconds between plain lines
_BESIDE, _BELOW = 44, 98  # of 100 columns: beside a bar, or on lines of their own


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(125)
    '2:05'
    """
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _of(done: int, total: int) -> str:
    """How much of how much is done; nothing before that is known."""
    return f"{done}/{total}" if total else ""


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(visible(text), width, break_on_hyphens=False)]


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[..., None]]:
    """A bar on a terminal: a callable (done, total, *texts, what=None) until the block ends."""
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


class Lines:
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
            left = f", {clock((now - self.began) * (total - done) / (done - self.first))} left"
        text = "\n  ".join(_wrapped(texts, _BELOW))
        share = f"{_of(done, total)} ({100 * done // total} %){left}" if total else ""
        self.pending = f"{self.what}: {', '.join(part for part in (share, text) if part)}"
        if now - self.shown >= PERIOD:
            self.shown, self.spoke = now, True
            self.finish()

    def finish(self) -> None:
        """Print the line that is due."""
        if self.pending is not None:
            print(visible(self.pending), file=sys.stderr, flush=True)
            self.pending = None
