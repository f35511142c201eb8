"""torchvision's VGG-19, for perceptual and style losses (networks/vgg.py)."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ssimbad.features.files import filling, read_state
from ssimbad.networks.vgg import VGG19

SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"


def load(path: Path) -> nn.Module:
    """The network with the weights of a local file, in evaluation mode on the CPU.

    Raises:
        UserError: the file is no state dictionary of torchvision's VGG-19.
    """
    state, network = read_state(path, "vgg19"), VGG19()
    with filling(path, "vgg19", "torchvision's VGG-19"):
        own = {name: state[name] for name in network.state_dict()}
        network.load_state_dict(own, assign=True)
    return network.eval()
