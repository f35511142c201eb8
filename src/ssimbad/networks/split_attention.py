"""A U-Net that colours figure and background apart: split cross-attention (Yan et al. 2025, arXiv 2502.19937).

The base sees the sketch by a pyramid of features that are added to its own, and the reference by cross-attention to
tokens. The split variant leaves the base as it is and adds to it two sets of low-rank terms (LoRA, Hu et al. 2022) for
queries, keys and values, for the figure and for the background, and a transformer that recovers tokens of the
background from a reference whose figure is cut out. Modes are ways to use one set of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssimbad.networks.denoiser import denoised, timestep, wanted
from ssimbad.networks.lists import Modules
from ssimbad.networks.norm import GroupNorm
from ssimbad.networks.unet import Layers, sinusoid
from ssimbad.networks.vqvae import Autoencoder

CROSSED = 2
"""So many lowest levels of the U-Net look at the reference."""


class Projection(nn.Linear):
    """Without a bias, (B, n, in) → (B, n, out) as one matrix product: left to itself, torch orders the sums of such a
    layer in another way when its weights are frozen, and the last bits differ."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__(features_in, features_out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1)).unflatten(0, input.shape[:2])


class LowRank(nn.Module):
    """z → B A z: rank·(in + out) parameters, zero at first (A ~ N(0, 1/rank²), B = 0)."""

    def __init__(self, features_in: int, features_out: int, rank: int) -> None:
        super().__init__()
        self.down = Projection(features_in, rank)
        self.up = Projection(rank, features_out)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.down(z))


