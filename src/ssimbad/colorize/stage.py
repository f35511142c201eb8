"""Stage colorize: weights + test sketches + references → one archive of PNGs, one per test id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.params.view import View
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job
from ssimbad.samplers import nfe

Paths = dict[str, Path]


def run(params: View, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Colour the test set in one reference setting, chunks of ids spread over the devices of the job or its cores."""
    places = devices.visible()
    loaded = {
        device: load.trained(inputs["weights"], device, params.training.channels_last)
        for device in dict.fromkeys(places)
    }
    made = loaded[places[0]][1]
    verb = registry.module(made["setup"]["kind"]).colorize
    artists = [(partial(verb, loaded[device][0]), device) for device in devices.workers(places, job.threads)]
    sampler = params.methods[job.method][job.of].sampler
    ids = manifest.ids(inputs["manifest"], "test")
    sketches, references = (
        chunks.Stored(manifest.images(inputs[name], ids), params.data.size) for name in ("sketches", "references")
    )
    started = time.perf_counter()
    with job.progress(len(ids), "images") as bar:
        pieces = chunks.pieces(
            artists, sketches, references, ids, sampler, chunk=params.colorize.chunk, seed=params.colorize.seed,
            precision=params.training.precision, channels_last=params.training.channels_last,
        )  # fmt: skip
        artifacts.write_zip(outputs["images"], _pngs(pieces, bar.update))
    seconds = time.perf_counter() - started
    job.note_cost(
        phase="colorize",
        images=len(ids),
        seconds=seconds,
        seconds_per_image=seconds / len(ids),
        nfe=nfe(sampler.name, sampler.steps) if sampler else 1,
        parameters=made["parameters"],
        device=devices.name(places[0]),
        devices=len(places),
    )
    how = f"by {sampler.name} in {sampler.steps} steps" if sampler else "in one pass"
    job.say(f"{job.name}: {len(ids)} images {how} -> {outputs['images']}")


def _pngs(
    pieces: Iterable[tuple[Sequence[str], np.ndarray]], progress: Callable[[int], object]
) -> Iterator[tuple[str, bytes]]:
    for names, images in pieces:
        yield from ((f"{name}.png", artifacts.png_bytes(image)) for name, image in zip(names, images, strict=True))
        progress(len(names))
