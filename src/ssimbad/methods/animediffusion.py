"""AnimeDiffusion (Cao et al. 2024): DDPM conditioned by concatenation, finetuned through the target's DDIM inversion.

The chain runs in x = x_t / sqrt(alpha_bar_t) with sigma = sqrt((1 - alpha_bar_t) / alpha_bar_t) (networks/denoiser.py),
so that it shares samplers and trajectory refinement with the other rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from ssimbad.methods import chain
from ssimbad.methods.contract import Batch, Conditions, Exported, Features, Fresh, Losses, Method, Plan, Rng, Setup
from ssimbad.params.base import Above0, Colour, Positive, Sampler, Strict
from ssimbad.samplers.counts import ODE

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.noise.transforms import Phi
    from ssimbad.samplers.ode import Watch


class Timed(Protocol):
    """A model that is trained and sampled at the timesteps of a DDPM."""

    @property
    def sigmas(self) -> Tensor:
        """(T,) float64, rising."""
        ...

    @property
    def as_published(self) -> bool:
        """Whether chains are those of the public code of AnimeDiffusion."""
        ...


class Config(chain.Dropping):
    timesteps: Positive = 1000
    beta_start: Above0 = 1.0e-6
    beta_end: Above0 = 1.0e-2
    as_published: bool = Field(
        default=False,
        description="inversion without the timestep, and chains from t = 1 + (N-1)·T/N instead of from the last one",
    )


class Noise(Strict):
    """Predict the noise at random timesteps."""


class Inversion(chain.Trajectory):
    """DDIM's inversion of the target, then the loss of the image to which the chain brings it back."""


def remarks(config: Config, options: Strict, features: bool) -> list[str]:
    if not config.as_published:
        return []
    return ["AnimeDiffusion as published: inversion without the timestep, chains that start below the last timestep."]


def build(setup: Setup) -> NoisePredictor:
    from ssimbad.networks.denoiser import NoisePredictor
    from ssimbad.networks.unet import UNet
    from ssimbad.noise import ddpm

    config: Config = setup.config
    sigmas = ddpm.sigma(config.timesteps, config.beta_start, config.beta_end)
    network = UNet(7, 3, **setup.shared["network"].model_dump())
    return NoisePredictor(network, sigmas, config.as_published, config)


def levels(model: Timed, steps: int) -> Tensor:
    """sigma at N timesteps from the last one down to the first, then 0; (N + 1,) float64."""
    import torch

    last = len(model.sigmas) - 1
    if model.as_published:
        t = 1 + torch.arange(steps).flip(0) * (len(model.sigmas) // steps)
    else:
        t = torch.linspace(last, 0, steps, dtype=torch.float64).round().long()
    return torch.cat([model.sigmas.cpu()[t.clamp(max=last)], torch.zeros(1, dtype=torch.float64)])


def axis(model: Timed) -> Phi:
    """The timestep as a function of sigma."""
    from ssimbad.noise import transforms

    sigmas = model.sigmas.cpu().numpy()
    return transforms.make({"form": "empirical", "sigmas": sigmas, "values": range(len(sigmas))})


def training_step(
    model: NoisePredictor, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None
) -> Losses:
    if plan.objective != "noise":
        return _chain_step(model, batch, plan, rng, features)
    t = (rng.uniform() * len(model.sigmas)).long()
    sigma = model.sigmas[t].to(batch.target)
    noise = rng.normal(*batch.target.shape[1:])
    noisy = batch.target + sigma[:, None, None, None] * noise
    batch = chain.dropped(batch, model.config, rng)
    per_image = (model.noise(noisy, sigma, batch.sketch, batch.reference) - noise).square().mean(dim=(1, 2, 3))
    return Losses(per_image.mean(), per_image.detach(), sigma)


def _chain_step(model: NoisePredictor, batch: Batch, plan: Plan, rng: Rng, features: Features | None) -> Losses:
    fresh, sampler = chain.image_noise(rng.normal, batch), plan.options.sampler
    grid = levels(model, sampler.steps)
    noise = fresh()
    batch = chain.dropped(batch, model.config, rng)
    start = inverted(model, batch, noise, grid) if plan.objective == "inversion" else pure(noise, grid)
    return chain.refine(model, batch, plan, start, grid, chain.make(sampler, fresh, axis(model)), features)


def pure(noise: Tensor, grid: Tensor) -> Tensor:
    """x_T ~ N(0, 1) as x = x_T / sqrt(alpha_bar_T) = sqrt(1 + sigma²)·noise, at sigma = grid[0]."""
    return deviation(grid) * noise


def deviation(grid: Tensor) -> float:
    """sqrt(1 + sigma²) at sigma = grid[0]."""
    return float((1 + grid[0] ** 2).sqrt())


def inverted(model: NoisePredictor, batch: Batch, noise: Tensor, grid: Tensor) -> Tensor:
    """x at grid[0] from the target: noise to the lowest level of the grid, from there DDIM backwards; no gradient."""
    import torch

    from ssimbad.samplers.ode import inversion

    timed = not model.as_published
    with torch.no_grad():
        return inversion(
            lambda x, sigma: model(x, sigma, batch.sketch, batch.reference, timed),
            batch.target + float(grid[-2]) * noise,
            grid,
        )


def colorize(model: NoisePredictor, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    noise, grid = chain.image_noise(fresh, given), levels(model, colour.by.steps)
    sampler = chain.make(colour.by, noise, axis(model))
    return chain.colour(model, given, pure(noise(), grid), grid, sampler, colour, watch)


def exported(model: NoisePredictor, setup: Setup, colour: Colour) -> Exported:
    grid = levels(model, colour.by.steps)
    return chain.exported(setup.size, grid, deviation(grid))


METHOD = Method(
    Config=Config,
    objectives={"noise": Noise, "inversion": Inversion, "trajectory": chain.Trajectory},
    build=build,
    training_step=training_step,
    colorize=colorize,
    samplers=ODE,
    ColourOptions=chain.Guided,
    default_colour=lambda config: Colour(sampler=Sampler(name="ddim", steps=50)),
    reads=("network",),
    fits=chain.fits,
    suits=chain.suits,
    exported=exported,
    remarks=remarks,
)
