"""DDPM (Ho et al. 2020) of anime faces, given nothing: what is known of faces before any sketch.

Rows that show it nothing draw faces of their own. Rows with `start` show it a reference, noised to a timestep and
denoised from there (SDEdit, Meng et al. 2022), which is this project's adaptation: colours follow the reference, and
the sketch that comes with it is ignored, since no setting shows a reference alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ssimbad.errors import there
from ssimbad.methods import animediffusion, chain
from ssimbad.methods.contract import Batch, Conditions, Features, Fresh, Losses, Method, Plan, Rng, Setup, Shared
from ssimbad.params.base import Above0, Colour, Positive, Sampler, Strict
from ssimbad.samplers.counts import ODE, Calls

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.samplers import ode

JUDGED = 10
"""Timesteps at which validation faces are noised."""

Level = Annotated[int, Field(ge=0)]


class Config(Strict):
    base: Positive = Field(default=64, description="channels of the first level")
    multipliers: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[1, 2, 4, 4], description="channels per level / base"
    )
    blocks: Positive = Field(default=2, description="residual blocks per level, one more on the way up")
    attention: list[Level] = Field(default=[2], description="levels that attend; 0 is the image's own size")
    groups: Positive = Field(default=32, description="of GroupNorm")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="share of activations, in training")
    prediction: Literal["noise", "velocity"] = Field(
        default="noise", description="what the network says of a noisy image: noise, as published, or velocity"
    )
    timesteps: Positive = 1000
    beta_start: Above0 = 1.0e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 2.0e-2

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.base % self.groups:
            raise ValueError(f"groups: {self.groups} does not divide base {self.base}; choose one that does")
        if self.base % 2:
            raise ValueError(f"base: {self.base} is odd; sinusoids of the timestep come in pairs, choose an even one")
        if beyond := [level for level in self.attention if level >= len(self.multipliers)]:
            raise ValueError(f"attention: there is no level {beyond[0]}; the last is {len(self.multipliers) - 1}")
        return self


class Noise(Strict):
    """Predict the noise, or the velocity, at random timesteps."""


class Options(Strict):
    """How its weights are used."""

    variance: Literal["beta", "posterior"] = Field(
        default="beta", description="of the noise that `ancestral` renews: beta_t, or the posterior's"
    )
    last_noise: bool = Field(
        default=False, description="`ancestral`: noise in the step to the image too, as in the public code"
    )
    start: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="share of the timesteps to which the reference is noised; null: begin from pure noise"
    )
    chain: Literal["matched", "whole"] = Field(
        default="matched",
        description="with start: denoise from that timestep, or from the last one, whatever the noise, as published",
    )

    @model_validator(mode="after")
    def _of_start(self) -> Options:
        if self.chain == "whole" and self.start is None:
            raise ValueError("chain: belongs to start, without which it is whole; remove it")
        return self


def build(setup: Setup) -> NoisePredictor:
    from ssimbad.networks.ddpm_unet import UNet
    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.noise import ddpm

    config: Config = setup.config
    own = config.model_dump(exclude={"prediction", "timesteps", "beta_start", "beta_end"})
    sigmas = ddpm.sigma(config.timesteps, config.beta_start, config.beta_end)
    return NoisePredictor(UNet(**own), sigmas, shape=(3, setup.size, setup.size), prediction=config.prediction)


def levels(model: NoisePredictor, steps: int, start: float | None = None) -> Tensor:
    """sigma at N timesteps evenly from the last one, or from that share of them, to the first; then 0: (N + 1,)
    float64."""
    import torch

    last = max(1, round((start or 1.0) * len(model.sigmas))) - 1
    t = torch.linspace(last, 0, steps, dtype=torch.float64).round().long()
    return torch.cat([model.sigmas.cpu()[t], torch.zeros(1, dtype=torch.float64)])


def training_step(
    model: NoisePredictor, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None
) -> Losses:
    t = (rng.uniform() * len(model.sigmas)).long()
    noise = rng.normal(*model.shape)
    per_image, sigma = _error(model, batch.target, t, noise, rng.uniform)
    return Losses(per_image.mean(), per_image.detach(), sigma)


def _error(
    model: NoisePredictor, image: Tensor, t: Tensor, noise: Tensor, uniform: Callable[..., Tensor] | None
) -> tuple[Tensor, Tensor]:
    """(B,) mean squared error of what is predicted of x_t, the noise (DDPM, eq. 14) or the velocity, and (B,) sigma."""
    from ssimbad.networks.denoiser import wanted

    sigma = model.sigmas[t].to(image)
    at = sigma[:, None, None, None]
    noisy = (image + at * noise) / (1 + at**2).sqrt()
    predicted = model.network(noisy, t.float(), uniform).float()
    return (predicted - wanted(model.prediction, image, noise, sigma)).square().mean(dim=(1, 2, 3)), sigma


def score(model: NoisePredictor, batch: Batch) -> Tensor:
    """(B,) minus the error of the prediction, over evenly spaced timesteps and always the same noise: answers that are
    drawn from nothing have no target."""
    import torch

    image, errors = batch.target, []
    for k, t in enumerate(torch.linspace(0, len(model.sigmas) - 1, JUDGED).round().long().tolist()):
        noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(k)).to(image)
        times = torch.full((len(image),), t, device=image.device)
        errors.append(_error(model, image, times, noise.expand_as(image), None)[0])
    return -torch.stack(errors).mean(0)


def begun(
    model: NoisePredictor, reference: Tensor | None, noise: Tensor, steps: int, options: Options
) -> tuple[Tensor, Tensor]:
    """x at the highest noise level of the chain, and the chain's levels."""
    whole = levels(model, steps)
    if options.start is None:
        return animediffusion.pure(noise, whole), whole
    matched = levels(model, steps, options.start)
    x = there(reference) + float(matched[0]) * noise
    if options.chain == "matched":
        return x, matched
    # The same x_t, which the last timestep takes for its own.
    return x * float(((1 + whole[0] ** 2) / (1 + matched[0] ** 2)).sqrt()), whole


