"""Regression: the shared U-Net from sketch and reference to the image, without noise, in one call.

The control that asks what diffusion adds: it minimises, directly, the loss that trajectory refinement back-propagates
through a chain. Of all possible answers it gives their mean, which is what PSNR rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssimbad.methods import chain, losses
from ssimbad.methods.contract import Batch, Conditions, Exported, Features, Fresh, Losses, Method, Plan, Rng, Setup
from ssimbad.params.base import Colour, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.samplers.ode import Watch


class Config(Strict):
    """Nothing of its own: the network is the shared one."""


class Direct(chain.ImageLoss):
    """The loss of the image, as in trajectory refinement."""


def build(setup: Setup) -> nn.Module:
    from ssimbad.networks.unet import UNet

    return UNet(4, 3, **setup.shared["network"].model_dump())


def _image(model: nn.Module, given: Conditions) -> Tensor:
    """(B, 3, H, W) float32, unclipped. The noise level is always 0: its bias is one bias more."""
    import torch

    none = torch.zeros_like(given.sketch[:, 0, 0, 0])
    return model(torch.cat([given.sketch, given.reference], dim=1), none).float()


def training_step(model: nn.Module, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None) -> Losses:
    per_image = losses.make(plan.options.loss, features)(_image(model, batch), batch.target)
    return Losses(per_image.mean(), per_image.detach(), None)


def colorize(model: nn.Module, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    return _image(model, given).clamp(-1, 1)


def exported(model: nn.Module, setup: Setup, colour: Colour) -> Exported:
    def call(model: nn.Module, sketch: Tensor, reference: Tensor) -> Tensor:
        return _image(model, Conditions(sketch=sketch, reference=reference)).clamp(-1, 1)

    inputs = {"sketch": (1, setup.size, setup.size), "reference": (3, setup.size, setup.size)}
    return Exported(call, inputs)


METHOD = Method(
    Config=Config,
    objectives={"direct": Direct},
    build=build,
    training_step=training_step,
    colorize=colorize,
    reads=("network",),
    fits=chain.fits,
    exported=exported,
)
