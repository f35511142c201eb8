"""Palette distance: whether the answer has the colours of the reference, wherever they are."""

from __future__ import annotations

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric

DIRECTIONS = 64


def directions(count: int = DIRECTIONS) -> np.ndarray:
    """(count, 3) unit vectors spread evenly over a half sphere: a Fibonacci lattice (González 2010, eq. 1).

    A half sphere is enough: opposite directions give the same distance.
    """
    k = np.arange(count)
    height = (k + 0.5) / count
    turn = np.pi * (3 - np.sqrt(5)) * k
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)


def palette_distance(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Sliced Wasserstein-1 distance of the pixels' colours in CIELAB, per image (Bonneel et al. 2015, on a fixed set
    of directions): the mean over `directions` of the mean distance of the sorted projections.

    Places do not matter, shares of the area do. A shift of all colours by ΔE (CIE 1976) counts half of it, the mean
    of |cos| over a sphere.

    Args:
        images, references: (N, H, W, 3) uint8 with equally many pixels, paired by position.

    Returns:
        (N,) float64, 0 for the same colours in the same shares.

    Raises:
        ValueError: different shapes.
    """
    if images.shape != references.shape:
        raise ValueError(f"images {images.shape} and references {references.shape} differ in shape")
    axes = directions()
    pairs = zip(images, references, strict=True)
    return np.array([np.abs(_sorted(a, axes) - _sorted(b, axes)).mean(dtype=np.float64) for a, b in pairs], np.float64)


def _sorted(image: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(D, pixels) float32, rising: single precision is sorted twice as fast, and its 1e-5 average out."""
    from skimage.color import rgb2lab

    lightness, a, b = np.ascontiguousarray(rgb2lab(image).reshape(-1, 3).T, dtype=np.float32)
    x, y, z = axes.T.astype(np.float32)[:, :, None]
    projected = x * lightness
    projected += y * a
    projected += z * b
    projected.sort(axis=1)
    return projected


def _measured(given: Given) -> np.ndarray:
    return palette_distance(given.images, there(given.references))


METRIC = Metric(
    id="palette_distance", label="Palette distance", decimals=2, better="↓", function=_measured, needs=("references",),
    place=80,
    note="Palette distance: to the colours of the reference shown, wherever they are. The right answer's own"
    " value stands below the rule: a warped reference shows other shares of the colours than the face.",
)  # fmt: skip
