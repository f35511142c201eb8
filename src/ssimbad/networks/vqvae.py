"""VQ-VAE (van den Oord et al. 2017): a quarter of the image's side, and a codebook of vectors.

At the widths of the latent cold diffusion's source (128 and 256 channels, six residual layers, 512 codes of 32 numbers)
it has 9,614,371 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ssimbad.networks.precision import uncast


class Residual(nn.Module):
    """x plus conv 1×1 of ReLU of conv 3×3, both without bias; begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Quantised(NamedTuple):
    """`latents` (B, D, h, w) float32, each position the nearest code, with the gradient of what was quantised;
    `commitment` and `codebook`: scalars, the mean squared distance of latents and codes, with the gradient of the
    latents and with that of the codes; `codes` (B, h, w) int64, which they are."""

    latents: Tensor
    commitment: Tensor
    codebook: Tensor
    codes: Tensor


class Codebook(nn.Module):
    """K codes of D numbers, begun uniform in ±1/K.

    `rate`: the stored numbers are the codes by this, so that a step of Adam moves a code so many learning rates.
    """

    def __init__(self, codes: int, width: int, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.stored = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes) / rate)

    @property
    def codes(self) -> Tensor:
        """(K, D)."""
        return self.rate * self.stored

    def forward(self, latents: Tensor) -> Quantised:
        """(B, D, h, w) → the nearest codes (eq. 1 and 2), which to the gradient are the latents themselves.

        The two terms are the second and the third of eq. 3, without their weights.
        """
        flat = latents.float().permute(0, 2, 3, 1)
        codes = self.codes
        with uncast(latents):  # neighbours lie closer than bfloat16 can tell
            distance = codes.square().sum(dim=1) - 2 * flat @ codes.T  # but for |z|², the same for all codes
        chosen = distance.argmin(dim=-1)
        nearest = codes[chosen]
        through = flat + (nearest - flat).detach()
        return Quantised(
            through.permute(0, 3, 1, 2),
            (nearest.detach() - flat).square().mean(),
            (nearest - flat.detach()).square().mean(),
            chosen,
        )


def _start(layer: nn.Module) -> None:
    """Weights that keep a signal's variance (He et al. 2015, eq. 14), no bias: else latents begin near zero, and most
    of a short training is spent on making them speak."""
    if isinstance(layer, Residual):
        nn.init.zeros_(layer.layers[-1].get_parameter("weight"))
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        # Each output of a transposed convolution of stride 2 sums over a quarter of the kernel.
        share = 4 if isinstance(layer, nn.ConvTranspose2d) else 1
        fan = layer.in_channels * layer.kernel_size[0] ** 2 / share
        nn.init.normal_(layer.weight, std=(2 / fan) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Autoencoder(Protocol):
    """A finished part in whose latents others work, of whatever kind."""

    code_size: int
    """D, channels of the latents."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → (B, D, H/4, W/4)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The way back."""
        ...


class VQVAE(nn.Module):
    """Images (B, 3, H, W) in [-1, 1], H and W divisible by 4, and their latents (B, D, H/4, W/4).

    Args:
        widths: channels after the first and after the second halving.
        residuals: residual layers of the encoder, and of the decoder.
        codes, code_size, rate: K, D and rate of the codebook.
        begin: what is given → pictures on which it is trained besides the faces.
    """

    def __init__(
        self,
        widths: list[int],
        residuals: int,
        codes: int,
        code_size: int,
        rate: float = 1.0,
        begin: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        first, second = widths
        self.code_size, self.begin = code_size, begin
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, first, 4, stride=2, padding=1), nn.LeakyReLU()),
            *(nn.Conv2d(first, second, 4, stride=2, padding=1), nn.LeakyReLU()),
            *(nn.Conv2d(second, second, 3, padding=1), nn.LeakyReLU()),
            *(Residual(second) for _ in range(residuals)),
            *(nn.LeakyReLU(), nn.Conv2d(second, code_size, 1), nn.LeakyReLU()),
        )
        self.codebook = Codebook(codes, code_size, rate)
        self.decoder = nn.Sequential(
            *(nn.Conv2d(code_size, second, 3, padding=1), nn.LeakyReLU()),
            *(Residual(second) for _ in range(residuals)),
            nn.LeakyReLU(),
            *(nn.ConvTranspose2d(second, first, 4, stride=2, padding=1), nn.LeakyReLU()),
            nn.ConvTranspose2d(first, 3, 4, stride=2, padding=1),
        )
        self.apply(_start)
        self.decoder[-1].get_parameter("weight").data *= 0.1  # begins about grey, where tanh has its slope

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, D, H/4, W/4) float32, not quantised."""
        return self.encoder(image).float()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, D, h, w), quantised or not → (B, 3, 4h, 4w) float32 in [-1, 1]."""
        return self.decoder(latents).float().tanh()

    def forward(self, image: Tensor, direct: Tensor | None = None) -> tuple[Tensor, Quantised]:
        """(B, 3, H, W) → its reconstruction from the codes, and these; where `direct`, (B,) bool, from the latents."""
        latents = self.encode(image)
        quantised = self.codebook(latents)
        shown = quantised.latents
        if direct is not None:
            shown = torch.where(direct[:, None, None, None], latents, shown)
        return self.decode(shown), quantised