class LowRankLayer(nn.Module):
    """What is added to query, key and value of one cross-attention. `rank` None: half of the smaller dimension."""

    def __init__(self, channels: int, width: int, rank: int | None) -> None:
        super().__init__()
        self.query = LowRank(channels, channels, rank or channels // 2)
        self.key = LowRank(width, channels, rank or min(channels, width) // 2)
        self.value = LowRank(width, channels, rank or min(channels, width) // 2)


@dataclass(frozen=True)
class Split:
    """What figure and background of a sketch see apart.

    `mask` (B, 1, H, W) in [0, 1] and `threshold` (B,): a position is figure where its mask is above. `background`
    (B, n, width): the tokens that background looks at. `figure_terms`, `background_terms`: of each layer; None: the
    base's own projections.
    """

    mask: Tensor
    threshold: Tensor
    background: Tensor
    figure_terms: Modules[LowRankLayer] | None
    background_terms: Modules[LowRankLayer] | None

    def inside(self, height: int, width: int) -> Tensor:
        """(B, H·W, 1) bool: which positions of a layer belong to the figure."""
        small = F.interpolate(self.mask, (height, width), mode="bicubic", antialias=True)
        return (small > self.threshold[:, None, None, None]).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Shown:
    """What a network is shown of a reference: its tokens (B, n, width), and the split if there is one."""

    tokens: Tensor
    split: Split | None = None


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(B, m, C), (B, n, C) twice → (B, m, C): softmax scaled by 1/sqrt(channels of a head)."""
    found = F.scaled_dot_product_attention(_heads(q, heads), _heads(k, heads), _heads(v, heads))
    return found.transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Positions of a feature map look at tokens of the reference; residual."""

    def __init__(self, channels: int, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.norm = GroupNorm(groups, channels)
        self.query = Projection(channels, channels)
        self.key = Projection(width, channels)
        self.value = Projection(width, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, shown: Shown, layer: int) -> Tensor:
        b, c, h, w = x.shape
        z, split = self.norm(x).flatten(2).transpose(1, 2), shown.split
        if split is None:
            found = self._looked(z, shown.tokens, None)
        else:
            figure = self._looked(z, shown.tokens, _of_layer(split.figure_terms, layer))
            background = self._looked(z, split.background, _of_layer(split.background_terms, layer))
            found = torch.where(split.inside(h, w), figure, background)
        return x + self.out(found).transpose(1, 2).reshape(b, c, h, w)

    def _looked(self, z: Tensor, tokens: Tensor, terms: LowRankLayer | None) -> Tensor:
        q, k, v = self.query(z), self.key(tokens), self.value(tokens)
        if terms is not None:
            q, k, v = q + terms.query(z), k + terms.key(tokens), v + terms.value(tokens)
        return _attended(q, k, v, self.heads)


def _of_layer(terms: Modules[LowRankLayer] | None, layer: int) -> LowRankLayer | None:
    return None if terms is None else terms[layer]


class TokenLayer(nn.Module):
    """x += attention(LN x, context), then x += MLP(LN x) of four times the width; without a context to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (Projection(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.norm1(x)
        context = h if context is None else context
        x = x + self.out(_attended(self.query(h), self.key(context), self.value(context), self.heads))
        return x + self.mlp(self.norm2(x))


class TokenEncoder(nn.Module):
    """(B, 3, size, size) in [-1, 1] → (B, (size / patch)², width): patches, positions, transformer layers."""

    def __init__(self, size: int, patch: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.layers = nn.ModuleList(TokenLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, reference: Tensor) -> Tensor:
        x = self.patches(reference).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Recovery(nn.Module):
    """(B, n, width) tokens of a cut reference → (B, queries, width): learnt queries that look at them, layer by layer,
    and nothing else of them is passed on."""

    def __init__(self, queries: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.layers = nn.ModuleList(TokenLayer(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, tokens)
        return x


class SketchEncoder(nn.Module):
    """A pyramid of features of a sketch: after the stem and after each stage one map, each through a 1×1 convolution
    that is zero at first. `stem`, `stages`: (channels, stride); a stage has a second convolution of its width."""

    def __init__(self, channels_in: int, stem: Sequence[tuple[int, int]], stages: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        layers, width = [], channels_in
        for channels, stride in stem:
            layers += [nn.SiLU()] if layers else []
            layers.append(nn.Conv2d(width, channels, 3, stride=stride, padding=1))
            width = channels
        self.steps, widths = nn.ModuleList([nn.Sequential(*layers)]), [width]
        for channels, stride in stages:
            first = nn.Conv2d(width, channels, 3, stride=stride, padding=1)
            second = nn.Conv2d(channels, channels, 3, padding=1)
            self.steps.append(nn.Sequential(nn.SiLU(), first, nn.SiLU(), second))
            width = channels
            widths.append(width)
        self.zeros = nn.ModuleList(nn.Conv2d(channels, channels, 1) for channels in widths)
        for parameter in self.zeros.parameters():
            nn.init.zeros_(parameter)

    def forward(self, sketch: Tensor) -> list[Tensor]:
        maps, x = [], sketch
        for step, zero in zip(self.steps, self.zeros, strict=True):
            x = step(x)
            maps.append(zero(x))
        return maps


class ReferencedUNet(Layers):
    """The shared U-Net, as many channels out as in, with a sketch's pyramid added level by level, and cross-attention
    to a reference behind each of its `CROSSED` lowest levels on the way down and on the way up. `stride`: of both
    convolutions of the pyramid's stem, 2 where the sketch has four times the side of what is denoised."""

    def __init__(self, width: int, channels: int = 3, stride: int = 1, **network) -> None:
        super().__init__(channels, channels, **network)
        widths = [network["base"] * m for m in network["multipliers"]]
        self.first = len(widths) - CROSSED
        stem = [(max(1, widths[0] // 2), stride), (widths[0], stride)]
        self.sketch = SketchEncoder(1, stem, [(c, 2) for c in widths[1:]])
        crossed = [*widths[self.first :], *reversed(widths[self.first :])]
        self.crosses = Modules(CrossAttention(c, width, network["heads"], network["groups"]) for c in crossed)

    def forward(self, x: Tensor, noise: Tensor, sketch: Tensor, shown: Shown) -> Tensor:
        features = self.embed(sinusoid(noise, self.embedding))
        x, skips, layer, lowest = self.stem(x), [], 0, len(self.down) - 1
        for level, (stage, drawn) in enumerate(zip(self.down, self.sketch(-sketch), strict=True)):
            for number, block in enumerate(stage, 1):
                x = block(x, features)
                if number == len(stage):
                    x = self.attended(x + drawn, "down", level)
                    if level >= self.first:
                        x, layer = self.crosses[layer](x, shown, layer), layer + 1
                skips.append(x)
            if level < lowest:
                x = F.avg_pool2d(x, 2)
                skips.append(x)
        first, attention, last = self.middle
        x = last(attention(first(x, features)), features)
        for level, stage in enumerate(self.up):
            for block in stage:
                x = block(torch.cat([x, skips.pop()], dim=1), features)
            x = self.attended(x, "up", lowest - level)
            if level < CROSSED:
                x, layer = self.crosses[layer](x, shown, layer), layer + 1
            if level < lowest:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(x)


class Base(nn.Module):
    """A denoiser by sketch and reference without a split: what the first stage trains.

    `config`: of its method. `codec`: a finished autoencoder in whose latents, times `config.latent_scale`, it works;
    None: in pixels.
    """

    as_published = False
    sigmas: Tensor

    def __init__(
        self, network: ReferencedUNet, encoder: TokenEncoder, sigmas: Tensor, config: Any, codec: Autoencoder | None
    ) -> None:
        super().__init__()
        self.network, self.encoder, self.config, self.codec = network, encoder, config, codec
        self.register_buffer("sigmas", sigmas, persistent=False)

    def encoded(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → what is diffused: the images themselves, or (B, C, H/4, W/4) without a gradient."""
        if self.codec is None:
            return images
        with torch.no_grad():
            return self.config.latent_scale * self.codec.encode(images)

    def decoded(self, x: Tensor) -> Tensor:
        """The way back, to (B, 3, H, W)."""
        return x if self.codec is None else self.codec.decode(x / self.config.latent_scale)

    def form(self, sketch: Tensor) -> tuple[int, int, int]:
        """(C, h, w) of what is diffused, by its sketch, (B, 1, H, W)."""
        height, width = sketch.shape[2:]
        return (3, height, width) if self.codec is None else (self.codec.code_size, height // 4, width // 4)

    def predicted(self, x: Tensor, sigma: Tensor, sketch: Tensor, shown: Shown) -> Tensor:
        """(B, C, h, w) x = y + sigma·n, (B,), (B, 1, H, W) → what the network says of it, (B, C, h, w) float32."""
        scaled = x / (1 + sigma**2).sqrt()[:, None, None, None]
        return self.network(scaled, timestep(self.sigmas, sigma), sketch, shown).float()

    def wanted(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What the network should say of y + sigma·n."""
        return wanted(self.config.prediction, clean, noise, sigma)

    def forward(self, x: Tensor, sigma: Tensor, sketch: Tensor, shown: Shown) -> Tensor:
        """D(x; sigma)."""
        return denoised(self.config.prediction, x, sigma, self.predicted(x, sigma, sketch, shown))


class SplitNetwork(nn.Module):
    """A finished base, and what the second stage trains: the low-rank terms, the recovery and the threshold's
    embedding, which is zero at first."""

    def __init__(self, base: Base, rank: int | None, recovery: Recovery, width: int, embedding: int) -> None:
        super().__init__()
        self.base, self.recovery, self.embedding = base, recovery, embedding
        channels = [cross.channels for cross in base.network.crosses]
        self.figure = Modules(LowRankLayer(c, width, rank) for c in channels)
        self.background = Modules(LowRankLayer(c, width, None) for c in channels)
        self.threshold = nn.Sequential(nn.Linear(embedding, width), nn.SiLU(), nn.Linear(width, width))
        for parameter in self.threshold[-1].parameters():
            nn.init.zeros_(parameter)

    @property
    def sigmas(self) -> Tensor:
        return self.base.sigmas

    def background_tokens(self, reference: Tensor, mask: Tensor, threshold: Tensor, recovered: bool = True) -> Tensor:
        """Tokens of the reference where its mask is below the threshold (B,), white elsewhere."""
        cut = torch.where(mask < threshold[:, None, None, None], reference, torch.ones_like(reference))
        tokens = self.base.encoder(cut)
        if not recovered:
            return tokens
        return self.recovery(tokens + self.threshold(sinusoid(1000 * threshold, self.embedding))[:, None])
