"""Degradations of a face in pixel space: grey, blurred, with a hole, in coarse pixels, under snow.

Each is a function of images (B, 3, H, W) float32 in [-1, 1] to the same. What is random in them comes from `normal`,
(*shape) → (B, *shape) ~ N(0, 1), row i from the stream of image i alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Normal = Callable[..., "Tensor"]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
FLAKE = 0.7
"""Of a flake of snow, sigma in pixels."""
CHANNELS = {"luma": LUMA, "mean": (1 / 3, 1 / 3, 1 / 3)}


def grey(images: Tensor, by: str = "luma") -> Tensor:
    """Three equal channels: the luma, or the mean of the channels."""
    weights = images.new_tensor(CHANNELS[by])[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian of `sigma` pixels, cut at three sigma; beyond the edge lies the edge. Any channels."""
    from torch.nn import functional as F

    line = _gaussian(images, sigma)
    radius, channels = len(line) // 2, images.shape[1]
    kernel = line.expand(channels, 1, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def _gaussian(like: Tensor, sigma: float) -> Tensor:
    """(2r + 1,) weights that sum to 1, r = 3 sigma rounded up."""
    import torch

    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    line = torch.exp(-(at**2) / (2 * sigma**2))
    return line / line.sum()


def masked(images: Tensor, side: float, normal: Normal) -> Tensor:
    """With a square hole of `side` times the image's side, mid-grey, at a random place wholly inside."""
    import torch

    size = images.shape[-1]
    hole = max(1, round(side * size))
    place = 0.5 * (1 + torch.erf(normal(2) / math.sqrt(2)))  # uniform in (0, 1)
    corner = (place * (size - hole + 1)).floor().clamp(max=size - hole)[:, :, None]
    at = torch.arange(size, device=images.device)
    inside = (at >= corner) & (at < corner + hole)  # (B, 2, size)
    return images * ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def pixelated(images: Tensor, cell: int) -> Tensor:
    """Squares of `cell` pixels, each its own mean; `cell` divides the side."""
    from torch.nn import functional as F

    return F.interpolate(F.avg_pool2d(images, cell), scale_factor=float(cell), mode="nearest")


def snowed(images: Tensor, flakes: float, normal: Normal) -> Tensor:
    """White where a random field of soft spots is highest, on a share `flakes` of the pixels in expectation."""
    import torch

    line = _gaussian(images, FLAKE)
    margin = len(line) // 2  # the edge is as any other place
    sky = blurred(normal(1, *(side + 2 * margin for side in images.shape[2:])), FLAKE)
    field = sky[..., margin:-margin, margin:-margin]
    # Of white noise the blur leaves a Gaussian whose standard deviation is the sum of the squared weights of a line.
    threshold = NormalDist().inv_cdf(1 - flakes) * line.square().sum()
    return torch.where(field > threshold, 1.0, images)
