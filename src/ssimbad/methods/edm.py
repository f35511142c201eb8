"""EDM (Karras et al. 2022) conditioned on sketch and reference, with every part of its schedule exchangeable for phi.

`Config` names four choices, each either EDM's or SSIMBaD's: the density of sigma in training, the sampling grid, the
noise embedding and the loss weight. EDM is the defaults; SSIMBaD (methods/ssimbad.py) is phi everywhere, unweighted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from ssimbad.errors import there
from ssimbad.methods import chain
from ssimbad.methods.contract import PHI, Batch, Conditions, Exported, Features, Fresh, Losses, Method, Plan, Rng, Setup
from ssimbad.params.base import Above0, Colour, Noise, Sampler, Strict
from ssimbad.samplers.counts import ODE

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.denoiser import Denoiser
    from ssimbad.noise.transforms import Phi
    from ssimbad.samplers.ode import Watch


T = TypeVar("T")


class Schedule(chain.Dropping):
    """What every method on EDM's preconditioning can be told about phi."""

    phi: Literal["selected"] | dict[str, Any] | None = Field(
        default=None,
        description="noise schedule: the selected one, or a literal such as {form: rational, c: 0.3}",
    )
    as_published: bool = Field(
        default=False, description="c_noise unscaled (phi, or ln(sigma)/4 for EDM): barely visible to the network"
    )

    @field_validator("phi")
    @classmethod
    def _known_form(cls, value: T) -> T:
        if isinstance(value, dict):
            from ssimbad.noise.transforms import make

            make(value)
        return value


class Config(Schedule):
    sigma_density: Literal["log_normal", "phi"] = "log_normal"
    sampling_grid: Literal["rho", "phi"] = "rho"
    c_noise: Literal["log", "phi"] = "log"
    loss_weight: Literal["edm", "none"] = "edm"
    p_mean: float = Field(default=-1.2, description="mean of ln sigma")
    p_std: Above0 = Field(default=1.2, description="standard deviation of ln sigma")
    rho: Above0 = Field(default=7.0, description="exponent of the sampling grid")

    @model_validator(mode="after")
    def _phi_where_used(self) -> Config:
        if self.phi is None and "phi" in (self.sigma_density, self.sampling_grid, self.c_noise):
            raise ValueError("phi: needed by sigma_density, sampling_grid or c_noise; give `selected` or a literal")
        return self


class Denoising(Strict):
    """Denoise y + sigma·n at random sigma."""


def remarks(config: Schedule, options: Strict, features: bool) -> list[str]:
    return ["c_noise as published: unscaled."] if config.as_published else []


def needs(config: Schedule, slot: str) -> dict[str, str]:
    return {"phi": PHI} if config.phi == "selected" else {}


@dataclass(frozen=True)
class NoiseLevels:
    """The noise levels at which a model is trained and sampled, by its configuration."""

    config: Config
    noise: Noise
    phi: Phi | None

    def chosen(self) -> Phi:
        """phi, of a configuration that uses it: `Config` has refused those that then name none."""
        return there(self.phi)

    def axis(self) -> Phi:
        """The phi along which the sampling grid is uniform: EDM's sigma^(1/rho) (eq. 5), or SSIMBaD's."""
        from ssimbad.noise import transforms

        if self.config.sampling_grid == "phi":
            return self.chosen()
        return transforms.make({"form": "edm", "rho": self.config.rho})

    def grid(self, steps: int) -> Tensor:
        """N noise levels of the sampling grid, then 0; (N + 1,) float64."""
        from ssimbad.noise import transforms

        return transforms.levels(self.axis(), steps, self.noise.sigma_min, self.noise.sigma_max)

    def draw(self, u: Tensor) -> Tensor:
        """(B,) float64 noise levels of the training density from u uniform in [0, 1)."""
        import torch

        from ssimbad.noise import transforms

        if self.config.sigma_density == "phi":
            return transforms.sample_sigma(self.chosen(), u, self.noise.sigma_min, self.noise.sigma_max)
        normal = math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-12, 1 - 1e-12) - 1)
        return torch.exp(self.config.p_mean + self.config.p_std * normal)

    def weight(self, sigma: Tensor) -> Tensor | float:
        """lambda(sigma), by which the squared error of D counts."""
        if self.config.loss_weight == "none":
            return 1.0
        data = self.noise.sigma_data
        return (sigma**2 + data**2) / (sigma * data) ** 2


