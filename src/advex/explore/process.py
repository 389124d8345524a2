"""The process that computes. One thread asks the model; the other answers what is quick. It ends with its server."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from advex.errors import AdvexError
from advex.explore.requests import Load, Refusal, superseded
from advex.progress import Stopped

THREADS = ("explain", "quick")
NICER = 10  # than the server
log = logging.getLogger("advex.explore")


def main(connections: Mapping[str, Connection], load: Load, stopped: Any) -> None:
    """Send the catalogue, then answer what comes over the connections, of which each of `THREADS` has one.

    load: opens the models and pictures; why that failed is sent instead. stopped: a number in shared memory; requests
    up to it are computed no longer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends this process
    if hasattr(os, "nice"):
        os.nice(NICER)
    with contextlib.suppress(OSError):  # the server may be gone
        try:
            explorer = load()
            catalogue = explorer.catalogue
        except Exception as error:
            connections["quick"].send(Refusal("broken", _sentence(error)))
            return
        _leave_a_core()
        connections["quick"].send(catalogue)

        def explain(number: int, request: Any) -> Any:
            return explorer.explain(request, lambda: number <= stopped.value)

        threading.Thread(target=_serve, args=(connections["explain"], explain), daemon=True).start()
        _serve(connections["quick"], lambda name, *values: explorer.quick[name](*values))


def _leave_a_core() -> None:
    """Leave a core to the server, where opening the models has imported torch."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))


def _serve(connection: Connection, call: Callable[..., Any]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_outcome(call, *connection.recv()))
    os._exit(0)  # the server is gone, whatever the other thread computes


def _outcome(call: Callable[..., Any], *values: Any) -> Any:
    """What a call returns, or the Refusal that says why there is nothing."""
    try:
        return call(*values)
    except Stopped:
        return superseded()
    except AdvexError as error:
        return Refusal("wrong", str(error))
    except Exception as error:  # one request that goes wrong must not end the others
        places = "".join(traceback.format_tb(error.__traceback__))  # without its words, which may be what was typed
        log.error("a request failed: %s\n%s", type(error).__name__, places)
        return Refusal("broken", _sentence(error))


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, AdvexError) else f"It failed ({type(error).__name__}: {error})."
