"""Mean squared error on the networks' scale, [-1, 1]."""

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Metric


def mse(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean of (x - y)² per image, over all pixels and channels, for values in [-1, 1].

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position.

    Returns:
        (N,) float64 in [0, 4]. The squared error is summed in integers, so the value is exact.

    Raises:
        ValueError: different shapes.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")
    gaps = (np.square(x.astype(np.int64) - y.astype(np.int64)).mean() for x, y in zip(images, targets, strict=True))
    return np.array([gap / 127.5**2 for gap in gaps], dtype=np.float64)


METRIC = Metric(
    id="mse", label="MSE", decimals=4, better="↓", needs=("targets",), place=100,
    function=lambda given: mse(given.images, there(given.targets)),
)  # fmt: skip
