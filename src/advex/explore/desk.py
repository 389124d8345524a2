"""The server's side of the process that computes: no call here waits for it.

Of each page only the newest question counts. One that is replaced is answered `superseded` at once; if it is being
computed, the process is told, and stops before the next pass of the network.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from advex.errors import SpecError
from advex.explore.process import main
from advex.explore.requests import Catalogue, ExploreRequest, ExploreResponse, Load, Refusal, superseded

_MOST_PAGES, _MOST_QUICK = 8, 100  # that wait
_GONE = "The process that computes ended unexpectedly; it is being started again. Try again in a moment."
_BUSY = "Too much is waiting to be computed. Try again in a moment."
_PATIENCE = 2.0  # seconds for a process to end by itself


def _begun() -> Future[Any]:
    """A future that nobody can cancel: those who no longer want it say so to the desk."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass
class _Job:
    number: int
    page: str
    question: ExploreRequest
    future: Future[ExploreResponse] = field(default_factory=_begun)
    answered: bool = False

    def supersede(self) -> None:
        if not self.answered:
            self.answered = True
            self.future.set_exception(superseded())


class Desk:
    """Asks one process, and starts it again where it ended. Safe to use from several threads.

    load: a function that can be sent to another process; it returns what is asked there (see `Answering`).
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Job] = {}
        self._running: _Job | None = None
        self._quick: dict[int, Future[Any]] = {}
        self._process: BaseProcess | None = None
        self._listener: threading.Thread | None = None  # until the process has ended, and is waited for
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ready: Future[Catalogue] = _begun()
        self._closed = False

    def open(self) -> Catalogue:
        """Start the process and wait until it has opened everything. Raises SpecError with its sentence."""
        with self._lock:
            self._start()
            ready = self._ready
        try:
            return ready.result()
        except Refusal as refusal:
            raise SpecError(refusal.sentence) from None

    @property
    def process(self) -> BaseProcess | None:
        """The one that runs."""
        return self._process

    def ask(self, page: str, question: ExploreRequest) -> Future[ExploreResponse]:
        """Ask for an explanation; what the same page asked before is given up. The future may raise Refusal."""
        with self._lock:
            job = _Job(next(self._numbers), page, question)
            self._give_up(page)
            if len(self._waiting) >= _MOST_PAGES or self._closed:
                job.future.set_exception(Refusal("busy", _BUSY))
                return job.future
            self._waiting[page] = job
            self._next()
            return job.future

    def drop(self, page: str, future: Future[ExploreResponse]) -> None:
        """Nobody waits for this answer any more: the page was closed, or asks something else."""
        with self._lock:
            if (waiting := self._waiting.get(page)) and waiting.future is future:
                self._waiting.pop(page).supersede()
            elif self._running is not None and self._running.future is future:
                self._stop(self._running)

    def quick(self, name: str, *values: Any) -> Future[Any]:
        """Ask for something that needs no model: see `study.Study.quick`. The future may raise Refusal."""
        future = _begun()
        with self._lock:
            if len(self._quick) >= _MOST_QUICK or self._closed:
                future.set_exception(Refusal("busy", _BUSY))
                return future
            self._start()
            number = next(self._numbers)
            self._quick[number] = future
            self._out.put(("quick", number, name, values))
        return future

    def close(self) -> None:
        """End the process. Whoever still waits is told."""
        with self._lock:
            self._closed = True
            process, listener, opened = self._process, self._listener, self._ready.done()
            self._out.put(("end", 0))
        if process is not None and listener is not None:
            listener.join(_PATIENCE if opened else 0)  # what still opens files listens to nobody
            if listener.is_alive():
                process.kill()
                listener.join(_PATIENCE)

    # -- with the lock held ------------------------------------------------------------------------------------

    def _give_up(self, page: str) -> None:
        if waiting := self._waiting.pop(page, None):
            waiting.supersede()
        if self._running is not None and self._running.page == page:
            self._stop(self._running)

    def _stop(self, running: _Job) -> None:
        if not running.answered:
            running.supersede()
            self._out.put(("stop", running.number))

    def _next(self) -> None:
        if self._running is None and self._waiting and not self._closed:
            self._start()
            self._running = self._waiting.pop(next(iter(self._waiting)))
            self._out.put(("ask", self._running.number, self._running.question))

    def _start(self) -> None:
        if self._closed or self._process is not None:
            return
        # A process of its own, not a fork: the server has threads, and a GPU cannot be taken along.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=main, args=(theirs, self._load), name="advex explore", daemon=True)
        self._process, self._out, self._ready = process, queue.SimpleQueue(), _begun()
        process.start()
        theirs.close()
        threading.Thread(target=_send, args=(ours, self._out), daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=(process, ours, self._ready), daemon=True)
        self._listener.start()

    # -- the listening thread ----------------------------------------------------------------------------------

    def _listen(self, process: BaseProcess, connection: Connection, ready: Future[Catalogue]) -> None:
        told = _GONE
        with contextlib.suppress(EOFError, OSError):
            while True:
                what, number, value = connection.recv()
                if what == "ready":
                    ready.set_result(value)
                elif what == "failed":
                    told = value
                else:
                    self._take(what, number, value)
        process.join()
        with self._lock:
            self._process = None
            self._out.put(None)
            self._ended(told, ready)
        connection.close()

    def _take(self, what: str, number: int, value: Any) -> None:
        with self._lock:
            job = self._running
            if job is None or job.number != number:
                _settle(self._quick.pop(number), what, value)
                return
            self._running = None
            if not job.answered:
                job.answered = True
                _settle(job.future, what, value)
            self._next()

    def _ended(self, told: str, ready: Future[Catalogue]) -> None:
        """Tell those who asked it, and start another, unless this one never got to work."""
        lost = [*self._quick.values()]
        self._quick.clear()
        job, self._running = self._running, None
        if job is not None and not job.answered:
            job.answered = True
            lost.append(job.future)
        worked = ready.done()
        if not worked or self._closed:
            lost += [each.future for each in self._waiting.values()]
            self._waiting.clear()
        for future in lost:
            future.set_exception(Refusal("broken", told))
        if not worked:
            ready.set_exception(Refusal("broken", told))
        elif not self._closed:
            self._start()
            self._next()


def _settle(future: Future[Any], what: str, value: Any) -> None:
    if what == "done":
        future.set_result(value)
    elif what == "stopped":
        future.set_exception(superseded())
    else:
        future.set_exception(Refusal("wrong" if what == "wrong" else "broken", value))


def _send(connection: Connection, messages: queue.SimpleQueue[Any]) -> None:
    """Send what is put into the queue, until None. In a thread: a connection may be full, and sending then waits."""
    with contextlib.suppress(OSError):
        while (message := messages.get()) is not None:
            connection.send(message)