def sampler(model: NoisePredictor, how: Sampler, options: Options, fresh: ode.Fresh) -> ode.Sampler:
    """The one that the row names."""
    if how.name != "ancestral":
        return chain.make(how, fresh, animediffusion.axis(model))
    from ssimbad.samplers.ancestral import ancestral

    return partial(ancestral, variance=options.variance, fresh=fresh, last_noise=options.last_noise)


def colorize(model: NoisePredictor, given: Conditions, fresh: Fresh, colour: Colour, watch: ode.Watch | None) -> Tensor:
    from ssimbad.samplers import ode

    noise = partial(fresh, *model.shape)
    x, grid = begun(model, given.reference, noise(), colour.by.steps, colour.options)
    down = sampler(model, colour.by, colour.options, noise)
    return down(ode.watched(model, watch), x, grid).clamp(-1, 1)


def fits(config: Config, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be halved as often as the network does."""
    if size % (depth := 2 ** (len(config.multipliers) - 1)):
        raise ValueError(f"config.multipliers: data.size {size} is not divisible by {depth}; give fewer levels")


def remarks(config: Config, options: Noise, features: bool) -> list[str]:
    return ["DDPM of faces predicts the velocity; its source, the noise."] if config.prediction == "velocity" else []


METHOD = Method(
    Config=Config,
    objectives={"noise": Noise},
    build=build,
    training_step=training_step,
    colorize=colorize,
    score=score,
    inputs=(),
    shown=lambda options: () if options.start is None else ("sketch", "reference"),
    samplers={"ancestral": Calls(), **ODE},
    ColourOptions=Options,
    default_colour=lambda config: Colour(sampler=Sampler(name="ancestral", steps=100), options=Options()),
    fits=fits,
    remarks=remarks,
)
