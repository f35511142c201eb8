"""All metrics of one set of images against their targets: values with intervals, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssimbad.metrics import bootstrap
from ssimbad.metrics.ms_ssim import ms_ssim, scales
from ssimbad.metrics.psnr import psnr

# lpips and pytorch-fid are imported where their networks are in use: they take seconds to load.
if TYPE_CHECKING:
    from torch import nn

DIGITS = 5
"""Decimals of stored values: beyond them single precision depends on the machine."""

SWITCHED_OFF = "feature network switched off (weights.enabled: false)"

Metric = dict[str, Any]


@dataclass(frozen=True)
class Networks:
    """Feature networks with their true weights, one per worker (those on a CPU are one and the same); where there is
    none, `reason` says why.

    A number from any other weights is never called FID, KID or LPIPS.
    """

    inception: tuple[nn.Module, ...] = ()
    alexnet: tuple[nn.Module, ...] = ()
    reason: str = SWITCHED_OFF


def load_networks(inputs: Mapping[str, Path], threads: int = 1) -> Networks:
    """The networks whose weights files a stage was given as `inception` and `alexnet`, on all devices of the job, or
    for so many cores of its CPU.

    Raises:
        UserError: a file holds something else.
    """
    given = [inputs[name] for name in ("inception", "alexnet") if name in inputs]
    absent = [path.name for path in given if not path.is_file()]
    if not given or absent:
        return Networks(reason=f"weights file not there: {', '.join(absent)}" if absent else SWITCHED_OFF)
    from ssimbad.metrics import fid, lpips
    from ssimbad.runtime import devices

    def copies(name: str, load: Callable[[Path], nn.Module]) -> tuple[nn.Module, ...]:
        if name not in inputs:
            return ()
        places = devices.visible()
        loaded = {device: load(inputs[name]).to(device) for device in dict.fromkeys(places)}
        return tuple(loaded[device] for device in devices.workers(places, threads))

    return Networks(copies("inception", fid.load_network), copies("alexnet", lpips.load_network))


def per_image(images: np.ndarray, targets: np.ndarray, networks: Networks) -> dict[str, np.ndarray]:
    """{metric: (N,) float64} of (N, H, W, 3) uint8 images and targets, paired by position."""
    values = {"psnr": psnr(images, targets), "ms_ssim": ms_ssim(images, targets)}
    if networks.alexnet:
        from ssimbad.metrics import lpips

        values["lpips"] = lpips.lpips(images, targets, *networks.alexnet)
    return {name: value.round(DIGITS) for name, value in values.items()}


def summarise(values: dict[str, np.ndarray], size: int, networks: Networks, evaluation: Any) -> dict[str, Metric]:
    """{metric: {value, ci_low, ci_high, n[, scales][, reason]}} of per-image values.

    Args:
        values: from `per_image`.
        size: side of the images, pixels.
        networks: with which they were measured; a missing one gives value None and its reason.
        evaluation: parameters bootstrap (resamples), confidence, seed.
    """
    metrics = {name: _with_interval(value, evaluation) for name, value in values.items()}
    metrics["ms_ssim"]["scales"] = scales(size)
    if not networks.alexnet:
        metrics["lpips"] = missing(len(values["psnr"]), networks.reason)
    return metrics


def distribution(images: np.ndarray, targets: np.ndarray, networks: Networks, seed: int) -> dict[str, Metric]:
    """FID and KID of two sets of (N, H, W, 3) uint8 images; no intervals: resampling biases both."""
    n = len(images)
    if not networks.inception:
        return {name: missing(n, networks.reason) for name in ("fid", "kid")}
    from ssimbad.metrics import fid

    a, b = (fid.features(x, *networks.inception) for x in (images, targets))
    try:
        distance = _metric(fid.frechet_distance(a, b), n)
    except ValueError as error:  # pytorch-fid gives up on some rank-deficient covariances of few images
        distance = missing(n, f"pytorch-fid: {error}")
    return {"fid": distance, "kid": _metric(fid.kernel_distance(a, b, seed), n)}


def missing(n: int, reason: str) -> Metric:
    """A metric of n images that could not be measured, and why."""
    return {"value": None, "ci_low": None, "ci_high": None, "n": n, "reason": reason}


def _metric(value: float, n: int) -> Metric:
    return {"value": round(value, DIGITS), "ci_low": None, "ci_high": None, "n": n}


def _with_interval(values: np.ndarray, evaluation: Any) -> Metric:
    estimate = bootstrap.mean(
        values, resamples=evaluation.bootstrap, confidence=evaluation.confidence, seed=evaluation.seed
    )
    low, high = (None if x is None else round(x, DIGITS) for x in (estimate.low, estimate.high))
    return {"value": round(estimate.value, DIGITS), "ci_low": low, "ci_high": high, "n": estimate.n}
