"""What the methods that colour by a sampler share: the chain of network calls, and its refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssimbad.methods import losses
from ssimbad.methods.contract import Batch, Conditions, Features, Losses, Plan
from ssimbad.methods.losses import LOSSES
from ssimbad.params.base import Sampler, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.noise.transforms import Phi
    from ssimbad.samplers import ode


class ImageLoss(Strict):
    """A loss of the finished image."""

    loss: Literal[*LOSSES] = "mse"

    @property
    def features(self) -> str | None:
        """The feature network that the loss looks through."""
        return LOSSES[self.loss].network


class Trajectory(ImageLoss):
    """Back-propagate the loss of the finished image through the whole chain, from pure noise."""

    save_memory: bool = Field(default=True, description="gradient checkpointing of every network call")
    sampler: Sampler = Field(description="of the chain")


def make(sampler: Sampler, fresh: ode.Fresh, phi: Phi) -> ode.Sampler:
    """The sampler that the parameters name, on a grid that is uniform in phi."""
    from ssimbad.samplers import ode

    return ode.make(sampler.name, fresh, phi, sampler.eta, sampler.churn)


def colour(
    model: nn.Module, given: Conditions, start: Tensor, levels: Tensor, sampler: ode.Sampler, watch: ode.Watch | None
) -> Tensor:
    """(B, 3, H, W) in [-1, 1]: the chain of `model(x, sigma, sketch, reference) -> D` from `start` at levels[0]."""
    from ssimbad.samplers import ode

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma, given.sketch, given.reference)

    return sampler(ode.watched(denoise, watch), start, levels).clamp(-1, 1)


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


def fits(config: Strict, size: int, shared: Mapping[str, Any]) -> None:
    """Raises ValueError when images of `size` cannot be halved as often as the shared network does."""
    shared["network"].require_size(size)
