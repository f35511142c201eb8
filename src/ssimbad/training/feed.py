"""Feeding the training: order, noise and warps are re-derived from (seed, images seen), never stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssimbad.errors import there
from ssimbad.methods.contract import Batch
from ssimbad.pairing import resize, tps
from ssimbad.runtime import cores
from ssimbad.seeding import derive


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the global batch."""

    index: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def split(self, parts: int) -> list[Shard]:
        """The same rows as so many equal shards."""
        return [Shard(self.index * parts + i, self.count * parts) for i in range(parts)]


class BatchRng:
    """Random numbers of one batch: drawn for the global batch, so that they do not depend on the number of devices."""

    def __init__(self, seed: int, batch: int, shard: Shard, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._batch, self._rows, self._device = batch, shard.rows(batch), device

    def normal(self, *shape: int) -> Tensor:
        drawn = torch.randn(self._batch, *shape, generator=self._generator, device=self._device)
        return drawn[self._rows]

    def uniform(self, *shape: int) -> Tensor:
        drawn = torch.rand(self._batch, *shape, generator=self._generator, device=self._device, dtype=torch.float64)
        return drawn[self._rows]


class Feed:
    """Batches of (target, sketch, freshly warped reference) on a device.

    Args:
        faces: (N, S, S, 3) uint8, S = native size; memory-mapped arrays stay on disk.
        sketches: (N, S, S) uint8, or (N, K, S, S) of K styles, one of which is drawn per image; None for a method that
            takes none.
        warp_config: of the warps that make references; None for a method that takes none.
        companions: (N, S, S, 3) uint8, to each face another in its colours: the references of this `share` of the
            images; batches then tell no warp.
        shown: whether the method is given the face itself.
        masks: (N, S, S) uint8, of the figures in the faces; `masked`: which masks of `Conditions` are made of them.
        size: training size; faces and sketches reach it by area resizing, references after their warp.
    """

    def __init__(
        self,
        faces: np.ndarray,
        sketches: np.ndarray | None,
        size: int,
        warp_config: tps.WarpConfig | None,
        seed: int,
        device: torch.device,
        channels_last: bool,
        shown: bool = False,
        masks: np.ndarray | None = None,
        masked: Collection[str] = (),
        companions: np.ndarray | None = None,
        share: float = 0.0,
    ) -> None:
        self._companions, self._share = companions, share
        self._as_they_are = companions is None and faces.shape[1] == size  # the targets are what is warped
        self._native_masks, self._masked = masks, masked
        self._faces, self._size, self._warp_config, self._seed, self._device = faces, size, warp_config, seed, device
        shrink = faces.shape[1] != size
        self._targets = resize.area(faces, size) if shrink else faces
        self._sketches = _small(sketches, size) if shrink and sketches is not None else sketches
        self._shown = shown
        self._masks = resize.area(there(masks), size) if shrink and "mask" in masked else masks
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self._faces)

    def order(self, first: int, count: int) -> np.ndarray:
        """Rows of the images number `first` … `first + count - 1` of an endless, reshuffled series of epochs."""
        rows = []
        for number in range(first, first + count):
            epoch, place = divmod(number, len(self))
            rows.append(_epoch(self._seed, epoch, len(self))[place])
        return np.array(rows)

    def batch(self, seen: int, size: int, shard: Shard) -> Batch:
        """The shard of the global batch that follows `seen` images."""
        mine = shard.rows(size)
        rows = self.order(seen, size)[mine]
        target = self._unit(self._targets[rows])
        given: dict[str, Any] = {}
        if self._warp_config is not None:
            rng = np.random.default_rng(derive(self._seed, "warp", seen))
            warps = tps.Warp.random(rng, size, self._warp_config)[mine]
            native = target if self._as_they_are else self._unit(self._models(rows, seen, size, mine))
            reference = shrink(tps.warp(native, warps), self._size)
            given = {"reference": self._placed(reference)}
            if self._companions is None:
                given |= {"warp": warps, "native": self._faces.shape[1]}
        if self._sketches is not None:
            given["sketch"] = self._placed(self._unit(self._lines(self._sketches, rows, seen, size, mine)))
        if "mask" in self._masked:
            given["mask"] = self._placed(resize.to_share(self._on_device(there(self._masks)[rows])))
        if "reference_mask" in self._masked:  # the same warp, outside of which there is no figure
            warped = tps.warp(self._unit(there(self._native_masks)[rows]), given["warp"])
            given["reference_mask"] = self._placed((shrink(warped, self._size) + 1) / 2)
        target = self._placed(target)
        if self._shown:
            given["face"] = target
        return Batch(target=target, **given)

    def _models(self, rows: np.ndarray, seen: int, size: int, mine: slice) -> np.ndarray:
        """(n, S, S, 3) uint8, S = native size: what is warped to the references of the rows."""
        if self._companions is None:
            return self._faces[rows]
        rng = np.random.default_rng(derive(self._seed, "companions", seen))
        others = rng.random(size)[mine] < self._share
        return np.where(others[:, None, None, None], self._companions[rows], self._faces[rows])

    def _lines(self, sketches: np.ndarray, rows: np.ndarray, seen: int, size: int, mine: slice) -> np.ndarray:
        """(n, H, H) uint8: the sketches of the rows, of the style that is this batch's."""
        if sketches.ndim == 3:
            return sketches[rows]
        rng = np.random.default_rng(derive(self._seed, "style", seen))
        return sketches[rows, rng.integers(sketches.shape[1], size=size)[mine]]

    def _placed(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._format)

    def _unit(self, images: np.ndarray) -> Tensor:
        return resize.to_unit(self._on_device(images))

    def _on_device(self, images: np.ndarray) -> Tensor:
        return tps.sent(torch.from_numpy(np.ascontiguousarray(images)), self._device)


