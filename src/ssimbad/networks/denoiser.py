"""EDM's preconditioning around a network (Karras et al. 2022, eq. 7 and Table 1), conditioned by concatenation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in at sigma; same shape as sigma."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip·x + c_out·F([c_in·x, sketch, reference], c_noise(sigma)); the conditions are not scaled.

    `embed`: (B,) sigma → (B,) c_noise.
    """

    def __init__(self, network: nn.Module, sigma_data: float, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.sigma_data, self.embed = network, sigma_data, embed

    def forward(self, x: Tensor, sigma: Tensor, sketch: Tensor, reference: Tensor) -> Tensor:
        """(B, 3, H, W) noisy image, (B,) sigma, (B, 1, H, W), (B, 3, H, W) → (B, 3, H, W) float32 denoised."""
        c_skip, c_out, c_in = (c[:, None, None, None] for c in preconditioning(sigma, self.sigma_data))
        inputs = torch.cat([c_in * x, sketch, reference], dim=1)
        return c_skip * x + c_out * self.network(inputs, self.embed(sigma)).float()
