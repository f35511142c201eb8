"""Normalisation that leaves the order of memory as it finds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's (Wu & He 2018), whose answer lies in memory as its question does; CUDA's undoes channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.channels_last) if last else y
