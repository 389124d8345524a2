"""A verb as one of several processes (`torchrun`): all of them work, the first alone speaks."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec

from advex.cli import terminal
from advex.progress import Interrupted

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
            with processes.joined(str(kwargs["device"])) as device, _unhurried():
                try:
                    function(*args, **{**kwargs, "device": device})  # pyright: ignore[reportCallIssue]
                except Interrupted as interrupted:
                    terminal.resume_later(interrupted)
        except processes.Followed as followed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_GRACE)
            sys.exit(terminal.code_of(followed.__cause__))

    return run


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """What fails inside is not killed by torchrun for another's failure before it could say why."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
