"""Denoisers D(x; sigma) around a network, conditioned by concatenation: EDM's preconditioning, and DDPM's noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in at sigma; same shape as sigma (Karras et al. 2022, eq. 7 and Table 1)."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip·x + c_out·F([c_in·x, sketch, reference], c_noise(sigma)); the conditions are not scaled.

    `embed`: (B,) sigma → (B,) c_noise. `levels`: the noise levels at which it is trained and sampled.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float, embed: Callable[[Tensor], Tensor], levels: Any = None
    ) -> None:
        super().__init__()
        self.network, self.sigma_data, self.embed, self.levels = network, sigma_data, embed, levels

    def forward(self, x: Tensor, sigma: Tensor, sketch: Tensor, reference: Tensor) -> Tensor:
        """(B, 3, H, W) noisy image, (B,) sigma, (B, 1, H, W), (B, 3, H, W) → (B, 3, H, W) float32 denoised."""
        c_skip, c_out, c_in = (c[:, None, None, None] for c in preconditioning(sigma, self.sigma_data))
        inputs = torch.cat([c_in * x, sketch, reference], dim=1)
        return c_skip * x + c_out * self.network(inputs, self.embed(sigma)).float()


Prediction = Literal["noise", "velocity"]
"""What a network says of x = y + sigma·n: n, or the velocity alpha·n - sigma·alpha·y with alpha = 1 / sqrt(1 + sigma²)
(Salimans & Ho 2022)."""


def wanted(prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(B, C, H, W) y and n, (B,) sigma → what the network should say of y + sigma·n."""
    if prediction == "noise":
        return noise
    sigma = sigma[:, None, None, None]
    return (noise - sigma * clean) / (1 + sigma**2).sqrt()


def denoised(prediction: Prediction, x: Tensor, sigma: Tensor, said: Tensor) -> Tensor:
    """D(x; sigma) of what the network says: x - sigma·n, or alpha²·x - sigma·alpha·v."""
    sigma = sigma[:, None, None, None]
    if prediction == "noise":
        return x - sigma * said
    return x / (1 + sigma**2) - sigma * said / (1 + sigma**2).sqrt()


class NoisePredictor(nn.Module):
    """A DDPM network eps(x_t, t), conditioned by concatenation or not at all, as a denoiser D(x; sigma) of
    x = y + sigma·n.

    With x = x_t / sqrt(alpha_bar_t) and sigma = sqrt((1 - alpha_bar_t) / alpha_bar_t), x_t = x / sqrt(1 + sigma²) and
    D(x; sigma) = x - sigma·eps (DDPM eq. 4; Song et al. 2021, eq. 9).

    `sigmas`: (T,) float64, rising, of the timesteps 0 … T-1. Between two of them t is interpolated in ln sigma.
    `as_published`: chains and inversions as in the public code of AnimeDiffusion. `config`: of its method. `frozen`:
    the finished one from which its training started, where that is still asked. `shape`: of what it draws, (C, H, W),
    where nothing that it is given tells. `prediction`: velocity for a network that says v in place of eps.
    """

    sigmas: Tensor

    def __init__(
        self,
        network: nn.Module,
        sigmas: Tensor,
        as_published: bool = False,
        config: Any = None,
        frozen: nn.Module | None = None,
        shape: tuple[int, ...] = (),
        prediction: Prediction = "noise",
    ) -> None:
        super().__init__()
        self.network, self.as_published, self.config = network, as_published, config
        self.frozen, self.shape, self.prediction = frozen, shape, prediction
        self.register_buffer("sigmas", sigmas, persistent=False)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        sketch: Tensor | None = None,
        reference: Tensor | None = None,
        timed: bool = True,
    ) -> Tensor:
        """(B, 3, H, W) noisy image, (B,) sigma, (B, 1, H, W), (B, 3, H, W) → (B, 3, H, W) float32 denoised.

        `timed`: False leaves the timestep out, as the public code of AnimeDiffusion does in its inversion.
        """
        return denoised(self.prediction, x, sigma, self.predicted(x, sigma, sketch, reference, timed))

    def noise(
        self,
        x: Tensor,
        sigma: Tensor,
        sketch: Tensor | None = None,
        reference: Tensor | None = None,
        timed: bool = True,
    ) -> Tensor:
        """The predicted noise, (B, 3, H, W) float32."""
        said = self.predicted(x, sigma, sketch, reference, timed)
        if self.prediction == "noise":
            return said
        return (x - denoised(self.prediction, x, sigma, said)) / sigma[:, None, None, None]

    def predicted(
        self, x: Tensor, sigma: Tensor, sketch: Tensor | None, reference: Tensor | None, timed: bool = True
    ) -> Tensor:
        """What the network says, noise or velocity; (B, 3, H, W) float32."""
        scaled = x / (1 + sigma**2).sqrt()[:, None, None, None]
        inputs = torch.cat([part for part in (scaled, sketch, reference) if part is not None], dim=1)
        return self.network(inputs, self.timestep(sigma) if timed else None).float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """(B,) sigma → (B,) float32 timestep in [0, T-1]."""
        return timestep(self.sigmas, sigma)


def timestep(sigmas: Tensor, sigma: Tensor) -> Tensor:
    """(T,) float64 noise levels of the timesteps 0 … T-1, rising, and (B,) sigma → (B,) float32 timestep in [0, T-1],
    between two of them interpolated in ln sigma."""
    known, wanted = sigmas.log(), sigma.double().log()
    above = (known < wanted[:, None]).sum(dim=1).clamp(1, len(known) - 1)  # graphs know no binary search
    low, high = known[above - 1], known[above]
    return (above - 1 + (wanted - low) / (high - low)).clamp(0, len(known) - 1).float()
