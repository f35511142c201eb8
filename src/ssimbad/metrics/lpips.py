"""Learned perceptual image patch similarity (Zhang et al. 2018), AlexNet, version 0.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric

if TYPE_CHECKING:
    from torch import nn


def distances(images: np.ndarray, targets: np.ndarray, *copies: nn.Module) -> np.ndarray:
    """How far a network finds each image from its target: LPIPS by features/alexnet.py.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position; the network is fed [-1, 1], as it expects.
        copies: the network, (1, 3, H, W) twice → (1,), once per worker; the images are dealt to them one by one.

    Returns:
        (N,) float64, 0 for identical images.

    Raises:
        ValueError: different shapes.
    """
    import torch

    from ssimbad.pairing.resize import to_unit
    from ssimbad.runtime import devices, pool

    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")

    @torch.inference_mode()
    def one(network: nn.Module, row: int) -> float:
        pair = (to_unit(x[row : row + 1]).to(devices.home(network)) for x in (images, targets))
        return network(*pair).item()

    with devices.exact():
        return np.array(list(pool.ordered_map(one, range(len(images)), copies)), dtype=np.float64)


def _lpips(given: Given) -> np.ndarray:
    return distances(given.images, there(given.targets), *given.networks["alexnet"])


METRIC = Metric(
    id="lpips", label="LPIPS", decimals=4, better="↓", function=_lpips, needs=("targets", "alexnet"), place=50
)
