"""Stage reverse: a DDPM that is given nothing, looked at as in its source - samples, trajectories, and noisy faces.

The source gave faces at several noise levels to the whole chain and got other faces or blank images back. Here they go
through the chain from their own timestep too, and what the network takes for noise at the last one is measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, ParamSpec, TypedDict, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.errors import there
from ssimbad.faces import manifest
from ssimbad.methods import ddpm_faces
from ssimbad.methods.ddpm_faces import Options
from ssimbad.metrics import bootstrap, measure, psnr
from ssimbad.metrics.contract import Given
from ssimbad.metrics.test_set import at_size
from ssimbad.networks.denoiser import NoisePredictor
from ssimbad.pairing import resize
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.blocks import Reverse
from ssimbad.params.tree import Params
from ssimbad.runtime import devices, pool
from ssimbad.runtime.job import Job
from ssimbad.samplers.ancestral import VARIANCES, Variance


class Line(TypedDict, total=False):
    """Of the CSV."""

    what: str
    t: int | None
    chain: str | None
    variance: str | None
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


COLUMNS = tuple(Line.__annotations__)
Chain = Literal["whole", "matched"]
CHAINS: tuple[Chain, ...] = get_args(Chain)

Pictures = Iterator[tuple[str, np.ndarray]]
"""Names without ending, and (N, S, S, 3) uint8."""


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """What every part of the stage needs."""

    model: NoisePredictor
    device: torch.device
    threads: int
    params: Params
    progress: Callable[[int], object] = lambda count: None
    """Told how many images the network has seen in a call."""

    @property
    def asked(self) -> Reverse:
        return there(self.params.report.reverse)

    def coloured(
        self, ids: list[str], options: Options, steps: int, threads: int, faces: Tensor | None = None
    ) -> np.ndarray:
        """(N, S, S, 3) uint8: drawn from nothing, or from the noised faces."""
        return chunks.colour(
            chunks.bound(ddpm_faces.METHOD, self.model),
            {} if faces is None else {"reference": faces},
            ids,
            Colour(sampler=by(steps), options=options),
            chunk=self._together(len(ids)), seed=self.params.colorize.seed, device=self.device,
            precision=devices.precision(self.params.training.precision, self.device),
            channels_last=self.params.training.channels_last, threads=threads,
            watch=lambda sigma, denoised: self.progress(len(denoised)),
        )  # fmt: skip

    def _together(self, count: int) -> int:
        return min(self.params.colorize.chunk, count)

    def seen(self, faces: int) -> int:
        """By the network, images of all calls of the stage, so many faces recovered."""
        asked = self.asked

        def filled(count: int) -> int:
            """The last piece is as large as the others."""
            return math.ceil(count / self._together(count)) * self._together(count)

        returns = sum(asked.steps + asked.steps_from(start) for start in asked.start)
        return len(VARIANCES) * ((filled(asked.samples) + asked.trajectories) * asked.steps + filled(faces) * returns)

    def noise(self, ids: list[str]) -> Callable[..., torch.Tensor]:
        """The source of each image's noise, from its beginning."""
        return chunks.noise(self.params.colorize.seed, ids, lambda images: images.to(self.device))

    def spread(self, plans: Sized) -> list[torch.device]:
        """Where plans are carried out side by side."""
        return devices.workers([self.device], min(self.threads, len(plans)))


