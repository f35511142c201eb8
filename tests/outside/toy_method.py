"""A method from outside: faces of its own, drawn around the mean code of an autoencoder that is a training apart."""

import torch
from torch import nn

from ssimbad.methods.contract import Losses, Method
from ssimbad.params.base import Positive, Strict


class Config(Strict):
    width: Positive = 4


class Reconstruct(Strict):
    """The autoencoder's objective."""


class Prior(Strict):
    """The mean code's objective."""


class Autoencoder(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(3, width, 4, 4), nn.ConvTranspose2d(width, 3, 4, 4))


class Faces(nn.Module):
    def __init__(self, width, side):
        super().__init__()
        self.codes, self.mean = Autoencoder(width), nn.Parameter(torch.zeros(width, side, side))


def build(setup):
    width = setup.config.width
    return Faces(width, setup.size // 4) if "codes" in setup.needed else Autoencoder(width)


def training_step(model, batch, plan, rng, features=None):
    if plan.objective == "reconstruct":
        wrong = (model(batch.target) - batch.target).square()
    else:
        wrong = (model.codes[0](batch.target) - model.mean).square()
    return Losses(wrong.mean(), wrong.mean(dim=(1, 2, 3)).detach(), None)


def colorize(model, given, fresh, colour, watch):
    return model.codes[1](model.mean + 0.1 * fresh(*model.mean.shape)).clamp(-1, 1)


METHOD = Method(
    Config=Config,
    objectives={"reconstruct": Reconstruct, "prior": Prior},
    build=build,
    training_step=training_step,
    colorize=colorize,
    score=lambda model, batch: -(model(batch.target) - batch.target).square().mean(dim=(1, 2, 3)),
    inputs=(),
    slots={"codes": ("reconstruct",)},
    rowless=("codes",),
    needs=lambda config, slot: {} if slot == "codes" else {"codes": "codes"},
)
