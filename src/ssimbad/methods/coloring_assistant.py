"""Coloring Assistant (a bachelor thesis and its public code): DDPM, then finetuned from the inversion of the reference.

The pretraining is AnimeDiffusion's on the linear betas of Ho et al. (2020) and a U-Net of its own. The finetuning walks
from the DDIM inversion of the reference, as the network of the pretraining makes it, to the target, and steps its
optimiser after every n steps of the sampler: memory holds n network calls, whatever the length of the chain (the trick
of DiffusionCLIP, Kim et al. 2022). The chain runs in x = x_t / sqrt(alpha_bar_t), as AnimeDiffusion's does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ssimbad.errors import UserError
from ssimbad.methods import chain, losses
from ssimbad.methods.animediffusion import axis
from ssimbad.methods.contract import (
    START,
    Batch,
    Conditions,
    Features,
    Fresh,
    Losses,
    Method,
    Plan,
    Player,
    Rng,
    Setup,
    Shared,
)
from ssimbad.params.base import Colour, Positive, Sampler, Strict
from ssimbad.samplers.counts import NONE, ODE, Calls

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.samplers.ode import Watch

Even = Annotated[int, Field(ge=2, multiple_of=2)]
Beta = Annotated[float, Field(gt=0, lt=1)]
LAST = "finetune"
"""The slot whose network goes on from another's weights, which it keeps beside its own."""


class Config(chain.Dropping):
    base: Even = Field(default=64, description="channels of the first level")
    time: Even = Field(default=128, description="channels of the timestep's sinusoid; the source's: data.size")
    timesteps: Annotated[int, Field(ge=2)] = 1000
    beta_start: Beta = 1.0e-4
    beta_end: Beta = 2.0e-2


class Noise(Strict):
    """Predict the noise at random timesteps, the first one left out as in the source."""


class Reference(chain.ImageLoss):
    """From the reference's inversion to the target, with an optimiser step after every n steps of the sampler."""

    every_n: Positive = Field(default=1, description="steps of the sampler between two optimiser steps, n")
    loss_on: Literal["state", "denoised"] = Field(
        default="state", description="loss of x_t behind the n steps, noisy as it is; or of D in the last of them"
    )
    sampler: Sampler = Field(description="ddim; of the inversion and of the way back")

    @model_validator(mode="after")
    def _whole_groups(self) -> Reference:
        if self.sampler.name != "ddim":
            raise ValueError(f"sampler.name: the way back is made step by step by ddim, not by {self.sampler.name}")
        if self.sampler.steps % self.every_n:
            raise ValueError(f"every_n: {self.every_n} does not divide sampler.steps {self.sampler.steps}")
        return self


class ColourOptions(chain.Guided):
    """Where the chain starts, and what guides it."""

    start: Literal["qsample", "inversion"] = Field(
        default="qsample", description="the reference noised at random, as released; or inverted by DDIM, as trained"
    )
    level: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="qsample: share of the timesteps below the start, 1 for the last one as released"
    )

    @model_validator(mode="after")
    def _own(self) -> ColourOptions:
        if self.start == "inversion" and self.level != 1:
            raise ValueError("level: belongs to start qsample; remove it")
        return self

    @property
    def before(self) -> Calls:
        """The inversion: a call for each step but one."""
        return Calls(per_step=1, saved=1) if self.start == "inversion" else NONE


def needs(config: Config, slot: str) -> dict[str, str]:
    return {"frozen": START} if slot == LAST else {}


