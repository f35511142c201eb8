"""How SSIM falls with the noise level, per image (SSIMBaD, arXiv 2506.04283).

The curve of an image does not depend on the candidate map phi. It is measured once on a shared grid of
levels, with one noise array per image, and every candidate is read off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from ssimbad.schedule.ssim import Ssim, flat
from ssimbad.seeding import derive


@dataclass(frozen=True)
class Curves:
    """SSIM of N images at K shared levels.

    `schedule` is "sigma" (levels are sigmas) or "ddpm" (levels are timesteps); `levels` (K,) float64 strictly
    increasing; `ssim` (N, K) float64.
    """

    schedule: str
    ids: tuple[str, ...]
    levels: np.ndarray
    ssim: np.ndarray

    def at(self, levels: np.ndarray) -> np.ndarray:
        """(N, P) SSIM at (P,) levels by PCHIP (in ln sigma), constant outside the measured range."""
        inside = np.clip(levels, self.levels[0], self.levels[-1])
        return self._interpolant(self._axis(inside))

    def of(self, rows: Sequence[int] | np.ndarray) -> Curves:
        """The curves of some of the images."""
        return replace(self, ids=tuple(self.ids[i] for i in rows), ssim=self.ssim[np.asarray(rows)])

    @cached_property
    def _interpolant(self) -> PchipInterpolator:
        return PchipInterpolator(self._axis(self.levels), self.ssim, axis=1)

    def _axis(self, levels: np.ndarray) -> np.ndarray:
        return np.log(levels) if self.schedule == "sigma" else np.asarray(levels)


def sigma_grid(count: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """(count,) shared sigmas, evenly spaced in ln sigma, of nine digits so that a file holds them exactly.

    Even spacing in ln sigma serves all candidates: with 32 points the mean R² of each is within 1e-4 of a
    direct evaluation, for 1/s, which looks only at the smallest sigmas, as for s, which looks at the largest.
    """
    return np.array([float(f"{s:.9g}") for s in np.geomspace(sigma_min, sigma_max, count)])


def timestep_grid(count: int, steps: int) -> np.ndarray:
    """At most `count` distinct timesteps, evenly spaced over 0 … steps - 1: the points of DDPM's own fit.

    No interpolation here: near t = 0 the curve falls too steeply for a coarser grid.
    """
    return np.unique(np.rint(np.linspace(0, steps - 1, count))).astype(np.int64)


def noise(seed: int, id_: str, size: int) -> np.ndarray:
    """(size, size, 3) float32 standard normal: the one noise of an image, whatever the level or candidate."""
    return np.random.default_rng(derive(seed, "ssim", id_)).standard_normal((size, size, 3), dtype=np.float32)


def sigma_curve(image: np.ndarray, noise: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(K,) SSIM between x_0 and clip(x_0 + sigma n, -1, 1), both mapped to [0, 1].

    `image` (H, W, 3) uint8, `noise` (H, W, 3), `sigmas` (K,).
    """
    return _curve(image, noise, np.ones(len(sigmas)), sigmas)


def ddpm_curve(image: np.ndarray, noise: np.ndarray, alpha_bar: np.ndarray) -> np.ndarray:
    """(K,) SSIM between x_0 and clip(sqrt(a) x_0 + sqrt(1 - a) n, -1, 1), both mapped to [0, 1].

    `alpha_bar` holds the (K,) values of a. DDPM also fades the image to grey (Ho et al. 2020, eq. 4), so this
    is not the sigma curve at sigma = sqrt((1 - a) / a).
    """
    return _curve(image, noise, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


def _curve(image: np.ndarray, noise: np.ndarray, scales: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    clean = flat(image).astype(np.float32) / np.float32(255)
    ssim = Ssim(image / 255)
    half = flat(noise).astype(np.float32) / 2  # [-1, 1] → [0, 1] halves the noise
    lowest, highest = -clean, 1 - clean
    values = np.empty(len(sigmas))
    difference = np.empty_like(clean)
    for k, (scale, sigma) in enumerate(zip(scales, sigmas, strict=True)):
        np.multiply(half, np.float32(sigma), out=difference)
        if scale != 1:
            difference += (clean - np.float32(0.5)) * np.float32(scale - 1)
        values[k] = ssim(np.clip(difference, lowest, highest, out=difference))
    return values


def sample(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Positions, in order, of a seeded sample of `count` ids; the choice does not depend on the ids' order.

    Raises:
        ValueError: fewer than `count` ids.
    """
    if len(ids) < count:
        raise ValueError(f"only {len(ids)} images to draw {count} from")
    ranked = sorted(range(len(ids)), key=lambda i: derive(seed, "sample", ids[i]))
    return sorted(ranked[:count])
