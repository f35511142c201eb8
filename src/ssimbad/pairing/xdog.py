"""XDoG line drawing: the sketch of a face (papers.md §1.1; extended difference of Gaussians, Winnemöller et al. 2012).

The published variant multiplies the sharpened picture by the picture before it thresholds, and its dark side is so
steep that practically only 0 and 255 come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ssimbad.seeding import derive

# OpenCV's RGB2GRAY of bytes: .299, .587, .114 in fixed point, 15 bits.
_GREY = np.array([9798, 19235, 3735], np.float32)
_BLOCK = 32  # rows or columns filtered by one matrix product; about the fastest for 3 to 15 taps


@dataclass(frozen=True)
class XDoG:
    """The constants, named as in papers.md §1.1; `sigmas` are in pixels and one of them is drawn per image."""

    sigmas: Sequence[float]
    k: float
    p: float
    epsilon: float
    phi: float


def draw_sigma(ids: Sequence[str], seed: int, law: XDoG) -> np.ndarray:
    """(N,) float64: each image's sigma, the same whatever the other ids and their order."""
    return np.array([np.random.default_rng(derive(seed, "xdog", i)).choice(law.sigmas) for i in ids])


def sketch(images: np.ndarray, sigmas: np.ndarray, law: XDoG, threads: int = 1) -> np.ndarray:
    """Draw the lines of a batch.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        sigmas: (N,) of `draw_sigma`.
        threads: images drawn at the same time; the result does not depend on it.

    Returns:
        (N, H, W) uint8, 255 = white paper.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        drawn = list(pool.map(lambda image, sigma: _draw(image, float(sigma), law), images, sigmas))
    return np.stack(drawn) if drawn else np.empty(images.shape[:3], np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB → (...) float64 in {0, 1/255, …, 1}: rounded to a byte, as OpenCV's conversion of bytes is."""
    # Every sum is an integer below 2^24: exact in float32.
    return np.floor((image.astype(np.float32) @ _GREY + 2**14) / 2**15).astype(np.float64) / 255


def _draw(image: np.ndarray, sigma: float, law: XDoG) -> np.ndarray:
    """T(U) of U = I·S, S = (1 + p)·G_sigma*I - p·G_k·sigma*I; T = 1 above epsilon, 1 + tanh(phi·(U - epsilon)) below."""
    picture = grey(image)
    excess = picture * _sharpened(picture, sigma, law.k * sigma, law.p) - law.epsilon
    out = np.where(excess >= 0, 255, 0).astype(np.uint8)
    # Beyond 20 units of the steep flank tanh is -1 to the last bit: the tanh is needed almost nowhere.
    flank = (excess < 0) & (excess > -20 / law.phi)
    out[flank] = np.rint(255 * (1 + np.tanh(law.phi * excess[flank])))
    return out


def _sharpened(picture: np.ndarray, narrow: float, wide: float, p: float) -> np.ndarray:
    """(1 + p)·G_narrow*I - p·G_wide*I.

    The Gaussians are cut at 4 sigma and mirrored at the border without repeating it: what OpenCV's GaussianBlur does
    to floating-point pictures when only sigma is given, and scipy.ndimage.gaussian_filter with mode="mirror".

    Separable filtering as products with the band matrix that filters one block of rows, then one of columns: in
    float64, several times faster than filtering line by line.
    """
    height, width = picture.shape
    margin = max(_radius(narrow), _radius(wide))
    bands = _bands(narrow, wide, margin)
    rows, columns = (-(-n // _BLOCK) for n in picture.shape)
    padding = [(margin, margin + n * _BLOCK - side) for n, side in ((rows, height), (columns, width))]
    padded = np.pad(picture, padding, mode="reflect")
    down, right = padded.strides
    taps = _BLOCK + 2 * margin
    views = np.lib.stride_tricks.as_strided(
        padded, (rows, taps, padded.shape[1]), (_BLOCK * down, down, right), writeable=False
    )
    total = 0
    for band, weight in zip(bands, (1 + p, -p), strict=True):
        filtered = np.matmul(band, views).reshape(rows * _BLOCK, padded.shape[1])
        down, right = filtered.strides
        views2 = np.lib.stride_tricks.as_strided(
            filtered, (columns, rows * _BLOCK, taps), (_BLOCK * right, down, right), writeable=False
        )
        total = total + np.matmul(views2, weight * band.T)
    return total.transpose(1, 0, 2).reshape(rows * _BLOCK, columns * _BLOCK)[:height, :width]


def _radius(sigma: float) -> int:
    """Of the Gaussian's window: OpenCV's rule for floating-point pictures, the odd width nearest 8·sigma + 1."""
    return (round(8 * sigma + 1) | 1) // 2


@lru_cache(maxsize=32)
def _bands(narrow: float, wide: float, margin: int) -> tuple[np.ndarray, np.ndarray]:
    return _band(narrow, margin), _band(wide, margin)


def _band(sigma: float, margin: int) -> np.ndarray:
    """(_BLOCK, _BLOCK + 2·margin): row i filters around sample i + margin."""
    radius = _radius(sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    band = np.zeros((_BLOCK, _BLOCK + 2 * margin))
    for i in range(_BLOCK):
        band[i, i + margin - radius : i + margin + radius + 1] = kernel / kernel.sum()
    return band
