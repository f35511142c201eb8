"""Colouring many sketches so that each image is the same whatever its company.

The network always sees chunks of one fixed size, the last one padded, and each image's noise comes from a generator
seeded by its id. On a CPU each chunk is one thread's, which computes with one core: an image is bit-equal whatever the
number of images, jobs, devices or cores, and whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NotRequired, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ssimbad.errors import there
from ssimbad.methods.contract import Conditions, Fresh, Method
from ssimbad.pairing import resize
from ssimbad.params.base import Colour
from ssimbad.runtime import devices, pool
from ssimbad.samplers.ode import Watch
from ssimbad.seeding import derive

Colorize = Callable[[Conditions, Fresh, Colour, Watch | None], Tensor]
"""A method's verb, bound to its model."""


def bound(method: Method, model: nn.Module) -> Colorize:
    """The verb of a method, for one model."""
    return partial(there(method.colorize), model)


def stream(seed: int, k: int) -> int:
    """The seed of the k-th sample's noise; that of sample 0 is the seed itself."""
    return derive(seed, "spread", k) if k else seed


def noise(seed: int, ids: Sequence[str], place: Callable[[Tensor], Tensor]) -> Fresh:
    """A source of (N, *shape) float32 ~ N(0, 1), row i from the stream of image i alone.

    Drawn on the CPU, so that every device starts from the same image, and then handed to `place`.
    """
    streams = [torch.Generator().manual_seed(derive(seed, "colorize", image_id)) for image_id in ids]
    return lambda *shape: place(torch.stack([torch.randn(*shape, generator=stream) for stream in streams]))


class Stored:
    """Stored images at training size, read, shrunk and converted a chunk at a time: memory does not grow with N.

    Args:
        images: (N, H, H[, C]) uint8, memory-mapped; H is a multiple of `size`.
        convert: to the range of the networks: `resize.to_unit`, or `resize.to_share` for masks.
    """

    def __init__(self, images: np.ndarray, size: int, convert: Callable[[np.ndarray], Tensor] = resize.to_unit) -> None:
        self._images, self._size, self._convert = images, size, convert

    def __getitem__(self, rows: list[int]) -> Tensor:
        """(len(rows), 1 or 3, size, size) float32 in [-1, 1], of masks in [0, 1]."""
        return self._convert(resize.area(self._images[rows], self._size))

    def part(self, start: int, stop: int) -> Stored:
        """Those of [start, stop)."""
        return Stored(self._images[start:stop], self._size, self._convert)


def mean_image(samples: Sequence[np.ndarray]) -> np.ndarray:
    """(N, H, W, 3) uint8: the mean of the samples, taken in float64 and rounded once, so that every metric takes it.

    The rounding adds a twelfth of a squared level to the squared error: 0.001 dB at 40 dB.
    """
    if len(samples) == 1:
        return samples[0]
    return np.stack([np.rint(np.mean(answers, axis=0)).astype(np.uint8) for answers in zip(*samples, strict=True)])


def pieces(
    artists: Sequence[tuple[Colorize, torch.device]],
    given: Mapping[str, Tensor | Stored],
    ids: Sequence[str],
    colour: Colour,
    *,
    chunk: int,
    seed: int,
    precision: str,
    channels_last: bool,
    watch: Watch | None = None,
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """The chunks in order, each as ids and (n, S, S, 3) uint8, coloured by whichever artist is free.

    Args:
        artists: a method's verb, bound to its model, and the device where the model is; one for each chunk that is
            coloured at the same time. Those on a CPU may share a model.
        given: by the names of `Conditions`, N rows each, float32, in the ranges told there.
        colour: sampler, options, and of how many samples the answer is the mean.
        chunk: images that the network sees together.
        watch: told after each network call.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format

    # Here and not around the loop, since both contexts belong to a thread.
    @torch.inference_mode()
    def colour_one(artist: tuple[Colorize, torch.device], start: int) -> tuple[Sequence[str], np.ndarray]:
        colorize, device = artist

        def place(images: Tensor) -> Tensor:
            images = images.to(device)
            return images.contiguous(memory_format=memory) if images.ndim == 4 else images

        names = ids[start : start + chunk]
        rows = [start + min(i, len(names) - 1) for i in range(chunk)]
        conditions = Conditions(**{name: place(images[rows]) for name, images in given.items()})

        def sample(k: int) -> np.ndarray:
            fresh = noise(stream(seed, k), [ids[row] for row in rows], place)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                return resize.to_bytes(colorize(conditions, fresh, colour, watch)[: len(names)])

        return names, mean_image([sample(k) for k in range(colour.samples)])

    return pool.ordered_map(colour_one, range(0, len(ids), chunk), artists)


class Settings(TypedDict):
    """Of `pieces`."""

    chunk: int
    seed: int
    precision: str
    channels_last: bool
    watch: NotRequired[Watch | None]


def colour(
    colorize: Colorize,
    given: Mapping[str, Tensor | Stored],
    ids: Sequence[str],
    how: Colour,
    *,
    device: torch.device,
    threads: int = 1,
    **settings: Unpack[Settings],
) -> np.ndarray:
    """(N, S, S, 3) uint8: all pieces together, on one device or on so many cores of a CPU; see `pieces`."""
    artists = [(colorize, place) for place in devices.workers([device], threads)]
    found = pieces(artists, given, ids, how, **settings)
    return np.concatenate([images for _, images in found])
