"""Of every kind a model of a few thousand parameters, and what it takes to train it on 16-pixel noise for a moment."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssimbad.methods import edm, registry
from ssimbad.methods.contract import Batch, Losses, Method, Part, Plan, Player, Setup
from ssimbad.methods.losses import mse
from ssimbad.params.base import SLOTS, Colour, Network, Noise, Sampler
from ssimbad.params.blocks import References, Training
from ssimbad.params.methods import Train, Validation
from ssimbad.runtime.job import Job
from ssimbad.training import loop
from ssimbad.training.feed import BatchRng, Feed, Shard

CPU = torch.device("cpu")
NETWORK = Network(base=8, multipliers=[1, 2], blocks=1, heads=2, embedding=8, groups=4)
NOISE = Noise(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
SHARED = {"network": NETWORK, "noise": NOISE, "schedule.saturation": 1e-6}
RAMP = torch.linspace(-0.5, 0.5, 16)  # from left to right: no picture equals its mirror image in distance to it
RATIONAL = {"form": "rational", "c": 0.3}
# What a kind cannot do without, and what of a config would make it large.
CONFIGS: dict[str, dict[str, Any]] = {
    "ssimbad": {"phi": RATIONAL},
    "ddpm_faces": {"base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "groups": 4},
    "split_attention": {"width": 8, "patch": 4, "token_layers": 1, "recovery_layers": 1, "queries": 5, "rank": 2},
    "scft": {"base": 4, "levels": 3, "width": 8, "residuals": 1},
    "coloring_assistant": {"base": 4, "time": 8},
}
CODEC = {"widths": [8, 8], "residuals": 1, "codes": 16, "code_size": 4}
CONFIGS |= {kind: {"codec": CODEC, "layers": 2, "width": 8} for kind in ("latent_cold", "latent_cold_restore")}


def setup(kind: str = "ssimbad", slot: str = "pretrain", **config: Any) -> Setup:
    """Of one of its trainings, with parts that its own other slots would make."""
    method = registry.get(kind)
    typed = method.Config.model_validate(CONFIGS.get(kind, {}) | config)
    alone = Setup(kind, typed, 16, {key: SHARED[key] for key in method.reads})
    needed = [name for name, what in method.needs(typed, slot).items() if what in SLOTS]
    return replace(alone, needed={name: Part("", "", registry.described(alone)) for name in needed})


def build(kind: str = "ssimbad", slot: str = "pretrain", **config: Any) -> nn.Module:
    torch.manual_seed(0)
    return registry.built(setup(kind, slot, **config))


def by(name: str, steps: int, **own: Any) -> Colour:
    """To colour by a sampler."""
    return Colour(sampler=Sampler(name=name, steps=steps, **own))


def batch(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(n, 3, 16, 16, generator=generator) * 2 - 1
    figure = (image[:, :1] + 1) / 2
    return Batch(
        target=image, sketch=image.mean(1, keepdim=True), reference=image.flip(3), face=image,
        mask=figure, reference_mask=figure.flip(3),
    )  # fmt: skip


def rng(seed: int = 0, n: int = 4, shard: Shard = Shard()) -> BatchRng:  # noqa: B008
    return BatchRng(seed, n, shard, CPU)


def same(noise: Tensor):
    """A source of noise that always gives this, whose shape it must be."""

    def fresh(*shape: int) -> Tensor:
        assert shape == noise.shape[1:]
        return noise

    return fresh


def losses_of_training(method: Method, model: nn.Module, plan: Plan, steps: int, clip: float = math.inf) -> list[float]:
    """The loss before each of `steps` steps on the same batch and the same draws."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        result = method.training_step(model, batch(), plan, rng(), None)
        assert result.per_image.shape == (4,)
        optimiser.zero_grad()
        result.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        losses.append(result.loss.item())
    return losses


def first_call(method: Method, model: nn.Module, given: Batch, plan: Plan) -> tuple[Tensor, Tensor, Losses]:
    """x and sigma of a training step's first network call, and its losses, when the network always answers `RAMP`."""
    asked = []
    model.forward = lambda x, sigma, *_: (asked.append((x, sigma)), RAMP.expand_as(x))[1]
    losses = method.training_step(model, given, plan, rng(), None)
    return *asked[0], losses


def refines_from_pure_noise(method: Method, model: nn.Module, plan: Plan, sigma_max: float, scale: float) -> None:
    """The chain starts at sigma_max from noise of this scale that knows nothing of the target, and is judged by it."""
    given = batch()
    other = replace(given, target=given.target.flip(2))
    (x, sigma, losses), (again, _, losses_of_other) = (first_call(method, model, g, plan) for g in (given, other))
    assert torch.equal(x, again)
    assert sigma.tolist() == pytest.approx([sigma_max] * 4, rel=1e-5)
    assert x.std().item() == pytest.approx(scale, rel=0.05) and x.mean().abs().item() < 0.1 * scale
    for found, target in ((losses, given.target), (losses_of_other, other.target)):
        assert torch.allclose(found.per_image, mse(RAMP.expand_as(target), target))


class HostReads(TorchDispatchMode):
    """Counts the numbers that the host asks a device for.

    Those in float64 are not counted: they belong to schedules, which live on the CPU wherever a network computes.
    """

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "local_scalar_dense" in str(function) and args[0].dtype != torch.float64
        return function(*args, **(kwargs or {}))


# Of a training: feed, settings, and the loop.
WARP = References(seed=0, low=0.3, high=0.7, shift=0.25, decimals=2, rotation=0.0)
COMMON = Training(
    threads=1, precision="fp32", channels_last=True, weight_decay=0.01, clip=1.0, ema=0.05, minimum_rate=1e-8,
    log_images=16, state_images=16, buckets=[0.1, 1.0],
)  # fmt: skip
TRAIN = Train(objective="denoising", images=64, batch=8, learning_rate=1e-3, warmup_images=16)
PLAN = Plan("denoising", edm.Denoising())


def validated(every: int, train: Train = TRAIN) -> Train:
    """The same with a validation every so many images."""
    return train.model_copy(update={"validation": Validation(every=every, colour=by("euler", 2))})


def feed(size: int = 16, native: int = 32, n: int = 20, seed: int = 5, device: torch.device = CPU) -> Feed:
    generator = np.random.default_rng(0)
    faces = generator.integers(0, 256, (n, native, native, 3), dtype=np.uint8)
    return Feed(faces, faces[..., 0], size, WARP, seed, device, True)


def step(model: nn.Module, batch: Batch, rng: BatchRng) -> Losses:
    return edm.training_step(model, batch, PLAN, rng)


def alone(model: nn.Module, step=None) -> list[Player]:
    """The model as its training's only player."""
    return [Player(model, step)] if step else edm.METHOD.parties(model, PLAN, None)


def job(folder: Path) -> Job:
    return Job("pretrain", folder, method="ssimbad", seed=0)


def trained(
    folder: Path, train: Train = TRAIN, stop_after=None, validate=None, common=COMMON, memory=torch.contiguous_format
) -> loop.TrainState | None:
    """Train; `stop_after` raises in the middle, as a kill would."""
    model, calls = build().to(memory_format=memory), []

    def counting(batch: Batch, rng: BatchRng) -> Losses:
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        return step(model, batch, rng)

    run = loop.TrainState(model, alone(model, counting), train, common)
    try:
        loop.fit(run, feed(), validate, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None
    return run
