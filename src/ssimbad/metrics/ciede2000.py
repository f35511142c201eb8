"""Colour difference by CIEDE2000 (Sharma, Wu & Dalal 2005), pixel by pixel."""

from __future__ import annotations

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric


def ciede2000(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean over the pixels of the CIEDE2000 difference, per image; sRGB, white point D65.

    About 1 is just noticeable in the laboratory; black against white is 100.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position.

    Returns:
        (N,) float64, 0 for identical images.

    Raises:
        ValueError: different shapes.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")
    pairs = zip(images, targets, strict=True)
    return np.array([deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean() for a, b in pairs], dtype=np.float64)


def _measured(given: Given) -> np.ndarray:
    return ciede2000(given.images, there(given.targets))


METRIC = Metric(
    id="ciede2000", label="CIEDE2000", decimals=2, better="↓", function=_measured, needs=("targets",), place=70
)
