"""Networks that restore the latents of a clean image from those of a degraded one, told how clean they are already.

The dense one is the published network of latent cold diffusion: on 32×16×16 latents it has 536,936,448 parameters, and
604,045,312 with the latents of a reference appended. The convolutional one is an adaptation for small machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.norm import GroupNorm
from ssimbad.networks.vqvae import Autoencoder

PERIOD = 10000.0


def sinusoid(u: Tensor, channels: int) -> Tensor:
    """(B,) float32 → (B, channels) float32: sines, then cosines, of frequencies 1 … 1/10000 (Vaswani et al. 2017)."""
    half = channels // 2
    rates = torch.exp(torch.arange(half, device=u.device, dtype=torch.float32) * (-math.log(PERIOD) / (half - 1)))
    angles = u.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Dense(nn.Module):
    """L layers on the flattened latents, h ← h + ReLU(W (h ⊙ e(u)) + b), e the sinusoid of u in [0, 1].

    The multiplication is on the input of a layer: at u = 0 the sines hide one half of it. With a reference the first
    layer reads its latents as well, under the same e.

    Args:
        numbers: of the latents of an image, channels × height × width.
        layers: L.
        reference: whether there is one.
        timed: without, e = 1.
        as_published: ReLU behind the last layer too, so that no number can ever fall: R(x) ≥ x.
    """

    def __init__(self, numbers: int, layers: int, reference: bool, timed: bool, as_published: bool) -> None:
        super().__init__()
        inputs = [2 * numbers if reference else numbers, *[numbers] * (layers - 1)]
        self.layers = nn.ModuleList([nn.Linear(width, numbers) for width in inputs])
        self.timed, self.as_published = timed, as_published

    def forward(self, x: Tensor, reference: Tensor | None, u: Tensor) -> Tensor:
        """(B, D, h, w), the same or None, and (B,) in [0, 1] → (B, D, h, w) float32."""
        h, colours = x.flatten(1), [] if reference is None else [reference.flatten(1)]
        scale = sinusoid(u, h.shape[1]) if self.timed else torch.ones_like(h)
        for number, layer in enumerate(self.layers):
            seen = torch.cat([part * scale for part in (h, *(colours if number == 0 else []))], dim=1)
            added = layer(seen)
            last = number == len(self.layers) - 1
            h = h + (added if last and not self.as_published else F.relu(added))
        return h.float().reshape(x.shape)


class Convolutional(nn.Module):
    """L residual layers of 3×3 convolutions on the latents as they lie, each input scaled per channel by what u says.

    h ← h + conv(m(u) ⊙ SiLU(norm(h))) with m = 1 + a linear map of the sinusoid of 1000 u, and R(x) = x + head(h). It
    begins as the identity.

    Args:
        channels: of the latents.
        width: channels of h.
        layers: L.
        reference: whether there is one.
        timed: without, m = 1.
    """

    EMBEDDING = 64

    def __init__(self, channels: int, width: int, layers: int, reference: bool, timed: bool) -> None:
        super().__init__()
        self.timed = timed
        self.stem = nn.Conv2d(2 * channels if reference else channels, width, 1)
        self.norms = nn.ModuleList([GroupNorm(max(1, width // 8), width) for _ in range(layers)])
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(layers)])
        self.scales = nn.ModuleList([nn.Linear(self.EMBEDDING, width) for _ in range(layers)] if timed else [])
        self.norm, self.head = GroupNorm(max(1, width // 8), width), nn.Conv2d(width, channels, 1)
        for layer in (*self.scales, self.head):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, reference: Tensor | None, u: Tensor) -> Tensor:
        """(B, D, h, w), the same or None, and (B,) in [0, 1] → (B, D, h, w) float32."""
        h = self.stem(x if reference is None else torch.cat([x, reference], dim=1))
        features = sinusoid(1000 * u, self.EMBEDDING) if self.timed else None
        for number, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            seen = F.silu(norm(h))
            if self.timed:
                seen = seen * (1 + self.scales[number](features)[:, :, None, None])
            h = h + convolution(seen)
        return x + self.head(F.silu(self.norm(h))).float()


class LatentCold(nn.Module):
    """A network R on the latents of a finished autoencoder, `encoder`, which has `encode` and `decode`.

    `begin`: what is given → the pictures from which it starts. `times`: T, so that it is trained at u = 0 … (T - 1)/T.
    `one_shot_at`: the u that it is told when it restores in a single call. `refers`: whether R reads a reference.
    """

    def __init__(
        self,
        encoder: Autoencoder,
        network: nn.Module,
        begin: Callable[..., Tensor],
        times: int,
        one_shot_at: float,
        refers: bool,
    ) -> None:
        super().__init__()
        self.encoder, self.network, self.refers = encoder, network, refers
        self.begin, self.times, self.one_shot_at = begin, times, one_shot_at

    def forward(self, z: Tensor, reference: Tensor | None, u: Tensor) -> Tensor:
        """Latents, those of the reference or None, and (B,) the share of clean in them → the clean latents."""
        return self.network(z, reference, u)