def build(setup: Setup) -> Denoiser:
    from ssimbad.networks.denoiser import Denoiser
    from ssimbad.networks.unet import UNet
    from ssimbad.noise import transforms

    config: Config = setup.config
    literal = setup.needed["phi"] if config.phi == "selected" else config.phi
    phi = transforms.make(literal, setup.shared["schedule.saturation"]) if isinstance(literal, Mapping) else None
    noise = setup.shared["noise"]
    levels = NoiseLevels(config, noise, phi)

    # One treatment for every axis. The sinusoid is made for values up to 1000, so EDM's ln(sigma)/4, which
    # spans [-1.6, 1.1], is rescaled as phi is; the factor 1/4 then has no effect.
    axis = transforms.make({"form": "log"}) if config.c_noise == "log" else levels.chosen()

    def embed(sigma: Tensor) -> Tensor:
        if config.as_published:
            return sigma.log() / 4 if config.c_noise == "log" else axis.forward(sigma)
        return 1000 * transforms.unit(axis, sigma, noise.sigma_min, noise.sigma_max)

    network = UNet(7, 3, **setup.shared["network"].model_dump())
    return Denoiser(network, noise.sigma_data, embed, levels)


def training_step(model: Denoiser, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None) -> Losses:
    if plan.objective == "trajectory":
        return _trajectory_step(model, batch, plan, rng, features)
    sigma = model.levels.draw(rng.uniform()).float()
    noisy = batch.target + sigma[:, None, None, None] * rng.normal(*batch.target.shape[1:])
    batch = chain.dropped(batch, model.levels.config, rng)
    denoised = model(noisy, sigma, batch.sketch, batch.reference)
    per_image = (denoised - batch.target).square().mean(dim=(1, 2, 3))
    return Losses((model.levels.weight(sigma) * per_image).mean(), per_image.detach(), sigma)


def _trajectory_step(model: Denoiser, batch: Batch, plan: Plan, rng: Rng, features: Features | None) -> Losses:
    fresh, sampler = chain.image_noise(rng.normal, batch), plan.options.sampler
    grid = model.levels.grid(sampler.steps)
    start = float(grid[0]) * fresh()
    batch = chain.dropped(batch, model.levels.config, rng)
    return chain.refine(model, batch, plan, start, grid, chain.make(sampler, fresh, model.levels.axis()), features)


def colorize(model: Denoiser, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    noise, grid = chain.image_noise(fresh, given), model.levels.grid(colour.by.steps)
    sampler = chain.make(colour.by, noise, model.levels.axis())
    return chain.colour(model, given, float(grid[0]) * noise(), grid, sampler, colour, watch)


def exported(model: Denoiser, setup: Setup, colour: Colour) -> Exported:
    grid = model.levels.grid(colour.by.steps)
    return chain.exported(setup.size, grid, float(grid[0]))


METHOD = Method(
    Config=Config,
    objectives={"denoising": Denoising, "trajectory": chain.Trajectory},
    build=build,
    training_step=training_step,
    colorize=colorize,
    samplers=ODE,
    ColourOptions=chain.Guided,
    default_colour=lambda config: Colour(sampler=Sampler(name="heun", steps=50)),
    reads=("network", "noise", "schedule.saturation"),
    needs=needs,
    fits=chain.fits,
    suits=chain.suits,
    exported=exported,
    remarks=remarks,
)
