"""Lines that a gradient can follow: the ink that an image would leave in its sketch, and how far it is from another.

The path is that of the sketches themselves and of the metric line_fidelity: enlarged (bicubic) to the size at which
sketches are drawn, drawn by XDoG, reduced by area means, ink = 1 - paper. All of it but the threshold is linear along
one axis after the other, so that it is products with a few small matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ssimbad.pairing import xdog

_NOTHING = 1e-6  # so that no lines beside no lines are alike


def ink(images: Tensor, sigma: float, config: xdog.Constants, enlarge: int = 1) -> Tensor:
    """(B, 3, H, H) float in [-1, 1], clipped there → (B, 1, H, H) ink in [0, 1].

    Grey is not rounded to a byte, as in the stage: at the stage's phi 0.02 % of the pixels of drawn faces and 0.2 % of
    a photograph's come out otherwise.

    Args:
        sigma: of XDoG, pixels of the enlarged image. config.phi: the slope of its threshold; the stage's 1e9 has no
            gradient, some 1 to 10 do.
        enlarge: sketches are drawn at so many times H.
    """
    grey = torch.einsum("bchw,c->bhw", (images.clamp(-1, 1) + 1) / 2, torch.tensor(xdog.SHARES).to(images))
    side = grey.shape[-1]
    large = _enlarging(side, enlarge)
    picture = _along(grey, large)
    narrow, wide = (_along(grey, _gaussian(s, side * enlarge) @ large) for s in (sigma, config.k * sigma))
    excess = picture * ((1 + config.p) * narrow - config.p * wide) - config.epsilon
    return F.avg_pool2d(1 - threshold(excess, config.phi)[:, None], enlarge)


def threshold(excess: Tensor, phi: float) -> Tensor:
    """Paper in [0, 1] of U - epsilon: (1 + tanh(phi·(U - epsilon))) / 2.

    The published T is 1 from epsilon upwards, where a gradient would find nothing: no line could come into being.
    This one is the same at any slope that deserves the name of a threshold, and leans to both sides at a gentle one.
    """
    return (1 + torch.tanh(phi * excess)) / 2


def _along(grey: Tensor, matrix: np.ndarray) -> Tensor:
    """(B, H, H) with the matrix (S, H) applied to columns and rows → (B, S, S)."""
    m = torch.from_numpy(matrix).to(grey)
    return m @ grey @ m.T


@lru_cache(maxsize=32)
def _enlarging(side: int, times: int) -> np.ndarray:
    """(times·side, side) float64: bicubic resizing as Pillow does it."""
    one = Image.fromarray(np.eye(side, dtype=np.float32))
    return np.asarray(one.resize((times * side, side), Image.Resampling.BICUBIC)).T.astype(np.float64)


@lru_cache(maxsize=32)
def _gaussian(sigma: float, side: int) -> np.ndarray:
    """(side, side) float64: XDoG's Gaussian filter, mirrored at the border."""
    kernel = xdog.kernel(sigma)
    places = np.pad(np.arange(side), len(kernel) // 2, mode="reflect")
    matrix = np.zeros((side, side))
    for i, weight in enumerate(kernel):
        matrix[np.arange(side), places[i : i + side]] += weight
    return matrix


def dice(found: Tensor, wanted: Tensor) -> Tensor:
    """(B,) 1 - 2 Σ a·s / (Σ a² + Σ s²) of (B, 1, H, W) ink: soft Dice (Milletari et al. 2016), as line_fidelity has."""
    whole = found.square().sum(dim=(1, 2, 3)) + wanted.square().sum(dim=(1, 2, 3))
    return 1 - (2 * (found * wanted).sum(dim=(1, 2, 3)) + _NOTHING) / (whole + _NOTHING)


def mse(found: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean squared difference of (B, 1, H, W) ink."""
    return (found - wanted).square().mean(dim=(1, 2, 3))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"dice": dice, "mse": mse}
