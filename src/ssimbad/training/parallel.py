"""One gradient of many shares: of a batch, among the threads of a CPU and the processes of several devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ssimbad.errors import there
from ssimbad.methods.contract import Losses
from ssimbad.runtime import cores
from ssimbad.runtime.distributed import ALONE, ProcessGroup
from ssimbad.training.exchange import Exchange, trainable
from ssimbad.training.feed import Shard


class DataParallel:
    """Equal shares of every batch, computed side by side: threads on a CPU, one process per GPU.

    A CPU thread computes with one core, so that the sums, and the last bits of the weights, depend on the number of
    shares alone and not on the machine's cores; it is also faster than sharing each operation of a small batch. All
    threads run the same modules: a step must not change their buffers.

    Args:
        micro: equal parts of a share, computed one after the other: gradient accumulation.
        exchanges: of gradients between processes, by network; none where this process is alone.
        after: exchange after the backward pass. So it is always for several threads, which would reach the buckets in
            any order.
    """

    def __init__(
        self,
        count: int,
        pool: ThreadPoolExecutor,
        group: ProcessGroup = ALONE,
        micro: int = 1,
        exchanges: Mapping[nn.Module, Exchange] | None = None,
        after: bool = False,
    ) -> None:
        self._shards = [Shard(group.rank * count + i, group.world_size * count) for i in range(count)]
        self._map, self._group, self._micro = pool.map if count > 1 else map, group, micro
        self._exchanges, self._after = exchanges or {}, after or count > 1

    def gradients(self, network: nn.Module, work: Callable[[Shard], Iterator[Losses]]) -> Iterator[Losses]:
        """Run `work` on every shard, one loss at a time; yield the losses of the global batch.

        At each `yield` the mean gradient is in the network's `.grad`, and `work` goes on from the weights as the caller
        then leaves them. This is the one place where the shares of a global batch become one gradient.

        Raises:
            RuntimeError: the shares make different numbers of steps.
        """
        parameters, exchange = trainable(network), self._exchanges.get(network)
        after = exchange if self._after else None
        accumulated = partial(_exchanged, exchange) if exchange and not after else partial(_accumulated, parameters)
        streams = [[work(part) for part in shard.split(self._micro)] for shard in self._shards]
        while True:
            done = list(self._map(accumulated, streams))
            counts = {len(losses) for losses, _ in done}
            if counts == {0}:
                return
            if counts != {self._micro}:
                raise RuntimeError("a training step yields more losses for one part of a batch than for another")
            totals = [sum(parts[1:], parts[0]) for parts in zip(*(gradients for _, gradients in done), strict=True)]
            for parameter, total in zip(parameters, after.means(totals) if after else totals, strict=True):
                parameter.grad = total / (len(done) * self._micro)
            yield _global(_concatenated([losses for several, _ in done for losses in several]), self._group)


def _accumulated(parameters: list[nn.Parameter], streams: list[Iterator[Losses]]) -> tuple[list[Losses], list[Tensor]]:
    """The next loss of each stream that has one, and the sum of their gradients."""
    several: list[Losses] = []
    total: list[Tensor] = []
    for losses in (found for stream in streams if (found := next(stream, None)) is not None):
        gradients = torch.autograd.grad(losses.loss, parameters, materialize_grads=True)
        total = [a + b for a, b in zip(total, gradients, strict=True)] if several else list(gradients)
        several.append(replace(losses, loss=losses.loss.detach()))
    return several, total


def _exchanged(exchange: Exchange, streams: list[Iterator[Losses]]) -> tuple[list[Losses], list[Tensor]]:
    """The same, but the sum is the mean over the processes, exchanged while the last loss is differentiated."""
    several: list[Losses] = []
    exchange.clear()
    for losses in (found for stream in streams if (found := next(stream, None)) is not None):
        several.append(replace(losses, loss=losses.loss.detach()))
        exchange.backward(losses.loss, last=len(several) == len(streams))
    return several, exchange.gradients if several else []


@contextmanager
def data_parallel(
    count: int,
    group: ProcessGroup = ALONE,
    micro: int = 1,
    exchanges: Mapping[nn.Module, Exchange] | None = None,
    after: bool = False,
) -> Iterator[DataParallel]:
    """`count` shares of every batch in each process of the group, for as long as the block lasts: see `DataParallel`.

    The calling thread, which clips, steps and averages, computes with one core as well.
    """
    with cores.alone(), ThreadPoolExecutor(count, initializer=cores.one) as pool:
        yield DataParallel(count, pool, group, micro, exchanges, after)


def micro_batches(share: int, most: int | None) -> int:
    """Into how many equal parts a share of so many images is cut for parts of at most `most` images."""
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= (most or share))


def _concatenated(parts: list[Losses]) -> Losses:
    """Of the whole share, without the graph: the curve reads them when the step is long gone."""
    loss = torch.stack([p.loss.detach() for p in parts]).mean()
    sigma = None if parts[0].sigma is None else torch.cat([there(p.sigma) for p in parts])
    terms = {name: torch.stack([p.terms[name].detach() for p in parts]).mean() for name in parts[0].terms}
    return Losses(loss, torch.cat([p.per_image.detach() for p in parts]), sigma, terms)


def _global(losses: Losses, group: ProcessGroup) -> Losses:
    """The losses of the global batch, from those of this process's rows."""
    if group.world_size == 1:
        return losses
    scalars = group.all_gather(torch.stack([losses.loss, *losses.terms.values()])[None]).mean(dim=0)
    sigma = None if losses.sigma is None else group.all_gather(losses.sigma)
    return Losses(
        scalars[0], group.all_gather(losses.per_image), sigma, dict(zip(losses.terms, scalars[1:], strict=True))
    )
