"""CLIP's image tower, ViT-B/32 trained on laion2B (Cherti et al. 2023): how far apart two images are in its eyes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.features.files import filling, read_part
from ssimbad.networks.clip import ImageTower

SHA256 = "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6"


class Distance(nn.Module):
    """(B, 3, H, W) twice in [-1, 1] → (B,) 1 - cosine of their embeddings, in [0, 2]."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(self.tower(image), self.tower(target))


def load(path: Path) -> nn.Module:
    """The image tower, not the text tower, of a local OpenCLIP file (.safetensors), in evaluation mode on the CPU.

    Raises:
        UserError: the file holds something else.
    """
    state = read_part(path, "clip", "visual.")
    with filling(path, "clip", "CLIP's image tower"):
        return Distance(ImageTower.of(state)).eval()
