"""Stage nfe: how good a row's images are when each may cost at most so many network calls, by several samplers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ssimbad import artifacts
from ssimbad.colorize import chunks, load, stage
from ssimbad.errors import there
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics import measure, ms_ssim, psnr
from ssimbad.metrics.contract import Given
from ssimbad.metrics.test_set import at_size
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.tree import Params
from ssimbad.runtime import devices, pool
from ssimbad.runtime.job import Job

if TYPE_CHECKING:
    import torch

    from ssimbad.params.base import Solver
    from ssimbad.params.blocks import Evaluation


class Line(TypedDict, total=False):
    """Of the CSV."""

    sampler: str
    calls: int
    steps: int
    nfe: int
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None


COLUMNS = tuple(Line.__annotations__)


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Colour the first test faces from their own warped references by each of its samplers in as many steps as fit.

    inputs: weights, made, sketches, references, test (.npy), manifest. outputs: values (CSV with `COLUMNS`: PSNR and
    MS-SSIM with bootstrap intervals over test faces; `calls` is the limit, `nfe` what the steps really cost).
    """
    device = devices.pick()
    asked, row = there(params.report.nfe), params.methods[job.method].colour[job.of]
    loaded = load.trained(inputs["weights"], device, params.training.channels_last)
    colorize = chunks.bound(loaded.method, loaded.model)
    own = [solver.name for solver in asked.samplers if solver.name in loaded.method.samplers]
    known = {name: registry.cost(loaded.setup.kind, name, row.options) for name in own}
    ids = manifest.ids(inputs["manifest"], "test")
    count, size = min(asked.images, len(ids)), params.data.size
    given = {name: stored[list(range(count))] for name, stored in stage.given(inputs, ids, size).items()}
    targets = at_size(inputs["test"], size, ids)[:count]
    rows: list[Line] = []
    plans = [  # a guided call may cost more than there is
        (solver, calls, steps)
        for solver in asked.samplers
        if solver.name in known
        for calls in asked.calls
        if (steps := known[solver.name].most_steps(calls))
    ]

    def coloured(device: torch.device, plan: tuple[Solver, int, int]) -> np.ndarray:
        solver, _, steps = plan
        how = Colour(sampler=Sampler(**dict(solver), steps=steps), options=row.options)
        return chunks.colour(
            colorize, given, ids[:count], how,
            chunk=params.colorize.chunk, seed=params.colorize.seed, device=device,
            precision=devices.precision(params.training.precision, device), channels_last=params.training.channels_last,
        )  # fmt: skip

    # The plans are spread over the cores, and not the chunks of each: a plan has few chunks, often one.
    done = pool.ordered_map(coloured, plans, devices.workers([device], job.threads))
    with job.progress(sum(known[solver.name].of(steps) for solver, _, steps in plans), "network calls") as bar:
        for (solver, calls, steps), images in zip(plans, done, strict=True):
            how: Line = {"sampler": solver.label, "calls": calls, "steps": steps, "nfe": known[solver.name].of(steps)}
            rows += [{**how, **line} for line in _measured(images, targets, params.evaluation)]
            bar.update(how["nfe"])
    artifacts.write_csv(outputs["values"], COLUMNS, rows)
    job.say(f"{job.name}: {len(plans)} ways to colour {count} images -> {outputs['values']}")


def _measured(images: np.ndarray, targets: np.ndarray, evaluation: Evaluation) -> list[Line]:
    _, found = measure.every([psnr.METRIC, ms_ssim.METRIC], Given(images, targets), evaluation)
    return [
        {"metric": metric, **{k: entry[k] for k in ("value", "ci_low", "ci_high", "n")}}
        for metric, entry in found.items()
    ]
