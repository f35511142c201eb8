"""Losses of the finished image by name, for every method that trains on one: `loss` in its options.

A loss is a function (image, target, features) → (B,) of (B, 3, H, W) float32 images in [-1, 1], the target without
gradient; `features` is the feature network it names (features/registry.py), None where it names none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.methods.contract import Features

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2

HUES = 24
SMALLEST = 1e-3
REBALANCED = 0.5


@dataclass(frozen=True)
class Loss:
    """A loss and the feature network through which it looks, a key of `weights`."""

    function: Callable[..., Tensor]
    network: str | None = None


def make(name: str, features: Features | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name, (image, target) → (B,).

    Raises:
        ValueError: it looks through a feature network, and there is none.
    """
    if LOSSES[name].network and features is None:
        raise ValueError(f"loss {name} needs the feature network's weights (weights.enabled)")
    return partial(LOSSES[name].function, features=features)


def mse(image: Tensor, target: Tensor, features: Features | None = None) -> Tensor:
    """(B,) mean squared error on the [0, 1] scale, unclamped: every pixel keeps its gradient."""
    return (_unit(image) - _unit(target)).square().mean(dim=(1, 2, 3))


def lpips(image: Tensor, target: Tensor, features: Features) -> Tensor:
    """(B,) LPIPS (Zhang et al. 2018), by AlexNet or VGG-16."""
    return features(image, target)


def clip(image: Tensor, target: Tensor, features: Features) -> Tensor:
    """(B,) 1 - cosine of CLIP's image embeddings."""
    return features(image, target)


def ssim_l1(image: Tensor, target: Tensor, features: Features | None = None) -> Tensor:
    """(B,) 1 - SSIM (11×11 Gaussian window) plus the mean absolute error, on the [0, 1] scale."""
    similarity = ssim(_unit(image).clamp(0, 1), _unit(target))
    return 1 - similarity + (_unit(image) - _unit(target)).abs().mean(dim=(1, 2, 3))


def mse_hues(image: Tensor, target: Tensor, features: Features | None = None) -> Tensor:
    """(B,) `mse` plus half of the squared error in which the target's hues weigh alike, not their areas (`by_hue`).

    In the mean over pixels an iris of ten pixels weighs nothing, and the network answers the mean of all eyes, grey.
    Rebalancing by the rarity of colours is that of Zhang et al. (2016, section 2.2), here within each image.
    """
    errors = (_unit(image) - _unit(target)).square()
    rebalanced = (by_hue(target) * errors.mean(dim=1)).sum(dim=(1, 2))
    return errors.mean(dim=(1, 2, 3)) + REBALANCED * rebalanced


def by_hue(target: Tensor) -> Tensor:
    """(B, H, W) weights of the pixels, of sum 1 per image.

    A pixel's weight is its chroma over that of all pixels of its hue, in `HUES` overlapping bins of the plane of Cb and
    Cr (ITU-R BT.601). A hue in the middle between two bins weighs twice one in the middle of a bin, shades that spread
    over several bins as many times more. A hue whose chroma, averaged over the image, is below `SMALLEST` weighs less,
    so that a stray pixel has no say. Of a picture that is grey but for its last bits, these are its colours.
    """
    import torch

    red, green, blue = _unit(target).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = 0.564 * (blue - luma), 0.713 * (red - luma)
    chroma = (cb.square() + cr.square()).sqrt()
    turn = torch.atan2(cr, cb) * (HUES / (2 * math.pi))
    centres = torch.arange(HUES, dtype=turn.dtype, device=turn.device).view(-1, 1, 1)
    away = (turn[:, None] - centres + HUES / 2) % HUES - HUES / 2
    share = (1 - away.abs()).clamp(min=0)  # (B, HUES, H, W): a pixel between two bins belongs to both in part
    mass = (share * chroma[:, None]).mean(dim=(2, 3), keepdim=True) + SMALLEST
    weights = chroma * (share / mass).sum(dim=1)
    # The mean is about the number of hues; far below 1 there is no colour, only the rounding of floats.
    return weights / (weights.mean(dim=(1, 2), keepdim=True).clamp(min=0.1) * weights[0].numel())


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,) structural similarity (Wang et al. 2004, eq. 13) of (B, C, H, W) in [0, 1], H, W ≥ 11.

    Channels apart, over all windows that fit. Operation by operation as in piq, hence equal to the bit; but piq looks
    at the values first, and tensors without data (planning/flops.py) have none.
    """
    import torch
    from torch.nn import functional as F

    axis = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - (WINDOW - 1) / 2
    kernel = (-(axis**2 + axis[:, None] ** 2) / (2 * SIGMA**2)).exp()
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1, 1, 1)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=x.shape[1])

    mean_x, mean_y = mean(x), mean(y)
    xx, yy, xy = mean_x**2, mean_y**2, mean_x * mean_y
    var_x, var_y, covariance = mean(x**2) - xx, mean(y**2) - yy, mean(x * y) - xy
    contrast = (2.0 * covariance + C2) / (var_x + var_y + C2)
    return ((2.0 * xy + C1) / (xx + yy + C1) * contrast).mean(dim=(-1, -2)).mean(1)


def _unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


LOSSES = {
    "mse": Loss(mse),
    "lpips": Loss(lpips, "alexnet"),
    "mse+hues": Loss(mse_hues),
    "ssim+l1": Loss(ssim_l1),
    "lpips-vgg": Loss(lpips, "vgg16"),
    "clip": Loss(clip, "clip"),
}
