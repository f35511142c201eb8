"""What the methods that colour by a sampler share: the chain of network calls, its guidance, and its refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ssimbad.methods import losses
from ssimbad.methods.contract import Batch, Conditions, Exported, Features, Losses, Plan, Rng, Shared
from ssimbad.methods.losses import LOSSES
from ssimbad.params.base import Above0, Colour, Fraction, Positive, Sampler, Strict
from ssimbad.samplers.counts import EACH, ODE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.noise.transforms import Phi
    from ssimbad.samplers import ode

    LossName = str
else:
    LossName = Literal[*LOSSES]  # a checker reads no table of names


class ImageLoss(Strict):
    """A loss of the finished image."""

    loss: LossName = "mse"

    @property
    def features(self) -> str | None:
        """The feature network that the loss looks through."""
        return LOSSES[self.loss].network


class Trajectory(ImageLoss):
    """Back-propagate the loss of the finished image through the whole chain, from pure noise."""

    save_memory: bool = Field(default=True, description="gradient checkpointing of every network call")
    sampler: Sampler = Field(description="of the chain")


Share = Annotated[float, Field(ge=0, lt=1)]
Scale = Annotated[float, Field(ge=0)]


class Dropping(Strict):
    """Of the config of a kind whose network learns to do without its conditions too (Ho & Salimans 2022)."""

    drop: Share = Field(default=0.0, description="share of the training images whose reference is not shown: all grey")
    drop_sketch: Share = Field(default=0.0, description="share of those whose sketch is not shown: blank paper")


class Guidance(Strict):
    """The pull of the given sketch on the image that each network call denoises."""

    weight: Above0 = Field(description="times the gradient of the line loss, per pixel: how far the image is moved")
    loss: Literal["dice", "mse"] = Field(default="dice", description="of the image's ink against the sketch's")
    start: Fraction = Field(default=0.0, description="share of the steps that are over when the pull begins")
    end: Fraction = Field(default=1.0, description="share of the steps that are over when it ends")
    enlarge: Positive = Field(default=1, description="sketches are drawn at so many times data.size: data.native_size")
    sigma: Above0 = Field(default=0.4, description="of XDoG, pixels of the enlarged image")
    k: Above0 = Field(default=3.5, description="as in sketches")
    p: Above0 = Field(default=10.0, description="as in sketches")
    epsilon: float = Field(default=0.01, description="as in sketches")
    phi: Above0 = Field(default=3.0, description="slope of XDoG's threshold; that of sketches has no gradient")

    @model_validator(mode="after")
    def _ordered(self) -> Guidance:
        if self.start >= self.end:
            raise ValueError(f"start {self.start:g} must be below end {self.end:g}")
        return self


class Scaled(Strict):
    """Classifier-free guidance (Ho & Salimans 2022)."""

    guidance_scale: Scale = Field(
        default=1.0, description="of classifier-free guidance by the reference; each scale other than 1 costs a call"
    )
    sketch_guidance_scale: Scale = Field(default=1.0, description="the same by the sketch")

    @property
    def calls(self) -> int:
        """Network calls for each call of the sampler."""
        return 1 + len(_scaled(self))


class Guided(Scaled):
    """How rows are coloured that colour by a sampler: `ColourOptions` of their kinds."""

    guidance: Guidance | None = Field(default=None, description="by the lines of the given sketch; null: none")


_DROPS = {"reference": ("guidance_scale", "drop"), "sketch": ("sketch_guidance_scale", "drop_sketch")}
"""By the condition: the scale of its guidance, and the share of training images that miss it."""


def _scaled(options: Scaled) -> dict[str, float]:
    """The conditions by which an image is guided, and their scales."""
    scales = {name: getattr(options, scale) for name, (scale, _) in _DROPS.items()}
    return {name: scale for name, scale in scales.items() if scale != 1}


def suits(config: Dropping, options: Scaled, slot: str) -> None:
    """Raises ValueError when a network is to be guided by what it has never missed."""
    require_missed(options, {name: (share, getattr(config, share)) for name, (_, share) in _DROPS.items()})


def require_missed(options: Scaled, missed: Mapping[str, tuple[str, float]]) -> None:
    """The same of a kind that has shares of its own, {condition: (key, share of images without it)}."""
    for name in _scaled(options):
        (scale, _), (share, images) = _DROPS[name], missed[name]
        if not images:
            raise ValueError(f"{scale}: these weights have never missed a {name}; set it to 1, or train with {share}")


def missing(name: str, images: Tensor) -> Tensor:
    """What stands for a condition that is not shown: a grey reference, a sheet without a line."""
    import torch

    return torch.zeros_like(images) if name == "reference" else torch.ones_like(images)


def dropped(batch: Batch, config: Dropping, rng: Rng) -> Batch:
    """The batch with the conditions of some of its images not shown; nothing is drawn where none can be."""
    import torch

    for name, (_, share) in _DROPS.items():
        if chance := getattr(config, share):
            images, lost = getattr(batch, name), rng.uniform() < chance
            batch = replace(batch, **{name: torch.where(lost[:, None, None, None], missing(name, images), images)})
    return batch


def denoiser(model: Callable[..., Tensor], given: Conditions, colour: Colour, watch: ode.Watch | None) -> ode.Denoiser:
    """What a sampler calls to colour: `model(x, sigma, sketch, reference) -> D`, guided as the row's options say.

    Without any it is the model, call by call. `watch` is told of the guided images.
    """
    from ssimbad.samplers import ode

    options = colour.options or Guided()
    denoise = _scaling(model, given, _scaled(options))
    if options.guidance:
        denoise = _pulled(denoise, given.sketch, options.guidance, colour.by)
    return ode.watched(denoise, watch)


def _scaling(model: Callable[..., Tensor], given: Conditions, scales: Mapping[str, float]) -> ode.Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, in D): D + Σ (scale - 1)·(D - D without the condition)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        whole = guided = model(x, sigma, given.sketch, given.reference)
        for name, scale in scales.items():
            less = replace(given, **{name: missing(name, getattr(given, name))})
            guided = guided + (scale - 1) * (whole - model(x, sigma, less.sketch, less.reference))
        return guided

    return denoise


def _pulled(denoise: ode.Denoiser, sketch: Tensor, guidance: Guidance, sampler: Sampler) -> ode.Denoiser:
    """D moved down the gradient of its line loss, in the steps that are guided.

    The gradient is taken at D itself and not through the network (He et al. 2024, MPGD, without its projection): it
    costs no network call and no activations, and nothing but the sketch is known to it.
    """
    calls, per_step = count(), ODE.get(sampler.name, EACH).per_step
    first, behind = guidance.start * sampler.steps, guidance.end * sampler.steps

    def pulled(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        if first <= next(calls) // per_step < behind:
            return denoised - guidance.weight * line_gradient(denoised, sketch, guidance)
        return denoised

    return pulled


def line_gradient(images: Tensor, sketch: Tensor, guidance: Guidance) -> Tensor:
    """(B, 3, H, W): of the line loss of (B, 3, H, W) in [-1, 1] against (B, 1, H, W), times the number of pixels, so
    that a weight means the same at every size. Works where gradients are switched off, as in all colouring."""
    import torch

    from ssimbad.networks.precision import uncast
    from ssimbad.pairing import lines

    with torch.inference_mode(False), torch.enable_grad(), uncast(images):
        image = images.detach().clone().float().requires_grad_()  # what inference mode has made knows no gradient
        found = lines.ink(image, guidance.sigma, guidance, guidance.enlarge)
        loss = lines.LOSSES[guidance.loss](found, (1 - sketch.clone().float()) / 2)
        return torch.autograd.grad(loss.sum(), image)[0] * images[0, 0].numel()


def make(sampler: Sampler, fresh: ode.Fresh, phi: Phi) -> ode.Sampler:
    """The sampler that the parameters name, on a grid that is uniform in phi."""
    from ssimbad.samplers import ode

    return ode.make(sampler.name, fresh, phi, sampler.eta, sampler.churn)


def colour(
    model: nn.Module,
    given: Conditions,
    start: Tensor,
    levels: Tensor,
    sampler: ode.Sampler,
    how: Colour,
    watch: ode.Watch | None,
) -> Tensor:
    """(B, 3, H, W) in [-1, 1]: the chain of `model(x, sigma, sketch, reference) -> D` from `start` at levels[0], guided
    as the row's options say."""
    return sampler(denoiser(model, given, how, watch), start, levels).clamp(-1, 1)


