"""The U-Net of the Coloring Assistant: pairs of convolutions, one attention at the bottleneck, a timestep without MLP.

At its published size (base 64, time 128; 7 channels in, 3 out) it has 33,543,555 parameters, with time 256 33,748,355.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.norm import GroupNorm
from ssimbad.networks.unet import sinusoid

HEADS = 4
HALVINGS = 3


class Pair(nn.Module):
    """conv3×3, norm, GELU, conv3×3, norm; of the residual form the GELU of the input plus that.

    Without `middle` the width between the two convolutions is that of the output.
    """

    def __init__(self, channels_in: int, channels_out: int, middle: int | None = None, residual: bool = False) -> None:
        super().__init__()
        width = middle or channels_out
        self.residual = residual
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, width, 3, padding=1, bias=False),
            GroupNorm(1, width),
            nn.GELU(),
            nn.Conv2d(width, channels_out, 3, padding=1, bias=False),
            GroupNorm(1, channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.layers(x)) if self.residual else self.layers(x)


class Level(nn.Module):
    """A residual pair, a pair that changes the width, and the timestep's bias for each of its channels."""

    def __init__(self, channels_in: int, channels_out: int, time: int, middle: int | None = None) -> None:
        super().__init__()
        self.first = Pair(channels_in, channels_in, residual=True)
        self.second = Pair(channels_in, channels_out, middle)
        self.bias = nn.Linear(time, channels_out)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.bias(F.silu(features))[:, :, None, None]


class Attention(nn.Module):
    """LayerNorm and self-attention over positions, residual; then LayerNorm, Linear, GELU, Linear, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.feed = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens)).reshape(b, h * w, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        tokens = tokens + self.out(found)
        tokens = tokens + self.feed(tokens)
        return tokens.transpose(1, 2).reshape(b, c, h, w)


class ColoringUNet(nn.Module):
    """(B, channels_in, H, W) and timestep (B,) float32 → (B, channels_out, H, W); H and W divisible by 8.

    The source joins its inputs in another order and its sinusoid in that of sines first: first weights permuted.

    Args:
        base: channels of the first level, divisible by 4 (heads, and halves between convolutions on the way up).
        time: channels of the timestep's sinusoid, even; the source's are as many as the image has pixels to a side.
    """

    def __init__(self, channels_in: int, channels_out: int, base: int, time: int) -> None:
        super().__init__()
        self.time = time
        self.stem = Pair(channels_in, base)
        widths = [base * 2**level for level in range(HALVINGS + 1)]
        self.down = nn.ModuleList(Level(narrow, wide, time) for narrow, wide in itertools.pairwise(widths))
        self.attention = Attention(widths[-1])
        self.up = nn.ModuleList()
        width = widths[-1]
        for skip, out in zip(reversed(widths[:-1]), (widths[-1], widths[1], widths[0]), strict=True):
            self.up.append(Level(width + skip, out, time, middle=(width + skip) // 2))
            width = out
        self.head = nn.Conv2d(width, channels_out, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = sinusoid(t, self.time, max_period=10_000.0)
        skips = [self.stem(x)]
        for level in self.down:
            skips.append(level(F.max_pool2d(skips[-1], 2), features))
        x = self.attention(skips.pop())
        for level in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = level(torch.cat([skips.pop(), x], dim=1), features)
        return self.head(x)
