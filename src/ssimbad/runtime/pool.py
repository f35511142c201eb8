"""A pool of threads that maps over a stream: in order, and with little of it waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from ssimbad.runtime import cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = TypeVar("Worker")


def ordered_map(
    work: Callable[[Worker, Item], Result], items: Iterable[Item], workers: Sequence[Worker]
) -> Iterator[Result]:
    """`work(worker, item)` for every item, in the order of the items, each by a worker that is free.

    One thread and one core per worker. Few items are under way at a time, so there may be millions.
    """
    if len(workers) == 1:
        with cores.alone():
            yield from (work(workers[0], item) for item in items)
        return
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def turn(item: Item) -> Result:
        worker = free.get()
        try:
            return work(worker, item)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers), initializer=cores.one)
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(turn, item))
            if len(waiting) > 2 * len(workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
