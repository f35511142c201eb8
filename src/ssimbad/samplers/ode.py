"""Samplers of x = y + sigma·n: pure functions with one signature.

Each takes `denoise(x, sigma) -> D(x; sigma)` with x (B, C, H, W) float32 and sigma (B,) float32, the initial
x ~ sigma_0 · noise, and `levels`: N noise levels falling from sigma_max, then 0 (N+1 values, float64). Each returns the
image at sigma = 0, (B, C, H, W) float32, unclipped. All are deterministic by default; `heun` and `ddim` can renew a
part of the noise at every step, by `fresh() -> (B, C, H, W) ~ N(0, 1)`.

The ODE is dx/dsigma = (x - D)/sigma, so a step is x' = (s'/s) x + s'·∫ D(sigma)/sigma² dsigma over [s', s]: what the
samplers of second order differ in is the axis along which they take D to be linear between two calls.

A variance-preserving model joins in through x = x_t / sqrt(alpha_bar_t), sigma = sqrt((1 - alpha_bar_t) / alpha_bar_t)
and D(x; sigma) = x - sigma·eps(x_t, t).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ssimbad.noise.transforms import Phi, corrector_weight
from ssimbad.noise.transforms import make as make_phi

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoiser, Tensor, Tensor], Tensor]
Fresh = Callable[[], Tensor]
Watch = Callable[[float, Tensor], object]
"""Told after each network call: sigma, and the image (B, C, H, W) as it is denoised from there, unclipped."""


class Churn(Protocol):
    """How much noise the stochastic sampler renews (Karras et al. 2022, Alg. 2): a share of min(s_churn / N, √2 - 1) of
    sigma where s_min <= sigma <= s_max (None: no bound), with noise of standard deviation s_noise."""

    @property
    def s_churn(self) -> float: ...
    @property
    def s_min(self) -> float: ...
    @property
    def s_max(self) -> float | None: ...
    @property
    def s_noise(self) -> float: ...


def raised(churn: Churn, sigma: float, steps: int) -> float:
    """sigma_hat, the level to which fresh noise lifts x before a step."""
    inside = churn.s_min <= sigma and (churn.s_max is None or sigma <= churn.s_max)
    return sigma * (1 + min(churn.s_churn / steps, math.sqrt(2) - 1)) if inside else sigma


def _pairs(levels: Tensor) -> Iterable[tuple[float, float]]:
    values = levels.tolist()
    return itertools.pairwise(values)


def _at(sigma: float, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)


def _none() -> Tensor:
    """What draws noise, where a sampler is to renew none."""
    raise ValueError("a sampler that renews noise is told by `fresh` where it comes from")


def euler(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """First order (Karras et al. 2022, Alg. 1 without correction). NFE = N.

    Written as x' = D + (sigma'/sigma)(x - D), which is x + (sigma' - sigma)·(x - D)/sigma, exact at sigma' = 0.
    """
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        x = denoised + (following / sigma) * (x - denoised)
    return x


def heun(denoise: Denoiser, x: Tensor, levels: Tensor, churn: Churn | None = None, fresh: Fresh = _none) -> Tensor:
    """Second order (Karras et al. 2022, Alg. 1; with `churn` Alg. 2). NFE = 2N - 1: the step to zero is Euler's.

    The trapezoid in sigma weighs the second call by s/(2 s'). That interpolates on fine grids only: where a step more
    than halves sigma it extrapolates, on a grid of few steps uniform in s/(s + c) some thirty-fold. `phi2` does not.
    """
    for sigma, following in _pairs(levels):
        if churn and (lifted := raised(churn, sigma, len(levels) - 1)) > sigma:
            x = x + math.sqrt(lifted**2 - sigma**2) * churn.s_noise * fresh()
            sigma = lifted
        slope = (x - denoise(x, _at(sigma, x))) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, _at(following, x))) / following) / 2
        x = x + (following - sigma) * slope
    return x


def phi2(denoise: Denoiser, x: Tensor, levels: Tensor, phi: Phi) -> Tensor:
    """Second order with D linear in phi between the two calls of a step, ∫ D/sigma² exact. NFE = 2N - 1, as Heun's.

    The second call's weight lies in (0, 1), so that few steps do not extrapolate. phi: the axis of the row's own grid.
    """
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        if following > 0:
            ahead = denoised + (following / sigma) * (x - denoised)
            weight = corrector_weight(phi, sigma, following)
            denoised = denoised + weight * (denoise(ahead, _at(following, x)) - denoised)
        x = denoised + (following / sigma) * (x - denoised)
    return x


def log2(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """`phi2` with D linear in ln sigma, whatever the grid: the exponential integrators' choice. NFE = 2N - 1."""
    return phi2(denoise, x, levels, make_phi({"form": "log"}))


def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2) for x = y + sigma·n, in lambda = -ln sigma. NFE = N.

    The step to the lowest level is of first order: on grids uniform in phi it is several times the step before it in
    lambda, and the line through the last two calls would be drawn far beyond them.
    """
    before: tuple[Tensor, float] | None = None
    lowest = float(levels[-2])
    for sigma, following in _pairs(levels):
        denoised = denoise(x, _at(sigma, x))
        if following == 0:
            return denoised
        step = _log_ratio(sigma, following)
        extrapolated = denoised
        if before is not None and following != lowest:
            ratio = before[1] / step
            extrapolated = denoised + (denoised - before[0]) / (2 * ratio)
        x = (following / sigma) * x + (1 - following / sigma) * extrapolated
        before = (denoised, step)
    return x


def ddim(denoise: Denoiser, x: Tensor, levels: Tensor, eta: float = 0.0, fresh: Fresh = _none) -> Tensor:
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


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": euler,
    "heun": heun,
    "phi2": phi2,
    "log2": log2,
    "dpmpp_2m": dpmpp_2m,
    "ddim": ddim,
}


def make(name: str, fresh: Fresh, phi: Phi, eta: float = 0.0, churn: Churn | None = None) -> Sampler:
    """The named sampler with what it needs of its own. `phi`: the axis along which the row's grid is uniform."""
    own: dict[str, dict[str, Any]] = {
        "heun": {"churn": churn, "fresh": fresh},
        "phi2": {"phi": phi},
        "ddim": {"eta": eta, "fresh": fresh},
    }
    return partial(SAMPLERS[name], **own.get(name, {}))


def watched(denoise: Denoiser, watch: Watch | None) -> Denoiser:
    """The same denoiser, which tells `watch` of every network call: for progress, and for pictures in between."""
    if watch is None:
        return denoise

    def told(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        watch(float(sigma[0]), denoised)
        return denoised

    return told
