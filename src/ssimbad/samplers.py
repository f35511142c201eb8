"""Samplers of x = y + sigma·n: pure functions with one signature.

Each takes `denoise(x, sigma) -> D(x; sigma)` with x (B, C, H, W) float32 and sigma (B,) float32, the initial
x ~ sigma_0 · noise, and `levels`: N noise levels falling from sigma_max, then 0 (N+1 values, float64). Each returns the
image at sigma = 0, (B, C, H, W) float32, unclipped. All are deterministic by default; `heun` and `ddim` can renew a
part of the noise at every step, by `fresh() -> (B, C, H, W) ~ N(0, 1)`.

A variance-preserving model joins in through x = x_t / sqrt(alpha_bar_t), sigma = sqrt((1 - alpha_bar_t) / alpha_bar_t)
and D(x; sigma) = x - sigma·eps(x_t, t).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoiser, Tensor, Tensor], Tensor]
Fresh = Callable[[], Tensor]


@dataclass(frozen=True)
class Churn:
    """How much noise the stochastic sampler renews (Karras et al. 2022, Alg. 2): a share of min(s_churn / N, √2 - 1) of
    sigma where s_min <= sigma <= s_max, with noise of standard deviation s_noise."""

    s_churn: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def raised(self, sigma: float, steps: int) -> float:
        """sigma_hat, the level to which fresh noise lifts x before a step."""
        inside = self.s_min <= sigma <= self.s_max
        return sigma * (1 + min(self.s_churn / steps, math.sqrt(2) - 1)) if inside else sigma


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


def heun(
    denoise: Denoiser, x: Tensor, levels: Tensor, churn: Churn | None = None, fresh: Fresh | None = None
) -> Tensor:
    """Second order (Karras et al. 2022, Alg. 1; with `churn` Alg. 2). NFE = 2N - 1: the step to zero is Euler's."""
    for sigma, following in _pairs(levels):
        if churn and (raised := churn.raised(sigma, len(levels) - 1)) > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * churn.s_noise * fresh()
            sigma = raised
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


def ddim(denoise: Denoiser, x: Tensor, levels: Tensor, eta: float = 0.0, fresh: Fresh | None = None) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12) in x = x_t / sqrt(alpha_bar). NFE = N.

    eta = 0 is the deterministic sampler, and then Euler's; eta = 1 is DDPM's ancestral sampling. There
    sigma_t(eta) / sqrt(alpha_bar_{t-1}) = eta · (sigma'/sigma) · sqrt(sigma² - sigma'²).
    """
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        renewed = eta * (following / sigma) * math.sqrt(sigma**2 - following**2)
        kept = math.sqrt(following**2 - renewed**2)
        x = denoised + (kept / sigma) * (x - denoised)
        if renewed:
            x = x + renewed * fresh()
    return x


def inversion(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """DDIM backwards (Song et al. 2021, §4.3): from x at the lowest noise level up to the highest. NFE = N - 1.

    Args:
        x: at sigma = levels[-2], the last above zero.
        levels: as for the samplers.
    """
    for sigma, following in itertools.pairwise(levels[:-1].flip(0).tolist()):
        denoised = denoise(x, _at(sigma, x))
        x = denoised + (following / sigma) * (x - denoised)
    return x


def _log_ratio(sigma: float, following: float) -> float:
    return math.log(sigma / following)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ddim": ddim}


def make(name: str, fresh: Fresh, eta: float = 0.0, churn: Churn | None = None) -> Sampler:
    """The named sampler with what it needs of its own."""
    own: dict[str, dict[str, Any]] = {
        "heun": {"churn": churn, "fresh": fresh},
        "ddim": {"eta": eta, "fresh": fresh},
    }
    return partial(SAMPLERS[name], **own.get(name, {}))


def most_steps(name: str, calls: int) -> int:
    """The largest N of a sampler with at most `calls` network calls; 0 where there is none."""
    return (calls + 1) // 2 if name == "heun" else calls


def nfe(name: str, steps: int) -> int:
    """Network calls per image of a sampler on N = `steps` levels."""
    return 2 * steps - 1 if name == "heun" else steps
