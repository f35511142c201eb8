"""Stage spread: how far a row's answers from different noise lie apart, and what their mean scores.

A row that answers with a sample is charged by PSNR for every choice that sketch and reference leave open; a row that
answers with the mean of all plausible images is not. This stage tells the two apart, from finished weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from ssimbad import artifacts
from ssimbad.colorize import chunks, load, stage
from ssimbad.errors import there
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics import bootstrap, measure, ms_ssim, psnr
from ssimbad.metrics.contract import Given
from ssimbad.metrics.spread import split
from ssimbad.metrics.test_set import at_size, by_id
from ssimbad.params.base import Sampler
from ssimbad.params.blocks import Evaluation
from ssimbad.params.tree import Params
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job
from ssimbad.samplers.counts import Calls


class Line(TypedDict, total=False):
    """Of the CSV."""

    answer: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    samples: int
    sampler: str
    steps: int
    nfe: int
    reason: str


COLUMNS = tuple(Line.__annotations__)


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Colour the first test faces from their own warped references: in one step, and by the row's sampler K times.

    The first of the K samples are the row's own images, the k-th starts from each image's k-th stream of noise.

    inputs: weights, made, images (the row's own, .zip), sketches, references, test (.npy), manifest. outputs: values
    (CSV with `COLUMNS`; see `lines`).
    """
    device = devices.pick()
    asked, row = there(params.report.spread), params.methods[job.method].colour[job.of]
    loaded = load.trained(inputs["weights"], device, params.training.channels_last)
    ids = manifest.ids(inputs["manifest"], "test")
    count, size = min(asked.images, len(ids)), params.data.size
    given = {name: stored[list(range(count))] for name, stored in stage.given(inputs, ids, size).items()}
    one_step = row.model_copy(update={"sampler": row.by.model_copy(update={"steps": 1})})
    kind, seed = loaded.setup.kind, params.colorize.seed
    plans = [(one_step, seed), *((row, chunks.stream(seed, k)) for k in range(1, asked.samples))]
    found = []
    with job.progress(sum(registry.nfe(kind, how) for how, _ in plans), "network calls") as bar:
        for how, stream in plans:
            found.append(
                chunks.colour(
                    chunks.bound(loaded.method, loaded.model), given, ids[:count], how,
                    chunk=params.colorize.chunk, seed=stream,
                    device=device, precision=devices.precision(params.training.precision, device),
                    channels_last=params.training.channels_last, threads=job.threads,
                )
            )  # fmt: skip
            bar.update(registry.nfe(kind, how))
    one_step, *others = found
    samples = [by_id(inputs["images"], ids, size)[:count], *others]
    targets = at_size(inputs["test"], size, ids)[:count]
    cost = {row.by.name: registry.cost(kind, row.by.name, row.options)}
    found = lines(one_step, samples, targets, row.by, cost, params.evaluation)
    artifacts.write_csv(outputs["values"], COLUMNS, found)
    job.say(f"{job.name}: {asked.samples} samples and one step of {count} images -> {outputs['values']}")


def lines(
    one_step: np.ndarray,
    samples: Sequence[np.ndarray],
    targets: np.ndarray,
    sampler: Sampler,
    known: Mapping[str, Calls],
    evaluation: Evaluation,
) -> list[Line]:
    """Lines (`COLUMNS`), each with its percentile bootstrap interval over test faces and the network calls of an image.

    Per metric, averaged over faces: `one_step` (the row's sampler with one step), `sample` (one sample: the mean over
    the K of each sample's score), `mean` (the score of the mean of the K samples). `bias` has PSNR alone: that of the
    mean of infinitely many samples. `spread` with metric `share` is the spread between samples over the samples'
    squared error, both summed over all faces.

    Args:
        one_step, targets: (N, H, W, 3) uint8; `samples`: K of them.
        sampler: the row's; `known`: what samplers cost the row.
        evaluation: parameters bootstrap (resamples), confidence, seed.
    """
    how: How = {"resamples": evaluation.bootstrap, "confidence": evaluation.confidence, "seed": evaluation.seed}
    cost = known[sampler.name]
    calls = cost.of(sampler.steps)
    each = [_scores(images, targets) for images in samples]
    answers = {
        "one_step": (_scores(one_step, targets), 1, cost.of(1)),
        "sample": ({m: np.mean([scores[m] for scores in each], axis=0) for m in each[0]}, sampler.steps, calls),
        "mean": (_scores(chunks.mean_image(samples), targets), sampler.steps, calls * len(samples)),
    }
    about: Line = {"n": len(targets), "samples": len(samples), "sampler": sampler.label}
    found: list[Line] = [
        {
            **about,
            "answer": answer,
            "metric": metric,
            "steps": steps,
            "nfe": nfe,
            **measure.interval(bootstrap.mean(value, **how)),
        }
        for answer, (scores, steps, nfe) in answers.items()
        for metric, value in scores.items()
    ]
    error, spread = split(samples, targets)
    about |= {"steps": sampler.steps}
    found.append({**about, "answer": "bias", "metric": "psnr", **_bias(error - spread, how)})
    found.append({**about, "answer": "spread", "metric": "share", **_share(spread, error, how)})
    return found


def _scores(images: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    return measure.per_image([psnr.METRIC, ms_ssim.METRIC], Given(images, targets))


class How(TypedDict):
    """How intervals are drawn."""

    resamples: int
    confidence: float
    seed: int


def _bias(squared: np.ndarray, how: How) -> Line:
    if not (squared > 0).all():
        lost = f"{(squared <= 0).sum()} of {len(squared)} faces"
        return {"reason": f"for {lost} so few samples (report.spread.samples) cannot tell the bias from zero"}
    return {**measure.interval(bootstrap.mean(np.minimum(psnr.CAP, 10 * np.log10(255**2 / squared)), **how))}


def _share(spread: np.ndarray, error: np.ndarray, how: How) -> Line:
    if not error.any():
        return {"reason": "no squared error that could have a share"}
    return {**measure.interval(bootstrap.ratio(spread, error, **how))}
