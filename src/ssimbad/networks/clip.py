"""CLIP's image tower (Radford et al. 2021): a vision transformer whose class token becomes the image's embedding.

Modules are named as in OpenCLIP's files, whose ViT-B/32 of laion2B has plain GELU (OpenAI's own has another).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of its training images in [0, 1].
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = 64
"""Channels of an attention head."""


class Block(nn.Module):
    """(B, N, C) → (B, N, C): self-attention, then two layers, each on a normalised input and added to it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.gelu, self.mlp.c_proj = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ImageTower(nn.Module):
    """(B, 3, H, W) in [-1, 1] → (B, E) embeddings, of the images resized (bicubic, antialiased) to its own side."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, patch: int, grid: int, blocks: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.side = patch * grid
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(grid**2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(width, hidden) for _ in range(blocks))})
        self.proj = nn.Parameter(torch.zeros(width, embedding))
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> ImageTower:
        """The tower of a state dictionary, whatever its size."""
        (width, _, patch, _), embedding = state["conv1.weight"].shape, state["proj"].shape[1]
        blocks = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})
        grid = round((len(state["positional_embedding"]) - 1) ** 0.5)
        hidden = len(state["transformer.resblocks.0.mlp.c_fc.bias"])
        tower = cls(width, patch, grid, blocks, hidden, embedding)
        tower.load_state_dict(state)
        return tower

    def forward(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        resized = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
        patches = self.conv1(((resized + 1) / 2 - self.mean) / self.std).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"].children():
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj
