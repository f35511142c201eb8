"""Kernel Inception distance (Bińkowski et al. 2018) on pytorch-fid's features; unbiased, unlike FID."""

from __future__ import annotations

from ssimbad.metrics.contract import Given, Metric
from ssimbad.metrics.fid import pool3
from ssimbad.metrics.mmd import kernel_distance


def _kid(given: Given) -> float:
    return kernel_distance(*pool3(given), given.seed, "kid")


METRIC = Metric(
    id="kid", label="KID", decimals=4, better="↓", function=_kid, needs=("faces", "inception"), of_set=True, place=40
)
