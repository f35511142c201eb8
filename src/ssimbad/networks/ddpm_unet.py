"""The U-Net of unconditional DDPM (Ho et al. 2020, appendix B) with Hardswish in place of swish.

Unlike the shared one it halves by strided convolutions, attends at a level of its own and not at the bottleneck alone,
and drops activations. With base 64, multipliers 1/2/4/4, 2 blocks and attention at level 2 it has 25,304,963
parameters; a table of sinusoids, which others count as 64,000 more, is computed here and not stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.lists import Modules
from ssimbad.networks.norm import GroupNorm
from ssimbad.networks.unet import sinusoid

Uniform = Callable[..., Tensor]
"""(*shape) → (B, *shape) in [0, 1), each row of its own image."""


def dropped(h: Tensor, share: float, uniform: Uniform | None) -> Tensor:
    """(B, C, H, W) with that share of its numbers at 0 and the rest enlarged; unchanged without random numbers.

    Masks come from the images' own streams and not from torch's, so that a resumed training draws them again.
    """
    if uniform is None or not share:
        return h
    return h * (uniform(*h.shape[1:]) >= share).to(h.dtype) / (1 - share)


class ResidualBlock(nn.Module):
    """GN-Hardswish-conv3×3, plus the timestep's bias, GN-Hardswish-dropout-conv3×3; plus the input (by 1×1 conv if
    widths differ); then attention where asked for."""

    def __init__(
        self, channels_in: int, channels_out: int, features: int, groups: int, dropout: float, attend: bool
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bias = nn.Linear(features, channels_out)
        self.norm2 = GroupNorm(groups, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.attention = Attention(channels_out, groups) if attend else nn.Identity()

    def forward(self, x: Tensor, features: Tensor, uniform: Uniform | None) -> Tensor:
        h = self.conv1(F.hardswish(self.norm1(x)))
        h = h + self.bias(F.hardswish(features))[:, :, None, None]
        h = dropped(F.hardswish(self.norm2(h)), self.dropout, uniform)
        return self.attention(self.skip(x) + self.conv2(h))


class Attention(nn.Module):
    """Self-attention of one head over positions, scaled by C^-1/2, with output projection, residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(found.transpose(1, 2).reshape(b, c, h, w))


class UNet(nn.Module):
    """(B, 3, H, W) float32 and timestep (B,) → (B, 3, H, W); H and W divisible by 2^(levels-1).

    `attention`: levels (0 at full size) whose blocks attend, on the way down and up; the first of the two middle blocks
    always does. `uniform` in a call: random numbers for dropout, of a training step.
    """

    def __init__(
        self, base: int, multipliers: list[int], blocks: int, attention: list[int], groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.base, features = base, 4 * base
        self.embed = nn.Sequential(nn.Linear(base, features), nn.Hardswish(), nn.Linear(features, features))
        widths = [base * m for m in multipliers]

        def residual(channels_in: int, channels_out: int, attend: bool) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, features, groups, dropout, attend)

        self.stem = nn.Conv2d(3, base, 3, padding=1)
        self.down: Modules[Modules[ResidualBlock]] = Modules()
        self.shrink, skips, width = nn.ModuleList(), [base], base
        for level, channels in enumerate(widths):
            stage: Modules[ResidualBlock] = Modules()
            for _ in range(blocks):
                stage.append(residual(width, channels, level in attention))
                width = channels
                skips.append(width)
            self.down.append(stage)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList([residual(width, width, True), residual(width, width, False)])
        self.up: Modules[Modules[ResidualBlock]] = Modules()
        self.enlarge = nn.ModuleList()
        for level, channels in reversed(list(enumerate(widths))):
            stage = Modules()
            for _ in range(blocks + 1):
                stage.append(residual(width + skips.pop(), channels, level in attention))
                width = channels
            self.up.append(stage)
            if level:
                self.enlarge.append(nn.Conv2d(width, width, 3, padding=1))
        self.head = nn.Sequential(GroupNorm(groups, width), nn.Hardswish(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, uniform: Uniform | None = None) -> Tensor:
        features = self.embed(sinusoid(t, self.base, 10_000.0))
        x = self.stem(x)
        skips = [x]
        for level, stage in enumerate(self.down):
            for block in stage:
                x = block(x, features, uniform)
                skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
                skips.append(x)
        for block in self.middle:
            x = block(x, features, uniform)
        for level, stage in enumerate(self.up):
            for block in stage:
                x = block(torch.cat([x, skips.pop()], dim=1), features, uniform)
            if level < len(self.enlarge):
                x = self.enlarge[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.head(x)
