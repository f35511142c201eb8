"""XDoG, extended difference of Gaussians: the sketch of a face (Winnemöller et al. 2012).

The variant in the public code of AnimeDiffusion and SSIMBaD multiplies the sharpened picture by the picture before it
thresholds, and its dark side is so steep that practically only 0 and 255 come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ssimbad.seeding import derive

# OpenCV's RGB2GRAY of bytes: .299, .587, .114 in fixed point, 15 bits.
_GREY = np.array([9798, 19235, 3735], np.float32)
SHARES = (_GREY / 2**15).tolist()
"""Of red, green and blue in grey."""
_BLOCK = 32  # rows or columns filtered by one matrix product; about the fastest for 3 to 15 taps


class Constants(Protocol):
    """Named as in that code."""

    @property
    def k(self) -> float: ...
    @property
    def p(self) -> float: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def phi(self) -> float: ...


class XDoGConfig(Constants, Protocol):
    """Of the `sigmas` (pixels) one is drawn per image."""

    @property
    def sigmas(self) -> Sequence[float]: ...


def draw_sigma(ids: Sequence[str], seed: int, config: XDoGConfig) -> np.ndarray:
    """(N,) float64: each image's sigma, the same whatever the other ids and their order."""
    return np.array([np.random.default_rng(derive(seed, "xdog", i)).choice(config.sigmas) for i in ids])


def sketch(images: np.ndarray, sigmas: np.ndarray, config: XDoGConfig, threads: int = 1) -> np.ndarray:
    """Draw the lines of a batch.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        sigmas: (N,) of `draw_sigma`.
        threads: images drawn at the same time; the result does not depend on it.

    Returns:
        (N, H, W) uint8, 255 = white paper.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        drawn = list(pool.map(lambda image, sigma: _draw(image, float(sigma), config), images, sigmas))
    return np.stack(drawn) if drawn else np.empty(images.shape[:3], np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB → (...) float64 in {0, 1/255, …, 1}: rounded to a byte, as OpenCV converts bytes."""
    # Every sum is an integer below 2^24: exact in float32.
    levels = image.astype(np.float32) @ _GREY
    levels += 2**14
    levels /= 2**15
    return np.divide(np.floor(levels, out=levels), 255, dtype=np.float64)


def _draw(image: np.ndarray, sigma: float, config: XDoGConfig) -> np.ndarray:
    """255·T(U) of U = I·S: T is 1 from epsilon upwards and 1 + tanh(phi·(U - epsilon)) below."""
    picture = grey(image)
    excess = _sharpened(picture, sigma, config.k * sigma, config.p)
    excess *= picture
    excess -= config.epsilon
    bright = excess >= 0
    out = bright * np.uint8(255)
    # Beyond 20 units of the steep flank tanh is -1 to the last bit: the tanh is needed almost nowhere.
    flank = (excess > -20 / config.phi) & ~bright
    out[flank] = np.rint(255 * (1 + np.tanh(config.phi * excess[flank])))
    return out


def _sharpened(picture: np.ndarray, narrow: float, wide: float, p: float) -> np.ndarray:
    """S = (1 + p)·G_narrow*I - p·G_wide*I.

    The Gaussians are cut at 4 sigma and mirrored at the border without repeating it: what OpenCV's
    GaussianBlur, which the public code calls, does to floating-point pictures when only sigma is given, and
    what scipy.ndimage.gaussian_filter does with mode="mirror".

    Separable filtering as products with the band matrix that filters one block of rows, then one of columns:
    in float64 several times faster than filtering line by line.
    """
    height, width = picture.shape
    margin = max(_radius(narrow), _radius(wide))
    padding = [(margin, margin + -side % _BLOCK) for side in picture.shape]  # whole blocks; the rest is cut off
    padded = np.pad(picture, padding, mode="reflect")
    near, far = _band(narrow, margin), _band(wide, margin)
    sharpened = _filter_columns(_filter_rows(padded, near), (1 + p) * near)
    sharpened -= _filter_columns(_filter_rows(padded, far), p * far)
    return sharpened[:height, :width]


def _filter_rows(values: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Across rows: (H + 2·margin, W) → (H, W), H a multiple of _BLOCK."""
    windows = sliding_window_view(values, band.shape[1], axis=0)[::_BLOCK]
    return np.matmul(band, windows.transpose(0, 2, 1)).reshape(-1, values.shape[1])


def _filter_columns(values: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Across columns: (H, W + 2·margin) → (H, W), W a multiple of _BLOCK."""
    windows = sliding_window_view(values, band.shape[1], axis=1)[:, ::_BLOCK]
    return (
        np.matmul(windows.transpose(1, 0, 2), np.ascontiguousarray(band.T)).transpose(1, 0, 2).reshape(len(values), -1)
    )


def _radius(sigma: float) -> int:
    """Of the window: OpenCV's rule for floating-point pictures, 8·sigma + 1 rounded and made odd."""
    return (round(8 * sigma + 1) | 1) // 2


@lru_cache(maxsize=32)
def _band(sigma: float, margin: int) -> np.ndarray:
    """(_BLOCK, _BLOCK + 2·margin): row i is the Gaussian around sample i + margin."""
    weights = kernel(sigma)
    first = margin - len(weights) // 2
    band = np.zeros((_BLOCK, _BLOCK + 2 * margin))
    for i in range(_BLOCK):
        band[i, i + first : i + first + len(weights)] = weights
    return band


def kernel(sigma: float) -> np.ndarray:
    """(2·radius + 1,) float64 with sum 1: the Gaussian, cut at about 4 sigma."""
    radius = _radius(sigma)
    values = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return values / values.sum()
