"""Samplers of the probability-flow ODE: pure functions with one signature.

Each takes `denoise(x, sigma) -> D(x; sigma)` with x (B, C, H, W) float32 and sigma (B,) float32, the initial
x = sigma_0 · noise, and `levels`: N noise levels falling from sigma_max, then 0 (N+1 values, float64). Each returns the
image at sigma = 0, (B, C, H, W) float32, unclipped. All are deterministic: the noise is the caller's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoiser, Tensor, Tensor], Tensor]


def _pairs(levels: Tensor) -> Iterable[tuple[float, float]]:
    values = levels.tolist()
    return itertools.pairwise(values)


def _at(sigma: float, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)


def euler(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """First order (Karras et al. 2022, Alg. 1 without correction). NFE = N.

    Written as x' = D + (sigma'/sigma)(x - D), which is x + (sigma' - sigma)·(x - D)/sigma, exact at sigma' = 0.
    """
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        x = denoised + (following / sigma) * (x - denoised)
    return x


def heun(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """Second order (Karras et al. 2022, Alg. 1). NFE = 2N - 1: the last step, to zero, is Euler's."""
    for sigma, following in _pairs(levels):
        slope = (x - denoise(x, _at(sigma, x))) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, _at(following, x))) / following) / 2
        x = x + (following - sigma) * slope
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2) for x = y + sigma·n, in lambda = -ln sigma. NFE = N."""
    before: tuple[Tensor, float] | None = None
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        if following == 0:
            return denoised
        step = _log_ratio(sigma, following)
        extrapolated = denoised
        if before is not None:
            ratio = before[1] / step
            extrapolated = denoised + (denoised - before[0]) / (2 * ratio)
        x = (following / sigma) * x + (1 - following / sigma) * extrapolated
        before = (denoised, step)
    return x


def _log_ratio(sigma: float, following: float) -> float:
    return math.log(sigma / following)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def nfe(name: str, steps: int) -> int:
    """Network calls per image of a sampler on N = `steps` levels."""
    return 2 * steps - 1 if name == "heun" else steps
