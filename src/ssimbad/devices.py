"""Where a stage computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from ssimbad.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = TypeVar("Worker")


def visible() -> list[torch.device]:
    """The devices of this job: those of `SSIMBAD_DEVICE` (`cuda:1`, or several: `cuda:0,cuda:1`, even `cpu,cpu`), else
    all CUDA devices that can be seen, else the CPU.

    Raises:
        UserError: the variable names a device that is not there.
    """
    wanted = os.environ.get("SSIMBAD_DEVICE", "auto")
    if wanted == "auto" and not torch.cuda.is_available():
        return [torch.device("cpu")]
    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    try:
        found = [torch.device(name.strip()) for name in wanted.split(",")]
        for device in found:
            torch.zeros(1, device=device)
        return found
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"SSIMBAD_DEVICE={wanted}: not usable ({reason}); use cpu, cuda or auto") from None


def pick(number: int = 0) -> torch.device:
    """The device of process `number` on this machine; see `visible` for the errors."""
    found = visible()
    return found[number % len(found)]


def deal(work: Callable[[Worker, Item], Result], items: Iterable[Item], workers: Sequence[Worker]) -> Iterator[Result]:
    """`work(worker, item)` for every item, in the order of the items, each by a worker that is free.

    One thread per worker: most of the time it waits for its device. Only a few results are held back at a time.
    """
    if len(workers) == 1:
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

    pool = ThreadPoolExecutor(len(workers))
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


def home(network: torch.nn.Module) -> torch.device:
    """The device where a network's weights are; the CPU for one without weights."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions on a GPU in full float32 and by the same algorithm every time, for numbers that are compared."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def name(device: torch.device) -> str:
    """For the logbook: the card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
