"""The process that computes. One thread asks the model; the other reads what comes, and answers what is quick.

A message from the server is (what, number, ...): `ask` a question, `stop` that one, `quick` anything else; the answer
is (what, number, value). It ends when told to, and where the server is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from advex.errors import AdvexError
from advex.explore.requests import Answering, ExploreRequest, Load, Stopped

NICER = 10  # than the server
log = logging.getLogger("advex.explore")


def main(connection: Connection, load: Load) -> None:
    """Serve one connection until its end. load: opens the models and pictures; its AdvexErrors are told, in words."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then hangs up
    try:
        if hasattr(os, "nice"):
            os.nice(NICER)
        study = load()
        _leave_a_core()
        catalogue = study.catalogue
        told = ("ready", 0, catalogue)
    except Exception as error:
        study, told = None, ("failed", 0, _sentence(error))
    with contextlib.suppress(OSError):  # the server may be gone
        connection.send(told)
        if study is not None:
            _Served(connection, study).run()
    os._exit(0)  # also where a search is under way


def _leave_a_core() -> None:
    """To the server. What was opened brought torch along, where it needs any."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))


class _Served:
    def __init__(self, connection: Connection, study: Answering) -> None:
        self._connection, self._study = connection, study
        self._sending = threading.Lock()
        self._asked: queue.SimpleQueue[tuple[int, ExploreRequest]] = queue.SimpleQueue()
        self._stopped: set[int] = set()

    def run(self) -> None:
        threading.Thread(target=self._compute, daemon=True).start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                what, number, *rest = self._connection.recv()
                if what == "ask":
                    self._asked.put((number, rest[0]))
                elif what == "stop":
                    self._stopped.add(number)
                elif what == "end":
                    return
                else:
                    name, values = rest
                    self._answer(number, lambda name=name, values=values: self._study.quick[name](*values))

    def _compute(self) -> None:
        while True:
            self._explain(*self._asked.get())

    def _explain(self, number: int, question: ExploreRequest) -> None:
        self._answer(number, lambda: self._study.explain(question, lambda: number in self._stopped))
        self._stopped.discard(number)

    def _answer(self, number: int, make: Callable[[], Any]) -> None:
        try:
            message = ("done", number, make())
        except Stopped:
            message = ("stopped", number, None)
        except AdvexError as error:
            message = ("wrong", number, str(error))
        except Exception as error:  # one question that goes wrong must not end the others
            log.exception("a question failed")
            message = ("broken", number, _sentence(error))
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, AdvexError) else f"It failed ({type(error).__name__}: {error})."
