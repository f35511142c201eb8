"""Learned perceptual image patch similarity (Zhang et al. 2018), AlexNet, version 0.1."""

import warnings
from pathlib import Path

import lpips as package
import numpy as np
import torch
from torch import nn

from ssimbad.errors import UserError
from ssimbad.metrics.fid import read_state
from ssimbad.pairing.resize import to_unit
from ssimbad.runtime import devices, pool


def load_network(path: Path) -> nn.Module:
    """The lpips network with torchvision's AlexNet from a local file, in evaluation mode on the CPU.

    The five linear layers come with the lpips package; its backbone is built without weights, then filled, so
    that nothing is downloaded.

    Raises:
        UserError: the file is no state dictionary of torchvision's AlexNet.
    """
    state = read_state(path, "weights.alexnet")
    with warnings.catch_warnings():  # lpips asks torchvision for "no weights" by a deprecated name
        warnings.simplefilter("ignore", UserWarning)
        network = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    try:
        # lpips cuts AlexNet into slices but keeps the numbers: slice2.3.weight is features.3.weight
        backbone = {name: state["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
        network.net.load_state_dict(backbone)
    except (KeyError, RuntimeError, TypeError):
        raise UserError(f"{path}: not torchvision's AlexNet; check weights.alexnet in params.yaml") from None
    return network.eval()


def lpips(images: np.ndarray, targets: np.ndarray, *copies: nn.Module) -> np.ndarray:
    """LPIPS per image.

    Args:
        images, targets: (N, H, W, 3) uint8, paired by position; the network is fed [-1, 1], as it expects.
        copies: the network from `load_network`, once per worker; they take the images one by one.

    Returns:
        (N,) float64, 0 for identical images.

    Raises:
        ValueError: different shapes.
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {images.shape} and targets {targets.shape} differ in shape")

    @torch.inference_mode()
    def one(network: nn.Module, row: int) -> float:
        pair = (to_unit(x[row : row + 1]).to(devices.home(network)) for x in (images, targets))
        return network(*pair).item()

    with devices.exact():
        return np.array(list(pool.ordered_map(one, range(len(images)), copies)), dtype=np.float64)
