"""PatchGAN (Isola et al. 2017): a discriminator that judges every patch of a coloured sketch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.norm import GroupNorm


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight is divided by its largest singular value (Miyato et al. 2018).

    The singular vectors are computed anew at every call instead of followed by power iteration: a state that every
    forward pass moves would depend on how a batch is shared among threads and devices.
    """

    def forward(self, input: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            wide = matrix.double()
            left = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -1]
            right = F.normalize(wide.T @ left, dim=0)
        # As a sum of products: a matrix product would be rounded to bfloat16 under autocast.
        sigma = (torch.outer(left, right).to(matrix.dtype) * matrix).sum()
        return self._conv_forward(input, self.weight / sigma, self.bias)


class PatchGAN(nn.Module):
    """Image (B, 3, H, W) and sketch (B, 1, H, W) → (B, 1, H / 2^n, W / 2^n) scores, 1 for real, with n = len(widths).

    One-group normalisation in place of batch statistics: a score does not depend on the other images.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in zip([4, *widths], widths, strict=False):
            layers += [
                SpectralConv2d(channels_in, channels_out, 3, stride=2, padding=1),
                GroupNorm(1, channels_out),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, image: Tensor, sketch: Tensor) -> Tensor:
        return self.layers(torch.cat([image, sketch], dim=1)).float()
