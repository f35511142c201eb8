"""The Inception network of FID and KID: pytorch-fid's, whose weights come from the original TensorFlow graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pytorch_fid import inception
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.features.files import filling, read_state
from ssimbad.runtime import devices, pool

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FEATURES = 2048
BATCH = 32


class Inception(nn.Module):
    """(B, 3, H, W) in [0, 1] → (B, 2048): pool3 features of the images at 299².

    torchvision's network with pytorch-fid's blocks: the same values as pytorch-fid's own, which can only be built by
    downloading its weights.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        for letter, channels, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64)):
            setattr(network, f"Mixed_5{letter}", inception.FIDInceptionA(channels, pooled))
        for letter, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            setattr(network, f"Mixed_6{letter}", inception.FIDInceptionC(768, inner))
        network.Mixed_7b, network.Mixed_7c = inception.FIDInceptionE_1(1280), inception.FIDInceptionE_2(2048)
        network.load_state_dict(state)
        network.fc = nn.Identity()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        large = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
        return self.network(2 * large - 1)


def load(path: Path) -> nn.Module:
    """The network with the weights of a local file, in evaluation mode on the CPU.

    Raises:
        UserError: the file is no state dictionary of that network.
    """
    state = read_state(path, "inception")
    with filling(path, "inception", "pytorch-fid's Inception"):
        return Inception(state).eval()


def described(images: np.ndarray, *copies: nn.Module) -> np.ndarray:
    """(N, H, W, 3) uint8 → (N, 2048) float64: pool3 features of each image.

    Args:
        copies: the network, once per worker; batches are dealt to them and are the same for any number.
    """

    @torch.inference_mode()
    def one(network: nn.Module, start: int) -> Tensor:
        batch = torch.tensor(images[start : start + BATCH]).to(devices.home(network))
        return network(batch.permute(0, 3, 1, 2).float() / 255).cpu()

    with devices.exact():
        return torch.cat(list(pool.ordered_map(one, range(0, len(images), BATCH), copies))).double().numpy()