def fits(config: Config, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be halved three times."""
    if size % 8:
        raise ValueError(f"kind: coloring_assistant halves images three times; make data.size {size} a multiple of 8")


def build(setup: Setup) -> NoisePredictor:
    from ssimbad.methods import registry
    from ssimbad.networks.coloring_unet import ColoringUNet
    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.noise import ddpm

    config: Config = setup.config
    sigmas = ddpm.sigma(config.timesteps, config.beta_start, config.beta_end)
    network = ColoringUNet(7, 3, config.base, config.time)
    return NoisePredictor(network, sigmas, config=config, frozen=registry.part(setup, "frozen"))


def levels(model: NoisePredictor, steps: int, level: float = 1.0) -> Tensor:
    """sigma at the timesteps int(last·k / (N - 1)) from k = N - 1 down to 0, then 0; (N + 1,) float64.

    Args:
        level: of the highest of them, as a share of the last timestep.

    Raises:
        UserError: there are not so many timesteps.
    """
    import torch

    last = int(level * (len(model.sigmas) - 1))
    if steps > last + 1:
        raise UserError(f"sampler.steps: {steps} are more than the {last + 1} timesteps up to the start; give fewer")
    t = [last * k // (steps - 1) for k in range(steps - 1, -1, -1)] if steps > 1 else [last]
    return torch.cat([model.sigmas.cpu()[t], torch.zeros(1, dtype=torch.float64)])


def players(model: NoisePredictor, plan: Plan, features: Features | None) -> list[Player]:
    if plan.objective == "noise":
        return [Player(model, partial(noise_step, model))]
    return [Player(model, partial(reference_steps, model, plan.options, features))]


def noise_step(model: NoisePredictor, batch: Batch, rng: Rng) -> Losses:
    """The simple loss of DDPM (eq. 14) at t uniform in 1 … T - 1, counted from 0."""
    t = 1 + (rng.uniform() * (len(model.sigmas) - 1)).long()
    sigma = model.sigmas[t].to(batch.target)
    noise = rng.normal(*batch.target.shape[1:])
    noisy = batch.target + sigma[:, None, None, None] * noise
    batch = chain.dropped(batch, model.config, rng)
    per_image = (model.noise(noisy, sigma, batch.sketch, batch.reference) - noise).square().mean(dim=(1, 2, 3))
    return Losses(per_image.mean(), per_image.detach(), sigma)


def reference_steps(
    model: NoisePredictor, options: Reference, features: Features | None, batch: Batch, rng: Rng
) -> Iterator[Losses]:
    """S / n losses of one batch on the way from the reference's inversion to the target, nothing differentiated across
    them. `sigma` is that of the last network call behind each."""
    steps, n, grid = options.sampler.steps, options.every_n, levels(model, options.sampler.steps)
    walk = chain.make(options.sampler, chain.image_noise(rng.normal, batch), axis(model))
    judge, denoised = losses.make(options.loss, features), []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        denoised[:] = [model(x, sigma, batch.sketch, batch.reference)]
        return denoised[0]

    x = inverted(model, batch, grid)
    for first in range(0, steps, n):
        part = grid[first : first + n + 1]
        x = walk(denoise, x.detach(), part)
        image = denoised[0] if options.loss_on == "denoised" else scaled(x, float(part[-1]))
        per_image = judge(image, batch.target)
        yield Losses(per_image.mean(), per_image.detach(), batch.target.new_full((len(x),), float(part[-2])))


def scaled(x: Tensor, sigma: float) -> Tensor:
    """x_t = sqrt(alpha_bar_t)·x = x / sqrt(1 + sigma²)."""
    return x / (1 + sigma**2) ** 0.5


def inverted(model: NoisePredictor, given: Conditions, grid: Tensor, watch: Watch | None = None) -> Tensor:
    """x at grid[0] from the reference, by DDIM backwards without noise and without gradient.

    The reference is taken for x_t at the lowest level. The network is the one that the training started from, or the
    model itself where it has none beside it.
    """
    import torch

    from ssimbad.samplers import ode

    network = model if model.frozen is None else model.frozen
    start = given.reference * (1 + float(grid[-2]) ** 2) ** 0.5

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x, sigma, given.sketch, given.reference)

    with torch.no_grad():
        return ode.inversion(ode.watched(denoise, watch), start, grid)


def colorize(model: NoisePredictor, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    options, noise = ColourOptions.model_validate(colour.options), chain.image_noise(fresh, given)
    grid = levels(model, colour.by.steps, options.level)
    if options.start == "inversion":
        start = inverted(model, given, grid, watch)
    else:
        start = given.reference + float(grid[0]) * noise()
    return chain.colour(model, given, start, grid, chain.make(colour.by, noise, axis(model)), colour, watch)


METHOD = Method(
    Config=Config,
    objectives={"noise": Noise, "reference": Reference},
    build=build,
    players=players,
    colorize=colorize,
    samplers=ODE,
    ColourOptions=ColourOptions,
    default_colour=lambda config: Colour(sampler=Sampler(name="ddim", steps=25)),
    needs=needs,
    fits=fits,
    suits=chain.suits,
)
