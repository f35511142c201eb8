"""What the methods that colour by a sampler share: the chain of network calls, and its refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssimbad.methods import losses
from ssimbad.methods.contract import Batch, Draws, Features, Losses, Plan
from ssimbad.methods.losses import LOSSES
from ssimbad.params.base import Sampler, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad import samplers
    from ssimbad.noise.transforms import Phi


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
    sampler: Sampler | None = Field(default=None, description="of the chain; null: the one the row colours with")


def make(sampler: Sampler, fresh: samplers.Fresh, phi: Phi) -> samplers.Sampler:
    """The sampler that the parameters name, on a grid that is uniform in phi."""
    from ssimbad import samplers

    churn = samplers.Churn(**sampler.churn.model_dump(exclude_none=True)) if sampler.churn else None
    return samplers.make(sampler.name, fresh, phi, sampler.eta, churn)


def colour(
    model: nn.Module,
    sketch: Tensor,
    reference: Tensor,
    start: Tensor,
    levels: Tensor,
    sampler: samplers.Sampler,
) -> Tensor:
    """(B, 3, H, W) in [-1, 1]: the chain of `model(x, sigma, sketch, reference) -> D` from `start` at levels[0]."""
    return sampler(lambda x, sigma: model(x, sigma, sketch, reference), start, levels).clamp(-1, 1)


def refine(
    model: nn.Module,
    batch: Batch,
    plan: Plan,
    start: Tensor,
    levels: Tensor,
    sampler: samplers.Sampler,
    features: Features | None,
) -> Losses:
    """The loss of the finished image, with gradients through every call of the chain (SSIMBaD, arXiv 2506.04283)."""
    from ssimbad import refinement

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma, batch.sketch, batch.reference)

    image = refinement.through_chain(denoise, sampler, start, levels, plan.options.save_memory)
    per_image = losses.make(plan.options.loss, features)(image, batch.target)
    return Losses(per_image.mean(), per_image.detach(), None)


def fresh(batch: Batch, draws: Draws) -> samplers.Fresh:
    """Noise for a training batch's chain."""
    return lambda: draws.normal(*batch.target.shape[1:])
