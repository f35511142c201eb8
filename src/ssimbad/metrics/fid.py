"""Fréchet Inception distance (Heusel et al. 2017) on pytorch-fid's features."""

from __future__ import annotations

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric, Unmeasurable


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FID of two sets of features, (N, D) and (M, D), by pytorch-fid's own function.

    Raises:
        Unmeasurable: fewer than two images in a set, or pytorch-fid gives up.
    """
    from pytorch_fid import fid_score

    if min(len(a), len(b)) < 2:
        raise Unmeasurable("needs two images in each set")
    try:
        return float(
            fid_score.calculate_frechet_distance(
                a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
            )
        )
    except ValueError as error:  # on some rank-deficient covariances of few images
        raise Unmeasurable(f"pytorch-fid: {error}") from None


def pool3(given: Given) -> tuple[np.ndarray, np.ndarray]:
    """Inception features of the answers and of the faces, (N, 2048) and (M, 2048), computed once."""
    from ssimbad.features import inception

    copies, known = given.networks["inception"], given.described.get("inception")

    def both() -> tuple[np.ndarray, np.ndarray]:
        answers = inception.described(given.images, *copies)
        return answers, inception.described(there(given.faces), *copies) if known is None else known

    return given.once("pool3", both)


def _fid(given: Given) -> float:
    return frechet_distance(*pool3(given))


METRIC = Metric(
    id="fid", label="FID", decimals=2, better="↓", function=_fid, needs=("faces", "inception"), of_set=True, place=30,
    note="FID is biased upwards at small n: compare it at equal n only. KID is unbiased.",
)  # fmt: skip
