"""Colouring many sketches so that each image is the same whatever its company.

The network always sees chunks of one fixed size, the last one padded, and each image's noise comes from a generator
seeded by its id. On a CPU each chunk is one thread's, which computes with one core: an image is bit-equal whatever the
number of images, jobs, devices or cores, and whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssimbad.pairing import resize
from ssimbad.params.base import Sampler
from ssimbad.runtime import devices, pool
from ssimbad.seeding import derive

Colorize = Callable[[Tensor, Tensor, Callable[[], Tensor], Sampler | None], Tensor]


def noise(seed: int, ids: Sequence[str], size: int, place: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """A source of (N, 3, size, size) float32 ~ N(0, 1), row i from the stream of image i alone.

    Drawn on the CPU, so that every device starts from the same image, and then handed to `place`.
    """
    streams = [torch.Generator().manual_seed(derive(seed, "colorize", image_id)) for image_id in ids]
    return lambda: place(torch.stack([torch.randn(3, size, size, generator=stream) for stream in streams]))


class Stored:
    """Stored images at training size, read, shrunk and converted a chunk at a time: memory does not grow with N.

    Args:
        images: (N, H, H[, C]) uint8, memory-mapped; H is a multiple of `size`.
    """

    def __init__(self, images: np.ndarray, size: int) -> None:
        self._images, self._size = images, size

    def __getitem__(self, rows: list[int]) -> Tensor:
        """(len(rows), 1 or 3, size, size) float32 in [-1, 1]."""
        return resize.to_unit(resize.area(self._images[rows], self._size))


def pieces(
    artists: Sequence[tuple[Colorize, torch.device]],
    sketches: Tensor | Stored,
    references: Tensor | Stored,
    ids: Sequence[str],
    sampler: Sampler | None,
    *,
    chunk: int,
    seed: int,
    precision: str,
    channels_last: bool,
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """The chunks in order, each as ids and (n, S, S, 3) uint8, coloured by whichever artist is free.

    Args:
        artists: a method's verb, bound to its model, and the device where the model is; one for each chunk that is
            coloured at the same time. Those on a CPU may share a model.
        sketches, references: N rows each, (1, S, S) and (3, S, S) float32 in [-1, 1].
        chunk: images that the network sees together.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format

    # Here and not around the loop, since both contexts belong to a thread.
    @torch.inference_mode()
    def colour_one(artist: tuple[Colorize, torch.device], start: int) -> tuple[Sequence[str], np.ndarray]:
        colorize, device = artist

        def place(images: Tensor) -> Tensor:
            return images.to(device).contiguous(memory_format=memory)

        names = ids[start : start + chunk]
        rows = [start + min(i, len(names) - 1) for i in range(chunk)]
        sketch = sketches[rows]
        fresh = noise(seed, [ids[row] for row in rows], sketch.shape[-1], place)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            images = colorize(place(sketch), place(references[rows]), fresh, sampler)
        return names, resize.to_bytes(images[: len(names)])

    return pool.ordered_map(colour_one, range(0, len(ids), chunk), artists)


def colour(
    colorize: Colorize,
    sketches: Tensor,
    references: Tensor,
    ids: Sequence[str],
    sampler: Sampler | None,
    *,
    device: torch.device,
    threads: int = 1,
    **how: Any,
) -> np.ndarray:
    """(N, S, S, 3) uint8: all pieces together, on one device or on so many cores of a CPU; see `pieces`."""
    artists = [(colorize, place) for place in devices.workers([device], threads)]
    found = pieces(artists, sketches, references, ids, sampler, **how)
    return np.concatenate([images for _, images in found])
