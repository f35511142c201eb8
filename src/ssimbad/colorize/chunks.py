"""Colouring many sketches so that each image is the same whatever its company.

The network always sees chunks of one fixed size, the last one padded, and each image's noise comes from a generator
seeded by its id: an image is bit-equal on a CPU whatever the number of images or jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssimbad.pairing import resize
from ssimbad.params import Sampler
from ssimbad.seeding import derive

Colorize = Callable[[Tensor, Tensor, Callable[[], Tensor], Sampler | None], Tensor]


def noise(seed: int, ids: Sequence[str], size: int, place: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """A source of (N, 3, size, size) float32 ~ N(0, 1), row i from the stream of image i alone.

    Drawn on the CPU, so that every device starts from the same image, and then handed to `place`.
    """
    streams = [torch.Generator().manual_seed(derive(seed, "colorize", image_id)) for image_id in ids]
    return lambda: place(torch.stack([torch.randn(3, size, size, generator=stream) for stream in streams]))


@torch.inference_mode()
def colour(
    colorize: Colorize,
    sketches: Tensor,
    references: Tensor,
    ids: Sequence[str],
    sampler: Sampler | None,
    *,
    chunk: int,
    seed: int,
    device: torch.device,
    precision: str,
    channels_last: bool,
    progress: Any = None,
) -> np.ndarray:
    """(N, S, S, 3) uint8 from sketches (N, 1, S, S) and references (N, 3, S, S), float32 in [-1, 1], one id each.

    Args:
        colorize: a method's verb, bound to its model.
        chunk: images the network sees together.
        progress: called with the number of images finished after each chunk.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format

    def place(images: Tensor) -> Tensor:
        return images.to(device).contiguous(memory_format=memory)

    done = []
    for start in range(0, len(ids), chunk):
        names = ids[start : start + chunk]
        rows = [start + min(i, len(names) - 1) for i in range(chunk)]
        fresh = noise(seed, [ids[row] for row in rows], sketches.shape[-1], place)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            images = colorize(place(sketches[rows]), place(references[rows]), fresh, sampler)
        done.append(resize.to_bytes(images[: len(names)]))
        if progress:
            progress(len(names))
    return np.concatenate(done)
