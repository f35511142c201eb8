"""Stage colorize: weights + test sketches + references → one archive of PNGs, one per test id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.methods.contract import MASKS
from ssimbad.pairing import resize
from ssimbad.params.view import View
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job

Paths = dict[str, Path]
_STORED = {
    "sketch": "sketches", "reference": "references", "face": "faces",
    "mask": "masks", "reference_mask": "reference_masks",
}  # fmt: skip
"""Which input of a stage holds what a method is given."""


def run(params: View, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Colour the test set in one reference setting, chunks of ids spread over the devices of the job or its cores."""
    places = devices.visible()
    loaded = {
        device: load.trained(inputs["weights"], device, params.training.channels_last)
        for device in dict.fromkeys(places)
    }
    first = loaded[places[0]]
    artists = [
        (chunks.bound(first.method, loaded[device].model), device) for device in devices.workers(places, job.threads)
    ]
    colour = params.methods[job.method].colour[job.of]
    ids = manifest.ids(inputs["manifest"], "test")
    started = time.perf_counter()
    with job.progress(len(ids), "images") as bar:
        pieces = chunks.pieces(
            artists, given(inputs, ids, params.data.size), ids, colour,
            chunk=params.colorize.chunk, seed=params.colorize.seed,
            precision=params.training.precision, channels_last=params.training.channels_last,
        )  # fmt: skip
        artifacts.write_zip(outputs["images"], _pngs(pieces, bar.update))
    seconds = time.perf_counter() - started
    job.note_cost(
        phase="colorize",
        images=len(ids),
        seconds=seconds,
        seconds_per_image=seconds / len(ids),
        nfe=registry.nfe(first.setup.kind, colour),
        parameters=first.parameters,
        device=devices.name(places[0]),
        devices=len(places),
    )
    job.say(f"{job.name}: {len(ids)} images {colour.words} -> {outputs['images']}")


def given(inputs: Mapping[str, Path], ids: list[str], size: int) -> dict[str, chunks.Stored]:
    """What of the test set a method is given, by the names of `Conditions`."""
    return {
        name: chunks.Stored(
            manifest.images(inputs[stored], ids), size, resize.to_share if name in MASKS else resize.to_unit
        )
        for name, stored in _STORED.items()
        if stored in inputs
    }


def _pngs(
    pieces: Iterable[tuple[Sequence[str], np.ndarray]], progress: Callable[[int], object]
) -> Iterator[tuple[str, bytes]]:
    for names, images in pieces:
        yield from ((f"{name}.png", artifacts.png_bytes(image)) for name, image in zip(names, images, strict=True))
        progress(len(names))