class Ahead:
    """A feed whose batches are made one step ahead, by one thread, while the step before them computes.

    Each is the feed's own, since order and warps follow from the images seen, and made once: all players of a training
    are given the same. Memory: all parts of two batches.

    Args:
        images: of the whole training; nothing is made beyond them.
        pool: of one thread.
    """

    def __init__(self, feed: Feed, images: int, pool: Executor) -> None:
        self._feed, self._images, self._pool = feed, images, pool
        self._made: dict[tuple[int, Shard], Future[Batch]] = {}
        self._lock = Lock()  # the threads of a CPU ask for their shards at the same time

    def batch(self, seen: int, size: int, shard: Shard) -> Batch:
        """As of the feed; the same shard of the following batch is begun."""
        with self._lock:
            for place in [place for place in self._made if place[0] < seen]:
                del self._made[place]
            found = self._begun(seen, size, shard)
            if seen + size < self._images:
                self._begun(seen + size, size, shard)
        return found.result()

    def _begun(self, seen: int, size: int, shard: Shard) -> Future[Batch]:
        if (seen, shard) not in self._made:
            self._made[seen, shard] = self._pool.submit(self._feed.batch, seen, size, shard)
        return self._made[seen, shard]


@contextmanager
def ahead(feed: Feed, images: int, wanted: bool) -> Iterator[Feed | Ahead]:
    """The feed, or one that runs ahead for as long as the block lasts."""
    if not wanted:
        yield feed
        return
    with ThreadPoolExecutor(1, initializer=cores.one) as pool:
        try:
            yield Ahead(feed, images, pool)
        finally:
            pool.shutdown(cancel_futures=True)


def _small(sketches: np.ndarray, size: int) -> np.ndarray:
    """(N, S, S) or (N, K, S, S) uint8, reduced to a side of `size`."""
    flat = resize.area(sketches.reshape(-1, *sketches.shape[-2:]), size)
    return flat.reshape(*sketches.shape[:-2], size, size)


# Pure, so that threads at the two sides of an epoch's end cannot take each other's order.
@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch shows `count` images."""
    return np.random.default_rng(derive(seed, "order", epoch)).permutation(count)


def shrink(images: Tensor, size: int) -> Tensor:
    """Area resizing on the device; the side is a multiple of `size`."""
    return images if images.shape[-1] == size else F.avg_pool2d(images, images.shape[-1] // size)
