"""Area resizing of image arrays, and the one way between bytes and the networks' range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 32 << 20
"""Of images that are resized at a time: so much is read of an array that stays on disk."""


def area(images: np.ndarray, size: int) -> np.ndarray:
    """Mean over k×k blocks, k = side / size: how every image reaches the training size.

    Args:
        images: (N, H, H) or (N, H, H, C) uint8, memory-mapped or not; read a chunk at a time.
        size: new side in pixels; H must be a multiple of it.

    Returns:
        (N, size, size[, C]) uint8 in memory: the exact mean in integers, halves rounded up.

    Raises:
        ValueError: not uint8, not square, or the side is no multiple of `size`.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"area resizing takes (N, H, H[, C]) uint8, not {images.shape} {images.dtype}")
    side = images.shape[1]
    if images.shape[2] != side or size < 1 or side % size:
        raise ValueError(f"area resizing of {images.shape[1:3]} to {size}: no whole square blocks")
    if side == size:
        return np.array(images)
    out = np.empty((len(images), size, size, *images.shape[3:]), np.uint8)
    step = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        out[start : start + step] = _block_means(np.asarray(images[start : start + step]), side // size)
    return out


def _block_means(images: np.ndarray, k: int) -> np.ndarray:
    # Adding k strided slices per axis is several times faster than one sum over a six-dimensional view.
    total = _add_slices(_add_slices(images, 1, k), 2, k)
    total += k * k // 2  # floor((sum + floor(k²/2)) / k²) is the mean rounded half up
    total //= k * k
    return total.astype(np.uint8)


def _add_slices(values: np.ndarray, axis: int, k: int) -> np.ndarray:
    parts = [values[(slice(None),) * axis + (slice(i, None, k),)] for i in range(k)]
    total = parts[0].astype(np.uint32)
    for part in parts[1:]:
        total += part
    return total


def to_unit(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) or (N, H, W) uint8 → (N, 3 or 1, H, W) float32, x / 127.5 - 1, on the same device."""
    import torch

    images = torch.as_tensor(np.array(images) if isinstance(images, np.ndarray) else images)
    channels_first = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return channels_first.to(torch.float32).div_(127.5).sub_(1).contiguous()


def to_share(masks: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(N, H, W) uint8 → (N, 1, H, W) float32 in [0, 1], x / 255, on the same device."""
    import torch

    masks = torch.as_tensor(np.array(masks) if isinstance(masks, np.ndarray) else masks)
    return masks.unsqueeze(1).to(torch.float32).div_(255).contiguous()


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """Inverse of `to_unit`: (N, 3, H, W) or (N, 1, H, W) → (N, H, W, 3) or (N, H, W) uint8.

    Values outside [-1, 1] are clamped; halves are rounded to even.
    """
    import torch

    values = images.detach().to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return (values[:, 0] if values.shape[1] == 1 else values.permute(0, 2, 3, 1)).contiguous().cpu().numpy()