def refine(
    model: nn.Module,
    batch: Batch,
    plan: Plan,
    start: Tensor,
    levels: Tensor,
    sampler: ode.Sampler,
    features: Features | None,
) -> Losses:
    """The loss of the finished image, with gradients through every call of the chain (SSIMBaD, arXiv 2506.04283)."""
    from ssimbad import refinement

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma, batch.sketch, batch.reference)

    image = refinement.through_chain(denoise, sampler, start, levels, plan.options.save_memory)
    per_image = losses.make(plan.options.loss, features)(image, batch.target)
    return Losses(per_image.mean(), per_image.detach(), None)


def image_noise(fresh: Callable[..., Tensor], given: Conditions) -> ode.Fresh:
    """Noise in the form of the images that belong to a sketch."""
    return lambda: fresh(3, *given.sketch.shape[2:])


def exported(size: int, levels: Tensor, start: float) -> Exported:
    """A denoiser `model(x, sigma, sketch, reference) -> D` without guidance, and the noise levels of its chain."""
    image, sheet = (3, size, size), (1, size, size)
    inputs = {"x": image, "sigma": (), "sketch": sheet, "reference": image}
    return Exported(lambda model, *given: model(*given), inputs, "denoised", tuple(levels.tolist()), start)


def fits(config: Strict, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be halved as often as the shared network does."""
    shared["network"].require_size(size)
