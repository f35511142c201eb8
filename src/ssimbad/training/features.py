"""The feature networks through which losses look, from their weights' files; frozen, on the training device."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ssimbad.errors import UserError
from ssimbad.methods.contract import Features


def load(inputs: dict[str, Path], device: torch.device) -> Features | None:
    """The network whose file is among a training's inputs, None where there is none.

    Raises:
        UserError: the file holds something else.
    """
    found = next((name for name in _LOADERS if name in inputs), None)
    return _LOADERS[found](inputs[found], device) if found else None


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).eval().requires_grad_(False)


def _lpips(path: Path, device: torch.device) -> Features:
    from ssimbad.metrics import lpips

    network = _frozen(lpips.load_network(path), device)
    return lambda image, target: network(image, target).flatten()


def _vgg19(path: Path, device: torch.device) -> Features:
    from ssimbad.metrics.fid import read_state
    from ssimbad.networks.vgg import VGG19

    state, network = read_state(path, "weights.vgg19"), VGG19()
    try:
        own = {name: state[name] for name in network.state_dict()}
        network.load_state_dict(own, assign=True)
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise UserError(f"{path}: not torchvision's VGG-19; check weights.vgg19 in params.yaml") from None
    return _frozen(network, device)


_LOADERS = {"alexnet": _lpips, "vgg19": _vgg19}
