"""Mean absolute percentage error of the pixels."""

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Metric, Unmeasurable


def mape(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """100 · mean of |x - y| / y per image, over all channels of pixels where the target is above 0, in bytes.

    A percentage is of something: where the target is 0 there is none. Dark pixels count most, since their y is small.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position.

    Returns:
        (N,) float64, percent.

    Raises:
        ValueError: different shapes.
        Unmeasurable: a target is black all over.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")
    if not (targets > 0).any(axis=(1, 2, 3)).all():
        raise Unmeasurable("a target is black all over, and of nothing there are no percent")
    return np.array([_one(image, target) for image, target in zip(images, targets, strict=True)], dtype=np.float64)


def _one(image: np.ndarray, target: np.ndarray) -> float:
    there = target > 0
    x, y = image[there].astype(np.float64), target[there].astype(np.float64)
    return float(100 * (np.abs(x - y) / y).mean())


METRIC = Metric(
    id="mape", label="MAPE (%)", decimals=1, better="↓", needs=("targets",), place=110,
    function=lambda given: mape(given.images, there(given.targets)),
)  # fmt: skip
