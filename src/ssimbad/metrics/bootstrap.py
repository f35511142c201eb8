"""Percentile bootstrap (Efron 1979) over test images."""

import math
from dataclasses import dataclass

import numpy as np

from ssimbad.seeding import derive


@dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, with its interval. `low` and `high` are None where the values allow none."""

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
    low, high = percentiles(values[positions(n, resamples, seed)].mean(axis=1), confidence)
    return Estimate(float(values.mean()), low, high, n)


def positions(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) positions of the resampled values, out of n; they depend on nothing else."""
    return np.random.default_rng(derive(seed, "bootstrap", n)).integers(n, size=(resamples, n))


def percentiles(estimates: np.ndarray, confidence: float) -> tuple[float, float]:
    """The interval between the two quantiles of (R,) resampled estimates that leave out equal tails."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def decimals(value: float, low: float, high: float) -> int:
    """How many decimals of a positive value its interval carries: to two digits of the half width.

    At least the value's first digit, and at most four digits of it (all that an interval without width would carry).
    """
    first, half = -math.floor(math.log10(value)), (high - low) / 2
    carried = 1 - math.floor(math.log10(half)) if half > 0 else first + 3
    return max(min(carried, first + 3), first, 0)


def difference(a: np.ndarray, b: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Estimate:
    """Mean of a - b with its paired interval: (N,) values of the same N images, in the same order.

    Raises:
        ValueError: different lengths, no values, or one that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"bootstrap: {len(a)} values cannot be paired with {len(b)}")
    return mean(np.asarray(a) - np.asarray(b), resamples=resamples, confidence=confidence, seed=seed)


def ratio(a: np.ndarray, b: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Estimate:
    """Sum of a over sum of b with its interval: (N,) values of the same N images, b not negative.

    No interval where a resample can be drawn whose sum of b is zero.

    Raises:
        ValueError: different lengths, no values, one that is not finite, or a sum of b that is zero.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if len(a) != len(b) or not np.isfinite([a, b]).all() or not b.sum() > 0:
        raise ValueError("bootstrap: a ratio needs finite values in pairs, and a denominator above zero")
    value, n = float(a.sum() / b.sum()), len(a)
    if n == 1 or not b.all():
        return Estimate(value, None, None, n)
    drawn = positions(n, resamples, seed)
    return Estimate(value, *percentiles(a[drawn].sum(axis=1) / b[drawn].sum(axis=1), confidence), n)
