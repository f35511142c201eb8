"""Stage colorize: weights + test sketches + references → one archive of PNGs, one per test id."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

from ssimbad import artifacts, devices
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.job import Job
from ssimbad.methods import registry
from ssimbad.pairing import resize
from ssimbad.params import View
from ssimbad.samplers import nfe

Paths = dict[str, Path]


def run(params: View, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Colour the test set in one reference setting."""
    torch.set_num_threads(job.threads)
    device = devices.pick()
    model, made = load.trained(inputs["weights"], device, params.training.channels_last)
    sampler = params.methods[job.method][job.of].sampler
    ids = manifest.ids(inputs["manifest"], "test")
    sketches, references = (_test_set(inputs[name], params.data.size, ids) for name in ("sketches", "references"))
    colorize = partial(registry.module(made["setup"]["kind"]).colorize, model)
    started = time.perf_counter()
    with job.progress(len(ids), "images") as bar:
        images = chunks.colour(
            colorize, sketches, references, ids, sampler,
            chunk=params.colorize.chunk, seed=params.colorize.seed, device=device,
            precision=params.training.precision, channels_last=params.training.channels_last, progress=bar.update,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    members = ((f"{name}.png", artifacts.png_bytes(image)) for name, image in zip(ids, images, strict=True))
    artifacts.write_zip(outputs["images"], members)
    job.note_cost(
        phase="colorize",
        images=len(ids),
        seconds=seconds,
        seconds_per_image=seconds / len(ids),
        nfe=nfe(sampler.name, sampler.steps) if sampler else 1,
        parameters=made["parameters"],
        device=devices.name(device),
    )
    how = f"by {sampler.name} in {sampler.steps} steps" if sampler else "in one pass"
    job.say(f"{job.name}: {len(ids)} images {how} -> {outputs['images']}")


def _test_set(path: Path, size: int, ids: list[str]) -> torch.Tensor:
    return resize.to_unit(resize.area(manifest.images(path, ids), size))
