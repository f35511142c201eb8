"""Maximum mean discrepancy of two sets of vectors, by the kernel and the subsets of KID (Bińkowski et al. 2018)."""

import numpy as np

from ssimbad.metrics.contract import Unmeasurable
from ssimbad.seeding import derive

SUBSET = 1000
SUBSETS = 100


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int, name: str) -> float:
    """Unbiased squared MMD of two sets, (N, D) and (M, D), kernel (x·y / D + 1)³.

    Up to `SUBSET` vectors all pairs are used; beyond that the mean over `SUBSETS` seeded subsets of that size, as
    published. It can be negative.

    Raises:
        Unmeasurable: fewer than two vectors in a set.
    """
    if min(len(a), len(b)) < 2:
        raise Unmeasurable("needs two images in each set")
    if max(len(a), len(b)) <= SUBSET:
        return _mmd2(a, b)
    generator = np.random.default_rng(derive(seed, name))

    def draw(x: np.ndarray) -> np.ndarray:
        return x[generator.choice(len(x), min(len(x), SUBSET), replace=False)]

    return float(np.mean([_mmd2(draw(a), draw(b)) for _ in range(SUBSETS)]))


def _mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6)."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
