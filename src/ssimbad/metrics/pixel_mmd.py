"""Pixel MMD: how far the set of answers is from the set of faces as thumbnails, without any network."""

from __future__ import annotations

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric
from ssimbad.metrics.mmd import kernel_distance

SIDE = 16


def thumbnails(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 → (N, 768) float64 in [0, 1]: RGB means over 16×16 equal areas of each image."""
    rows, columns = (_means(side) for side in images.shape[1:3])
    narrow = (np.einsum("ih,hwc->iwc", rows, image / 255.0) for image in images)
    return np.stack([np.einsum("jw,iwc->ijc", columns, part).ravel() for part in narrow])


def _means(side: int) -> np.ndarray:
    """(16, side): row i averages the pixels, whole or in part, of the i-th of 16 equal parts."""
    edges = np.arange(SIDE + 1) * side / SIDE
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return covered.clip(min=0) * SIDE / side


def _measured(given: Given) -> float:
    return kernel_distance(thumbnails(given.images), thumbnails(there(given.faces)), given.seed, "pixel_mmd")


METRIC = Metric(
    id="pixel_mmd", label="Pixel MMD", decimals=4, better="↓", function=_measured, needs=("faces",), of_set=True,
    place=90,
    note="Pixel MMD: KID's estimator on thumbnails of 16×16 colours, with no network; it is no KID. Unbiased.",
)  # fmt: skip
