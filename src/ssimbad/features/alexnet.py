"""The network of LPIPS (Zhang et al. 2018), version 0.1: torchvision's AlexNet under the lpips package's weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import lpips
from torch import Tensor, nn

from ssimbad.features.files import filling, read_state

SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"


class LPIPS(lpips.LPIPS):
    """(B, 3, H, W) twice in [-1, 1] → (B,) distances."""

    def forward(self, image: Tensor, target: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override] has no options
        return super().forward(image, target).flatten()


def load(path: Path) -> nn.Module:
    """The network with torchvision's AlexNet from a local file, in evaluation mode on the CPU.

    Raises:
        UserError: the file is no state dictionary of torchvision's AlexNet.
    """
    return filled(path, "alexnet", "alex", "torchvision's AlexNet")


def filled(path: Path, name: str, backbone: str, whose: str) -> nn.Module:
    """LPIPS on a backbone of the lpips package, with weights from a local file.

    The five linear layers come with the lpips package; its backbone is built without weights, then filled, so
    that nothing is downloaded.
    """
    state = read_state(path, name)
    with warnings.catch_warnings():  # lpips asks torchvision for "no weights" by a deprecated name
        warnings.simplefilter("ignore", UserWarning)
        network = LPIPS(net=backbone, version="0.1", pnet_rand=True, verbose=False)
    with filling(path, name, whose):
        # lpips cuts the backbone into slices but keeps the numbers: slice2.3.weight is features.3.weight
        own = {key: state["features." + key.split(".", 1)[1]] for key in network.net.state_dict()}
        network.net.load_state_dict(own)
    return network.eval()
