"""Work done in threads before its results are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(8, os.cpu_count() or 1)


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int = THREADS, waiting: int | None = None
) -> Generator[Result]:
    """The results of `work` on each item, in order: computed in threads, a few items ahead of their use.

    threads: 0 computes each when it is asked for. waiting: how many may be under way or unused at a time, twice the
    threads if None. What `work` raises is raised in the place of its result.
    """
    if not threads:
        yield from map(work, items)
        return
    most = 2 * threads if waiting is None else waiting
    under_way: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
