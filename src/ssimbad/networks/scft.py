"""The generator of SCFT (Lee et al. 2020, §3): attention carries the reference's features to the sketch's places.

At its published size (base 16, 5 levels, no reduction) it has 82.9 million parameters,
like the public re-implementation in SGA.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.norm import GroupNorm
from ssimbad.networks.precision import uncast

SLOPE = 0.2
"""Of the LeakyReLUs."""


def block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """conv3×3, normalisation, LeakyReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, normalisation(channels_out), nn.LeakyReLU(SLOPE))


def normalisation(channels: int) -> nn.Module:
    """Groups of four channels: batch statistics would let an image depend on its company, and normalising each channel
    for itself would hide the reference's mean colour."""
    return GroupNorm(max(1, channels // 4), channels)


class Encoder(nn.Module):
    """(B, C, H, W) → the maps of its blocks, two per level; each level halves the side and doubles the channels."""

    def __init__(self, channels_in: int, widths: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            self.blocks += [block(channels_in, width, stride=1 if level == 0 else 2), block(width, width)]
            channels_in = width

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.blocks:
            x = layer(x)
            maps.append(x)
        return maps


class Residual(nn.Module):
    """Two 3×3 convolutions around the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = block(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), normalisation(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Transfer(nn.Module):
    """Spatially corresponding feature transfer (eq. 3 to 5): every sketch token gathers from the reference's tokens.

    Sketch and reference tokens, each (B, d, T, T) → the joined features (B, d, T, T) and the attention's logits
    (B, T², T²) float32, sketch tokens in rows: S = (W_q x)·(W_k y) / √d, c = x + softmax(S) W_v y.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def start(self) -> None:
        """The reference reaches the image through the values alone, so they begin at full strength. Queries and keys
        begin stronger: else the tokens themselves must grow until single logits differ by the triplet's margin, and
        what they say of their places drowns what they say of colours."""
        nn.init.orthogonal_(self.value.weight)
        for layer in (self.query, self.key):
            nn.init.orthogonal_(layer.weight, gain=4)

    def forward(self, sketch: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (t.flatten(2).transpose(1, 2) for t in (sketch, reference))
        q, k, v = self.query(x).float(), self.key(y).float(), self.value(y).float()
        with uncast(x):  # the triplet loss compares single logits
            logits = q @ k.transpose(1, 2) / math.sqrt(x.shape[-1])
            gathered = logits.softmax(dim=-1) @ v
        return sketch + gathered.transpose(1, 2).reshape(sketch.shape).to(sketch.dtype), logits


class StopGradient(nn.Module):
    """Stop-gradient attention (Li et al. 2022, arXiv 2207.06095): tokens x gather from tokens y, both (B, d, T, T).

    Z = A·lrelu(W_v y) + lrelu(W_q x), where A is the softmax of the raw products x·y over y, each of its columns then
    divided by its sum over x, and a constant: no gradient takes the way through the map, along which the two paths of
    SCFT pull against each other. Normalised and added to x, as in the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norm = normalisation(channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        own, other = (t.flatten(2).transpose(1, 2) for t in (x, y))
        with uncast(x), torch.no_grad():
            weights = (own.float() @ other.float().transpose(1, 2)).softmax(dim=-1)
            weights = F.normalize(weights, p=1, dim=1)
        values = F.leaky_relu(self.value(other), SLOPE)
        gathered = weights.to(values.dtype) @ values + F.leaky_relu(self.query(own), SLOPE)
        return x + self.norm(gathered.transpose(1, 2).reshape(x.shape))


class StopGradientTransfer(nn.Module):
    """In place of `Transfer`: the sketch's tokens gather from the reference's, then the joined ones from themselves.

    There are no logits that a triplet could train: the map has no parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cross, self.own = StopGradient(channels), StopGradient(channels)

    def start(self) -> None:
        """As in `Transfer`: values begin at full strength."""
        for part in (self.cross, self.own):
            nn.init.orthogonal_(part.value.weight)

    def forward(self, sketch: Tensor, reference: Tensor) -> tuple[Tensor, None]:
        joined = self.cross(sketch, reference)
        return self.own(joined, joined), None


TRANSFERS = {"scft": Transfer, "sga": StopGradientTransfer}
"""How the reference's features come to the sketch's places, by name."""


class Decoder(nn.Module):
    """Mirrors the sketch's encoder: every block takes the encoder's map of its size, but the last one."""

    def __init__(self, channels_in: int, widths: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block(channels_in, widths[-1])])
        skips = [width for width in widths for _ in range(2)][:-1]
        width = widths[-1]
        for skip in reversed(skips):
            self.blocks.append(block(width + skip, skip))
            width = skip
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, maps: list[Tensor]) -> Tensor:
        first, *others = self.blocks
        x = first(x)
        for layer, skip in zip(others, reversed(maps[:-1]), strict=True):
            if skip.shape[-1] != x.shape[-1]:
                x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, skip], dim=1))
        return self.head(x).float().tanh()


class Generator(nn.Module):
    """Sketch (B, 1, H, W) and reference (B, 3, H, W) → coloured (B, 3, H, W) in [-1, 1] and the logits of `Transfer`.

    Args:
        base: channels of the first level.
        levels: H and W are divisible by 2^(levels - 1), the tokens' side is H / 2^(levels - 1).
        width: channels to which the tokens are reduced; None keeps all of them.
        residuals: residual blocks behind the attention.
        attention: which of `TRANSFERS`; without logits these are None.
    """

    def __init__(self, base: int, levels: int, width: int | None, residuals: int, attention: str = "scft") -> None:
        super().__init__()
        widths = [base * 2**level for level in range(levels)]
        gathered = 2 * sum(widths)
        channels = width or gathered
        self.sketch, self.reference = Encoder(1, widths), Encoder(3, widths)
        self.reduce_sketch, self.reduce_reference = (
            nn.Conv2d(gathered, channels, 1) if width else nn.Identity() for _ in range(2)
        )
        self.transfer = TRANSFERS[attention](channels)
        self.residuals = nn.Sequential(*(Residual(channels) for _ in range(residuals)))
        self.decoder = Decoder(2 * channels, widths)
        self.apply(_start)
        self.transfer.start()

    def forward(self, sketch: Tensor, reference: Tensor) -> tuple[Tensor, Tensor | None]:
        lines, colours = self.sketch(sketch), self.reference(reference)
        joined, logits = self.transfer(self.reduce_sketch(tokens(lines)), self.reduce_reference(tokens(colours)))
        refined = joined + self.residuals(joined)
        return self.decoder(torch.cat([refined, joined], dim=1), lines), logits


def _start(layer: nn.Module) -> None:
    """Weights that keep a signal's variance through a LeakyReLU (He et al. 2015, eq. 14), no bias."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, SLOPE)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def tokens(maps: list[Tensor]) -> Tensor:
    """All maps of an encoder, averaged to the side of the last one and joined: (B, sum of channels, T, T)."""
    side = maps[-1].shape[-1]
    return torch.cat([F.avg_pool2d(m, m.shape[-1] // side) for m in maps], dim=1)
