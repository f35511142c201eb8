"""The discrete schedule of DDPM (Ho et al. 2020) with AnimeDiffusion's constants as parameters."""

from __future__ import annotations

import torch
from torch import Tensor


def betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """(steps,) float64, linear from `beta_start` to `beta_end`."""
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)


def scaled_betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """(steps,) float64, whose roots are linear (Rombach et al. 2022, the public code)."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2


def alpha_bar(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """(steps,) float64: the product of 1 - beta up to each timestep (DDPM, eq. 4), falling within (0, 1).

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) n.
    """
    return torch.cumprod(1 - betas(steps, beta_start, beta_end), dim=0)


def sigma(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """(steps,) float64: noise level relative to the image, sqrt((1 - alpha_bar) / alpha_bar)."""
    return sigma_of(betas(steps, beta_start, beta_end))


def sigma_of(betas: Tensor) -> Tensor:
    """The same of any betas."""
    # 1 - alpha_bar through logarithms: at the first steps of 1e-6 the plain difference loses ten digits.
    return torch.sqrt(torch.expm1(-torch.cumsum(torch.log1p(-betas), dim=0)))
