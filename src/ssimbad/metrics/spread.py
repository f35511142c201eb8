"""How the squared error of an answer that depends on noise splits into bias and spread."""

from collections.abc import Sequence

import numpy as np


def split(samples: Sequence[np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(error, spread), each (N,) float64: means over the pixels of an image, in squared levels of 255.

    With K answers x_k to one sketch and the target y, the error is the mean of |x_k - y|² and the spread the unbiased
    variance between the answers, sum |x_k - mean|² / (K - 1). As E|x - y|² = |E x - y|² + Var x (Geman, Bienenstock
    and Doursat 1992, eq. 5), error - spread is an unbiased estimate of the squared bias: what is left of the error in
    the mean of infinitely many answers. An estimate can come out below zero.

    Args:
        samples: K >= 2 arrays (N, H, W, 3) uint8, the k-th answers to all images.
        targets: (N, H, W, 3) uint8, paired by position.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"the spread between samples needs two or more, not {len(samples)}")
    error, spread = np.empty(len(targets)), np.empty(len(targets))
    for i, target in enumerate(targets):
        answers = np.stack([sample[i] for sample in samples]).astype(np.float64)
        error[i] = np.square(answers - target).mean()
        spread[i] = answers.var(axis=0, ddof=1).mean()
    return error, spread
