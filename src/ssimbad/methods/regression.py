"""Regression: the shared U-Net from sketch and reference to the image, without noise, in one call.

The control that asks what diffusion adds: it minimises, directly, the loss that trajectory refinement back-propagates
through a chain. Of all possible answers it gives their mean, which is what PSNR rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssimbad.methods import chain, losses
from ssimbad.methods.contract import Batch, Draws, Features, Losses, Plan, Setup
from ssimbad.params.base import Sampler, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.samplers import Fresh

SAMPLED = False


class Config(Strict):
    """Nothing of its own: the network is the shared one."""


class Direct(chain.ImageLoss):
    """The loss of the image, as in trajectory refinement."""


OBJECTIVES: dict[str, type[Strict]] = {"direct": Direct}


def build(setup: Setup) -> nn.Module:
    from ssimbad.networks.unet import UNet

    return UNet(4, 3, **setup.network.model_dump())


def _image(model: nn.Module, sketch: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) float32, unclipped. The noise level is always 0: its bias is one bias more."""
    import torch

    return model(torch.cat([sketch, reference], dim=1), sketch.new_zeros(len(sketch))).float()


def training_step(model: nn.Module, batch: Batch, plan: Plan, draws: Draws, features: Features | None = None) -> Losses:
    image = _image(model, batch.sketch, batch.reference)
    per_image = losses.make(plan.options.loss, features)(image, batch.target)
    return Losses(per_image.mean(), per_image.detach(), None)


def colorize(model: nn.Module, sketch: Tensor, reference: Tensor, fresh: Fresh, sampler: Sampler | None) -> Tensor:
    return _image(model, sketch, reference).clamp(-1, 1)
