"""The U-Net shared by AnimeDiffusion, EDM and SSIMBaD (the public code of the first and the last).

At paper scale (base 64, multipliers 1/2/4/8, 2 blocks, 7 channels in, 3 out) it has 52,301,251 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.lists import Modules
from ssimbad.networks.norm import GroupNorm


def sinusoid(t: Tensor, channels: int, max_period: float = 1000.0) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017) of a noise level made for values up to about 1000.

    Args:
        t: (B,) float32, the scaled c_noise.
        channels: even number of features.
    Returns:
        (B, channels) float32: cosines, then sines, of frequencies 1 … 1/max_period.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """GN-SiLU-conv3×3, plus the noise level's bias, GN-SiLU-conv3×3; plus the input (by 1×1 conv if widths differ)."""

    def __init__(self, channels_in: int, channels_out: int, features: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bias = nn.Linear(features, channels_out)
        self.norm2 = GroupNorm(groups, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, features: Tensor | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if features is not None:
            h = h + self.bias(F.silu(features))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Multi-head self-attention over positions, residual, without output projection."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + out.transpose(2, 3).reshape(b, c, h, w)


class Layers(nn.Module):
    """Of the U-Net, without the way through them."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        base: int,
        multipliers: list[int],
        blocks: int,
        heads: int,
        embedding: int,
        groups: int,
        attention: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embedding = embedding
        features = 4 * embedding
        self.embed = nn.Sequential(nn.Linear(embedding, features), nn.SiLU(), nn.Linear(features, features))
        widths = [base * m for m in multipliers]

        def residual(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, features, groups)

        self.stem = nn.Conv2d(channels_in, base, 1)
        self.down: Modules[Modules[ResidualBlock]] = Modules()
        skips, width = [], base
        for level, channels in enumerate(widths):
            stage: Modules[ResidualBlock] = Modules()
            for _ in range(blocks):
                stage.append(residual(width, channels))
                width = channels
                skips.append(width)
            self.down.append(stage)
            if level < len(widths) - 1:
                skips.append(width)  # the pooled map is a skip of its own
        self.middle = nn.ModuleList([residual(width, width), Attention(width, heads, groups), residual(width, width)])
        self.up: Modules[Modules[ResidualBlock]] = Modules()
        for level, channels in reversed(list(enumerate(widths))):
            stage = Modules()
            for _ in range(blocks + (level > 0)):  # below the top, one more block takes the pooled map
                stage.append(residual(width + skips.pop(), channels))
                width = channels
            self.up.append(stage)
        self.head = nn.Sequential(GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, channels_out, 1))
        ways = [(way, level) for way in ("down", "up") for level in attention]
        self.attentions = nn.ModuleDict({f"{w}{level}": Attention(widths[level], heads, groups) for w, level in ways})

    def attended(self, x: Tensor, way: str, level: int) -> Tensor:
        """What the blocks of a level, 0 being the image's own size, hand on, on the way `down` or `up`."""
        name = f"{way}{level}"
        return self.attentions[name](x) if name in self.attentions else x


class UNet(Layers):
    """(B, channels_in, H, W) and noise level (B,) → (B, channels_out, H, W); H and W divisible by 2^(levels-1).

    Without a noise level (None) its bias is left out of every block.
    """

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        features = None if noise is None else self.embed(sinusoid(noise, self.embedding))
        x = self.stem(x)
        skips = []
        for level, stage in enumerate(self.down):
            for block in stage:
                x = block(x, features)
                skips.append(x)
            x = skips[-1] = self.attended(x, "down", level)
            if level < len(self.down) - 1:
                x = F.avg_pool2d(x, 2)
                skips.append(x)
        first, attention, last = self.middle
        x = last(attention(first(x, features)), features)
        for level, stage in enumerate(self.up):
            for block in stage:
                x = block(torch.cat([x, skips.pop()], dim=1), features)
            x = self.attended(x, "up", len(self.up) - 1 - level)
            if level < len(self.up) - 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(x)