def by(steps: int) -> Sampler:
    return Sampler(name="ancestral", steps=steps)


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Draw and recover by all steps, with noise in the last one too, as the public code does.

    inputs: weights, made, test (.npy), manifest. outputs: pictures (.zip of PNGs: `samples-<variance>`,
    `trajectories-<variance>-<sample>` by snapshot, `original`, `noisy-<t>`, `<chain>-<t>-<variance>`, each numbered),
    values (CSV with `COLUMNS`; see `recovered` and `taken_for_noise`).
    """
    device = devices.pick()
    loaded = load.trained(inputs["weights"], device, params.training.channels_last)
    lab = Lab(cast("NoisePredictor", loaded.model), device, job.threads, params)
    ids = manifest.ids(inputs["manifest"], "test")
    count = min(lab.asked.images, len(ids))
    originals = at_size(inputs["test"], params.data.size, ids)[:count]
    lines: list[Line] = []
    with job.progress(lab.seen(count), "images through the network") as bar:
        lab = replace(lab, progress=bar.update)
        pictures = itertools.chain(drawn(lab), watched(lab), recovered(lab, ids[:count], originals, lines))
        artifacts.write_zip(outputs["pictures"], _pngs(pictures))
    lines += taken_for_noise(lab, ids[:count], originals)
    artifacts.write_csv(outputs["values"], COLUMNS, lines)
    job.say(f"{job.name}: {lab.asked.samples} samples, {count} faces recovered -> {outputs['pictures']}")


def _pngs(pictures: Pictures) -> Iterator[tuple[str, bytes]]:
    for name, images in pictures:
        yield from ((f"{name}-{k:04d}.png", artifacts.png_bytes(image)) for k, image in enumerate(images))


def names(count: int) -> list[str]:
    """Of samples: each has its own stream of noise, by its name."""
    return [f"sample-{k}" for k in range(count)]


def drawn(lab: Lab) -> Pictures:
    """Samples from pure noise, the same noise for either variance."""
    for variance in VARIANCES:
        options = Options(variance=variance, last_noise=True)
        yield f"samples-{variance}", lab.coloured(names(lab.asked.samples), options, lab.asked.steps, lab.threads)


@torch.inference_mode()
def watched(lab: Lab) -> Pictures:
    """x_t of the first samples at evenly spaced steps, from pure noise to the image."""
    ids, cuts = names(lab.asked.trajectories), np.linspace(0, lab.asked.steps, lab.asked.snapshots).round().astype(int)

    def walk(_: torch.device, variance: Variance) -> list[np.ndarray]:
        options, fresh = Options(variance=variance, last_noise=True), lab.noise(ids)
        shape = lab.model.shape
        x, grid = ddpm_faces.begun(lab.model, None, fresh(*shape), lab.asked.steps, options)
        down = ddpm_faces.sampler(lab.model, by(lab.asked.steps), options, lambda: fresh(*shape))
        states = [_pixels(x, grid[0])]
        for first, last in itertools.pairwise(cuts.tolist()):
            x = down(lab.model, x, grid[first : last + 1])
            lab.progress(len(ids) * (last - first))
            states.append(_pixels(x, grid[last]))
        return states

    plans = list(VARIANCES)
    for variance, states in zip(plans, pool.ordered_map(_inferred(walk), plans, lab.spread(plans)), strict=True):
        for k, snapshots in enumerate(zip(*states, strict=True)):
            yield f"trajectories-{variance}-{k}", np.stack(snapshots)


def _inferred(work: Callable[P, T]) -> Callable[P, T]:
    """Inference mode belongs to a thread."""
    return torch.inference_mode()(work)


def _pixels(x: Tensor, sigma: Tensor) -> np.ndarray:
    """x = x_t / sqrt(alpha_bar_t) as the picture x_t."""
    return resize.to_bytes(x / float((1 + sigma**2).sqrt()))


def timestep(lab: Lab, start: float) -> int:
    """t = 1 … T of a share of the timesteps."""
    return max(1, round(start * len(lab.model.sigmas)))


def recovered(lab: Lab, ids: list[str], originals: np.ndarray, lines: list[Line]) -> Pictures:
    """Faces noised to t and brought back, from t (matched) and from the last timestep (whole, as published).

    `lines` gets, of the noisy faces and of each way back, `psnr` to the original and `contrast`, the standard deviation
    of a picture's values in [0, 1]: a blank picture has none.
    """
    faces = resize.to_unit(originals)
    yield "original", originals
    lines.append(_line(lab, ("original", None, None, None), "contrast", _contrast(originals)))
    plans = [(s, c, v) for s in lab.asked.start for c in CHAINS for v in VARIANCES]

    def back(_: torch.device, plan: tuple[float, Chain, Variance]) -> np.ndarray:
        start, chain, variance = plan
        options = Options(variance=variance, last_noise=True, start=start, chain=chain)
        steps = lab.asked.steps if chain == "whole" else lab.asked.steps_from(start)
        return lab.coloured(ids, options, steps, 1, faces)

    done = pool.ordered_map(back, plans, lab.spread(plans))
    for start in lab.asked.start:
        t = timestep(lab, start)
        noisy = resize.to_bytes(x_t(lab, faces, lab.noise(ids)(*lab.model.shape), t))
        yield f"noisy-{t}", noisy
        lines += _measured(lab, ("noisy", t, None, None), noisy, originals)
        for (_, chain, variance), images in zip([p for p in plans if p[0] == start], done, strict=False):
            yield f"{chain}-{t}-{variance}", images
            lines += _measured(lab, ("recovered", t, chain, variance), images, originals)


def x_t(lab: Lab, faces: Tensor, noise: Tensor, t: int) -> Tensor:
    """(B, 3, H, W): sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) n at the timestep of that number, 1 … T."""
    sigma = float(lab.model.sigmas[t - 1])
    return (faces.to(noise) + sigma * noise) / (1 + sigma**2) ** 0.5


@torch.inference_mode()
def taken_for_noise(lab: Lab, ids: list[str], originals: np.ndarray) -> list[Line]:
    """Which part of its input the network calls noise: the coefficient of the regression of sqrt(1 - alpha_bar)
    eps(x_t), which the step takes for the noise in x_t, on x_t; by the noise level of the input, asked at the last
    timestep (`whole`) and at the input's own (`matched`)."""
    faces, noise = resize.to_unit(originals), lab.noise(ids)(*lab.model.shape)
    lines = []
    for t in [1, *(timestep(lab, start) for start in lab.asked.start)]:
        x = x_t(lab, faces, noise, t)
        for chain, asked_at in zip(CHAINS, (len(lab.model.sigmas), t), strict=True):
            sigma = float(lab.model.sigmas[asked_at - 1])
            alpha = (1 + sigma**2) ** -0.5
            eps = sigma * alpha * lab.model.noise(x / alpha, torch.full((len(x),), sigma, device=x.device))
            share = (eps * x).sum(dim=(1, 2, 3)) / x.square().sum(dim=(1, 2, 3))
            lines.append(_line(lab, ("noise", t, chain, None), "coefficient", share.double().cpu().numpy()))
    return lines


About = tuple[str, int | None, str | None, str | None]
"""what, t, chain, variance"""


def _measured(lab: Lab, about: About, images: np.ndarray, originals: np.ndarray) -> list[Line]:
    scores = measure.per_image([psnr.METRIC], Given(images, originals))
    return [_line(lab, about, "psnr", scores["psnr"]), _line(lab, about, "contrast", _contrast(images))]


def _contrast(images: np.ndarray) -> np.ndarray:
    return (images / 255.0).std(axis=(1, 2, 3))


def _line(lab: Lab, about: About, metric: str, values: np.ndarray) -> Line:
    judged = lab.params.evaluation
    found = bootstrap.mean(values, resamples=judged.bootstrap, confidence=judged.confidence, seed=judged.seed)
    what, t, chain, variance = about
    line: Line = {"what": what, "t": t, "chain": chain, "variance": variance, "metric": metric, "n": len(values)}
    return {**line, **measure.interval(found)}
