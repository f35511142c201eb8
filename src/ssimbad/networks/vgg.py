"""VGG-19 (Simonyan & Zisserman 2015) as a frozen eye for perceptual and style losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS = (3, 8, 17, 26, 35)
"""Indices in torchvision's `features`: the second ReLU of blocks 1 and 2, the fourth of blocks 3 to 5."""

# Of ImageNet in [0, 1], with which the published weights were trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """(B, 3, H, W) in [-1, 1] → the feature maps after `LAYERS`; H, W ≥ 16."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg19  # slow to import

        with torch.device("meta"):  # its classifier of 124 million parameters is not needed
            self.features = vgg19(weights=None).features[: LAYERS[-1] + 1]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images + 1) / 2 - self.mean) / self.std
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in LAYERS:
                maps.append(x)
        return maps
