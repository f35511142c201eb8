"""Feeding the training: order, noise and warps are re-derived from (seed, images seen), never stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssimbad.methods.contract import Batch
from ssimbad.pairing import resize, tps
from ssimbad.seeding import derive


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the global batch."""

    index: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)


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
        sketches: (N, S, S) uint8.
        size: training size; faces and sketches reach it by area resizing, references after their warp.
    """

    def __init__(
        self,
        faces: np.ndarray,
        sketches: np.ndarray,
        size: int,
        warp_config: tps.Law,
        seed: int,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self._faces, self._size, self._warp_config, self._seed, self._device = faces, size, warp_config, seed, device
        shrink = faces.shape[1] != size
        self._targets = resize.area(faces, size) if shrink else faces
        self._sketches = resize.area(sketches, size) if shrink else sketches
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
        rows = self.order(seen, size)
        generator = np.random.default_rng(derive(self._seed, "warp", seen))
        warps = tps.Warp.random(generator, size, self._warp_config)
        mine = shard.rows(size)
        rows = rows[mine]
        target = self._unit(self._targets[rows])
        native = target if self._size == self._faces.shape[1] else self._unit(self._faces[rows])
        reference = shrink(tps.warp(native, warps[mine]), self._size)
        sketch = self._unit(self._sketches[rows])
        images = (t.contiguous(memory_format=self._format) for t in (target, sketch, reference))
        return Batch(*images, warps[mine], self._faces.shape[1])

    def _unit(self, images: np.ndarray) -> Tensor:
        return resize.to_unit(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))


# Pure, so that threads at the two sides of an epoch's end cannot take each other's order.
@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch shows `count` images."""
    return np.random.default_rng(derive(seed, "order", epoch)).permutation(count)


def shrink(images: Tensor, size: int) -> Tensor:
    """Area resizing on the device; the side is a multiple of `size`."""
    return images if images.shape[-1] == size else F.avg_pool2d(images, images.shape[-1] // size)
