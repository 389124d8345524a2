"""The server's side of the process that computes. No call waits for that process.

Of each page only the newest request counts. One that is replaced is answered `superseded` at once; if it is being
computed, the process is told, and stops before the next pass of the network.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from advex.errors import SpecError
from advex.explore import process
from advex.explore.requests import Catalogue, ExploreRequest, ExploreResponse, Load, Refusal, superseded

_MOST_PAGES, _MOST_QUICK = 9, 100  # whose requests wait or are computed
_GONE = "The worker process ended unexpectedly and is being restarted. Try again in a moment."
_BUSY = "Too many requests are waiting. Try again in a moment."


def _uncancellable() -> Future[Any]:
    """A future that nobody can cancel: whoever no longer wants the result calls `Desk.drop`."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False)
class _Job:
    """A request of a page. stopped: when it was given up while it was being computed."""

    number: int
    page: str
    request: ExploreRequest
    future: Future[ExploreResponse] = field(default_factory=_uncancellable)
    stopped: float = math.inf


@dataclass(eq=False)
class _Opened:
    """A process, and a connection to each of its threads. catalogue: once it has opened everything."""

    process: BaseProcess
    connections: dict[str, Connection]
    catalogue: Catalogue | None = None


class Desk:
    """Asks one process, and replaces it where it ended. Safe to use from several threads.

    load: a function that can be sent to another process; it returns what is asked there (see `requests.Explorer`).
    patience: seconds after which a computation that should have stopped ends with its process.
    """

    def __init__(self, load: Load, *, patience: float = 60.0) -> None:
        # A process of its own, not a fork: the server has threads, and a GPU cannot be taken along.
        self._context = multiprocessing.get_context("spawn")
        self._load, self._patience = load, patience
        self._stopped = self._context.RawValue("q", 0)  # without a lock, which a process that is killed might hold
        self._threads = {name: ThreadPoolExecutor(1, f"explore {name}") for name in process.THREADS}
        self._opening = threading.Lock()
        self._quick = threading.BoundedSemaphore(_MOST_QUICK)
        self._lock = threading.RLock()  # of all that follows
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Job] = {}  # by page
        self._running: _Job | None = None
        self._opened: _Opened | None = None
        self._closed = False

    def open(self) -> Catalogue:
        """Start the process and wait until it has opened everything. Raises SpecError with its sentence."""
        try:
            catalogue = self._threads["quick"].submit(self._open).result().catalogue
        except Refusal as refusal:
            raise SpecError(refusal.sentence) from None
        assert catalogue is not None
        return catalogue

    def ask(self, page: str, request: ExploreRequest) -> Future[ExploreResponse]:
        """Ask for an explanation; what the same page asked before is given up. The future may raise Refusal."""
        with self._lock:
            job = _Job(next(self._numbers), page, request)
            self._supersede(page)
            if self._closed or len(self._waiting) + (self._running is not None) >= _MOST_PAGES:
                job.future.set_exception(Refusal("busy", _BUSY))
            else:
                self._waiting[page] = job
                self._threads["explain"].submit(self._explain_next)
            return job.future

    def drop(self, page: str, future: Future[ExploreResponse]) -> None:
        """Give a request up: the page was closed, or asks something else."""
        with self._lock:
            if not future.done():
                self._supersede(page)

    def quick(self, name: str, *values: Any) -> Future[Any]:
        """Ask for something that needs no model: see `study.Study.quick`. The future may raise Refusal."""
        with self._lock:
            if self._closed or not self._quick.acquire(blocking=False):
                refused = _uncancellable()
                refused.set_exception(Refusal("busy", _BUSY))
                return refused
            future = self._threads["quick"].submit(self._call, "quick", name, *values)
        future.add_done_callback(lambda _: self._quick.release())
        return future

    def close(self) -> None:
        """End the process. Futures that are not done raise Refusal."""
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._opened.process.kill()
        for thread in self._threads.values():
            thread.shutdown()

    def _supersede(self, page: str) -> None:
        """Give up the page's earlier request, with the lock held."""
        job = self._waiting.pop(page, self._running)
        if job is not None and job.page == page and not job.future.done():
            job.future.set_exception(superseded())
            if job is self._running:
                job.stopped = time.monotonic()
                self._stopped.value = job.number

    # -- in the threads that wait for the process ------------------------------------------------------------------

    def _explain_next(self) -> None:
        with self._lock:
            if not self._waiting:
                return  # a newer request took the place of the one that this turn was for
            job = self._running = self._waiting.pop(next(iter(self._waiting)))
        try:
            answer = self._call("explain", job.number, job.request, job=job)
        except Refusal as refusal:
            answer = refusal
        with self._lock:
            self._running = None
            if job.future.done():
                return
            if isinstance(answer, Refusal):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    def _call(self, thread: str, *values: Any, job: _Job | None = None) -> Any:
        """Call a thread of the process and wait for its answer, without a limit for a job that nobody stopped.

        Raises Refusal.
        """
        opened = self._open()
        connection, began = opened.connections[thread], time.monotonic()
        try:
            connection.send(values)
            while not connection.poll(min(1.0, self._patience)):
                if time.monotonic() - max(began, job.stopped if job else began) > self._patience:
                    raise EOFError
            return _unless_refused(connection.recv())
        except (EOFError, OSError):
            self._end(opened)
            raise Refusal("broken", _GONE) from None

    def _open(self) -> _Opened:
        """The process, once it has opened everything; it is started if there is none. Raises Refusal."""
        with self._opening:
            with self._lock:
                if self._closed:
                    raise Refusal("broken", _GONE)
                if self._opened is None or not self._opened.process.is_alive():
                    self._opened = self._start()
                opened = self._opened
            try:
                if opened.catalogue is None:
                    opened.catalogue = _unless_refused(opened.connections["quick"].recv())
            except Refusal:
                self._end(opened)
                raise
            except (EOFError, OSError):
                self._end(opened)
                raise Refusal("broken", _GONE) from None
            return opened

    def _start(self) -> _Opened:
        pipes = {name: self._context.Pipe() for name in process.THREADS}
        theirs = {name: pipe[1] for name, pipe in pipes.items()}
        arguments = (theirs, self._load, self._stopped)
        started = self._context.Process(target=process.main, args=arguments, name="advex explore", daemon=True)
        started.start()
        for connection in theirs.values():
            connection.close()
        return _Opened(started, {name: pipe[0] for name, pipe in pipes.items()})

    def _end(self, opened: _Opened) -> None:
        opened.process.kill()
        opened.process.join()
        with self._lock:
            if self._opened is opened:
                self._opened = None


def _unless_refused(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        raise answer
    return answer
