"""Peak signal-to-noise ratio."""

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Metric, Unmeasurable

CAP = 80.0
"""dB given to identical images, where the ratio is infinite and JSON has no infinity.

It is also what piq reports there (it adds 1e-8 to the squared error), as in the published protocol.
"""


def psnr(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """10 log10(255² / mean squared error) per image, over all pixels and channels.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position.

    Returns:
        (N,) float64, dB, at most `CAP`. The squared error is summed in integers, so the value is exact.

    Raises:
        ValueError: different shapes.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")
    return np.array([_one(image, target) for image, target in zip(images, targets, strict=True)], dtype=np.float64)


def _one(image: np.ndarray, target: np.ndarray) -> float:
    squares = np.square(image.astype(np.int64) - target.astype(np.int64)).sum()
    if squares == 0:
        return CAP
    return min(CAP, float(10 * np.log10(255.0**2 * image.size / squares)))


def weighted(images: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same with the squared errors of each pixel weighted by (N, H, W) uint8, as by a mask of soft edge.

    Raises:
        Unmeasurable: an image has no weight at all.
    """
    values = np.empty(len(images))
    for i, (image, target, weight) in enumerate(zip(images, targets, weights.astype(np.int64), strict=True)):
        if not weight.any():
            raise Unmeasurable("an image that is all figure, or all background")
        squares = (np.square(image.astype(np.int64) - target.astype(np.int64)).sum(axis=-1) * weight).sum()
        values[i] = min(CAP, float(10 * np.log10(255.0**2 * 3 * weight.sum() / squares))) if squares else CAP
    return values


METRIC = Metric(
    id="psnr", label="PSNR (dB)", decimals=2, better="↑", needs=("targets",), place=10,
    function=lambda given: psnr(given.images, there(given.targets)),
    note="PSNR pays for the mean of all plausible answers, blurred as it is, more than for any one of them: `spread.md`"
    " (where `report.spread` is set) tells what a row owes to that.",
)  # fmt: skip
