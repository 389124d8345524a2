"""A verb as one of several processes (`torchrun`): all of them work, the first alone speaks."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec

from advex.cli import terminal
from advex.errors import SpecError

P = ParamSpec("P")

# Where one process ends, torchrun ends the others. Who has nothing to say leaves the first word to the one
# that has, for so many seconds.
_GRACE = 10.0


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """A command that all processes of a run carry out together; it takes `device`. Of those that fail one says why."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from advex import processes

        if processes.started() == 1:
            function(*args, **kwargs)
            return
        try:
            with processes.joined(str(kwargs["device"])) as device, _silent(processes.rank() > 0), _unhurried():
                function(*args, **{**kwargs, "device": device})  # pyright: ignore[reportCallIssue]
        except processes.Followed as followed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_GRACE)
            sys.exit(terminal.USAGE if isinstance(followed.__cause__, SpecError) else terminal.FAILED)

    return run


@contextlib.contextmanager
def _silent(silent: bool) -> Iterator[None]:
    if not silent:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """What fails inside is not killed by torchrun for another's failure before it could say why."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def command_line(*without: str) -> str:
    """What was typed, to be typed again, with `torchrun` before it if that has started this process."""
    typed, machines = terminal.command_line(*without), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if machines > 1:  # where they meet is not known here
        met = f"--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT --rdzv-id={os.environ.get('TORCHELASTIC_RUN_ID', 'ID')}"
        return f"torchrun --nnodes={machines} --nproc-per-node={here} {met} -m {typed}"
    return typed if here == "1" else f"torchrun --nproc-per-node={here} -m {typed}"


def resume_later(stop: terminal.Stop, sentence: str) -> NoReturn:
    """End, all processes alike, saying what was kept and how to go on."""
    from advex import processes

    stop.signal = int(processes.largest(stop.signal))  # it may have come to another one alone
    again = command_line("--no-resume", "--overwrite")
    print(f"{sentence}\nresume with: {again}", file=sys.stderr, flush=True)
    processes.wait()  # where one ends, torchrun ends the others
    sys.exit(stop.code)
