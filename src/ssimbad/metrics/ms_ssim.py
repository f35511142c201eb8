"""Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003) at any size of image."""

import numpy as np
from scipy.ndimage import convolve1d

from ssimbad.errors import there
from ssimbad.metrics.contract import Facts, Given, Metric, Unmeasurable

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli, Bovik 2003, section 3.2)."""

_KERNEL = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
_KERNEL /= _KERNEL.sum()


def scales(size: int) -> int:
    """Largest number of scales, at most five, whose coarsest image still holds the window.

    k scales need a side of (WINDOW - 1) 2^(k-1) + 1 pixels: 161 for five, 81 for four, 41 for three.

    Raises:
        Unmeasurable: the side is shorter than the window.
    """
    if size < WINDOW:
        raise Unmeasurable(f"MS-SSIM needs a side of at least {WINDOW} pixels, not {size}")
    return max(k for k in range(1, len(WEIGHTS) + 1) if size > (WINDOW - 1) * 2 ** (k - 1))


def ms_ssim(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """MS-SSIM per image with `scales(side)` scales, their weights renormalised to sum to one.

    Agrees with piq's to single precision (a test holds it to that); importing piq takes longer than measuring the
    whole test set, and this runs once per table cell. Each image is measured by itself.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position; the shorter side decides the scales.

    Returns:
        (N,) float64 in [0, 1]; channels are averaged, negative similarities count as 0 (as piq does).

    Raises:
        ValueError: different shapes.
        Unmeasurable: a side shorter than the window.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")
    weights = np.array(WEIGHTS[: scales(min(images.shape[1:3]))])
    return np.array([_one(a, b, weights / weights.sum()) for a, b in zip(images, targets, strict=True)], np.float64)


def _one(image: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    x, y = image / 255.0, target / 255.0
    product = np.ones(image.shape[-1])
    for k, weight in enumerate(weights):
        if k:
            x, y = _halved(x), _halved(y)
        ssim, contrast = _similarity(x, y)
        product *= np.maximum(ssim if k == len(weights) - 1 else contrast, 0) ** weight
    return float(product.mean())


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean SSIM and mean contrast-structure term per channel, over the positions where the window fits."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x**2
    var_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (var_x + var_y + C2)
    ssim = contrast * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return ssim.mean(axis=(0, 1)), contrast.mean(axis=(0, 1))


def _windowed(values: np.ndarray) -> np.ndarray:
    """Gaussian mean of (H, W, C) over every window that fits."""
    rows = convolve1d(values, _KERNEL, axis=0, mode="constant")
    half = WINDOW // 2
    return convolve1d(rows, _KERNEL, axis=1, mode="constant")[half:-half, half:-half]


def _halved(values: np.ndarray) -> np.ndarray:
    """Mean of 2×2 blocks of (H, W, C); where a side is odd, both get one more row and column before the first."""
    odd = max(values.shape[0] % 2, values.shape[1] % 2)
    values = np.pad(values, ((odd, 0), (odd, 0), (0, 0)), mode="edge")
    height, width = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    return values[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).mean(axis=(1, 3))


def _facts(given: Given) -> Facts:
    return {"scales": scales(min(given.images.shape[1:3]))}


METRIC = Metric(
    id="ms_ssim", label="MS-SSIM", decimals=4, better="↑", needs=("targets",), place=20, facts=_facts,
    function=lambda given: ms_ssim(given.images, there(given.targets)),
)  # fmt: skip
