"""Percentile bootstrap (Efron 1979) over test images."""

from dataclasses import dataclass

import numpy as np

from ssimbad.seeding import derive


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `low` and `high` are None where one value alone allows no interval."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean(values: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Estimate:
    """Mean of (N,) values with its percentile bootstrap interval.

    The resampled positions depend on `seed` and N alone, so two calls on values of the same images resample
    the same images.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        raise ValueError("bootstrap: needs at least one value, all of them finite")
    if n == 1:
        return Estimate(float(values[0]), None, None, 1)
    generator = np.random.default_rng(derive(seed, "bootstrap", n))
    means = values[generator.integers(n, size=(resamples, n))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high), n)


def difference(a: np.ndarray, b: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Estimate:
    """Mean of a - b with its paired interval: (N,) values of the same N images, in the same order.

    Raises:
        ValueError: different lengths, no values, or one that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"bootstrap: {len(a)} values cannot be paired with {len(b)}")
    return mean(np.asarray(a) - np.asarray(b), resamples=resamples, confidence=confidence, seed=seed)
