"""DDPM's own sampler, by any subset of the timesteps, in the house's x = x_t / sqrt(alpha_bar_t)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ssimbad.samplers.ode import Denoiser, Fresh


def beta(sigma: float, following: float) -> float:
    """beta of the step from sigma to `following`, 1 - alpha_bar / alpha_bar' with alpha_bar = 1 / (1 + sigma²).

    Of the full chain it is the schedule's own beta_t; of fewer steps it follows from them (Nichol & Dhariwal 2021,
    eq. 19).
    """
    return (sigma**2 - following**2) / (1 + sigma**2)


def variance_beta(sigma: float, following: float) -> float:
    """sigma_t² = beta_t (Ho et al. 2020, §3.2), of x': over alpha_bar'. The exact one if the data are N(0, I)."""
    return beta(sigma, following) * (1 + following**2)


def variance_posterior(sigma: float, following: float) -> float:
    """sigma_t² = beta_t (1 - alpha_bar') / (1 - alpha_bar) (eq. 7), of x': over alpha_bar'. Exact if the data are one
    point; 0 in the step to the image."""
    return (following / sigma) ** 2 * (sigma**2 - following**2)


Variance = Literal["beta", "posterior"]

VARIANCES: dict[Variance, Callable[[float, float], float]] = {"beta": variance_beta, "posterior": variance_posterior}


def ancestral(
    denoise: Denoiser, x: Tensor, levels: Tensor, variance: Variance, fresh: Fresh, last_noise: bool = False
) -> Tensor:
    """DDPM (Ho et al. 2020, Alg. 2) down any falling noise levels, which need not end at 0. NFE = N.

    Written with D in place of eps: the mean of eq. 7 is D + (sigma'/sigma)² (x - D), without clipping of D.

    Args:
        variance: a key of `VARIANCES`.
        last_noise: whether the step to sigma = 0 is noisy too; there is no noise in it in the paper.
    """
    for sigma, following in itertools.pairwise(levels.tolist()):
        denoised = denoise(x, torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device))
        x = denoised + (following / sigma) ** 2 * (x - denoised)
        renewed = math.sqrt(VARIANCES[variance](sigma, following))
        if renewed and (following or last_noise):
            x = x + renewed * fresh()
    return x
