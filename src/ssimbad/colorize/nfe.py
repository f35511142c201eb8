"""Stage nfe: how good a row's images are when each may cost at most so many network calls, by several samplers."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics import measure, ms_ssim, psnr
from ssimbad.metrics.contract import Given
from ssimbad.metrics.test_set import at_size
from ssimbad.pairing import resize
from ssimbad.params.base import Sampler
from ssimbad.params.view import View
from ssimbad.runtime import dealing, devices
from ssimbad.runtime.job import Job
from ssimbad.samplers import most_steps, nfe

if TYPE_CHECKING:
    import torch

COLUMNS = ("sampler", "calls", "steps", "nfe", "metric", "value", "ci_low", "ci_high", "n")


def run(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Colour the first test faces from their own warped references by each sampler in as many steps as fit.

    inputs: weights, made, sketches, references, test (.npy), manifest. outputs: values (CSV with `COLUMNS`: PSNR and
    MS-SSIM with bootstrap intervals over test faces; `calls` is the limit, `nfe` what the steps really cost).
    """
    device = devices.pick()
    asked = params.report.nfe
    model, made = load.trained(inputs["weights"], device, params.training.channels_last)
    colorize = partial(registry.module(made["setup"]["kind"]).colorize, model)
    ids = manifest.ids(inputs["manifest"], "test")
    count, size = min(asked.images, len(ids)), params.data.size
    sketches, references = (
        resize.to_unit(resize.area(manifest.images(inputs[name], ids)[:count], size))
        for name in ("sketches", "references")
    )
    targets = at_size(inputs["test"], size, ids)[:count]
    rows: list[dict[str, Any]] = []
    plans = [(solver, calls, most_steps(solver.name, calls)) for solver in asked.samplers for calls in asked.calls]

    def coloured(device: torch.device, plan: tuple[Any, int, int]) -> np.ndarray:
        solver, _, steps = plan
        return chunks.colour(
            colorize, sketches, references, ids[:count], Sampler(**dict(solver), steps=steps),
            chunk=params.colorize.chunk, seed=params.colorize.seed, device=device,
            precision=params.training.precision, channels_last=params.training.channels_last,
        )  # fmt: skip

    # The plans are dealt, and not the chunks of each: a plan has few chunks, often one.
    done = dealing.deal(coloured, plans, devices.workers([device], job.threads))
    with job.progress(sum(nfe(solver.name, steps) for solver, _, steps in plans), "network calls") as bar:
        for (solver, calls, steps), images in zip(plans, done, strict=True):
            how = {"sampler": solver.label, "calls": calls, "steps": steps, "nfe": nfe(solver.name, steps)}
            rows += [how | line for line in _measured(images, targets, params.evaluation)]
            bar.update(how["nfe"])
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    artifacts.write_text(outputs["values"], text.getvalue())
    job.say(f"{job.name}: {len(plans)} ways to colour {count} images -> {outputs['values']}")


def _measured(images: np.ndarray, targets: np.ndarray, evaluation: Any) -> list[dict[str, Any]]:
    _, found = measure.every([psnr.METRIC, ms_ssim.METRIC], Given(images, targets), evaluation)
    return [
        {"metric": metric, **{k: entry[k] for k in ("value", "ci_low", "ci_high", "n")}}
        for metric, entry in found.items()
    ]
