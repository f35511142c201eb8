"""Trajectory refinement: the loss of the finished image, back-propagated through the whole sampling chain.

Source: SSIMBaD, arXiv 2506.04283. The same code serves every method that colours by a sampler.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssimbad.samplers.ode import Denoiser


def checkpointed(denoise: Denoiser) -> Denoiser:
    """A denoiser that forgets its activations and computes them again in the backward pass.

    A chain of N calls then needs about one call's activations plus N states, at the price of one more forward pass.
    """
    return lambda x, sigma: checkpoint(denoise, x, sigma, use_reentrant=False)


def _unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


def mse(image: Tensor, target: Tensor) -> Tensor:
    """(B,) mean squared error on the [0, 1] scale, unclamped: every pixel keeps its gradient."""
    return (_unit(image) - _unit(target)).square().mean(dim=(1, 2, 3))


def ssim_l1(image: Tensor, target: Tensor) -> Tensor:
    """(B,) 1 - SSIM (11×11 Gaussian window) plus the mean absolute error, on the [0, 1] scale."""
    import piq  # slow to import, and only this loss needs it

    similarity = piq.ssim(_unit(image).clamp(0, 1), _unit(target), data_range=1.0, reduction="none", downsample=False)
    return 1 - similarity + (_unit(image) - _unit(target)).abs().mean(dim=(1, 2, 3))


def loss(name: str, perceptual: Callable[[Tensor, Tensor], Tensor] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The per-image loss of an option: mse, ssim+l1 or lpips (images in [-1, 1] in every case)."""
    if name == "lpips":
        if perceptual is None:
            raise ValueError("loss lpips needs the feature network's weights (weights.enabled)")
        return perceptual
    return {"mse": mse, "ssim+l1": ssim_l1}[name]


def through_chain(
    denoise: Denoiser,
    sampler: Callable[[Denoiser, Tensor, Tensor], Tensor],
    start: Tensor,
    levels: Tensor,
    save_memory: bool,
) -> Tensor:
    """The finished image (B, 3, H, W), with gradients through every network call of the chain.

    Args:
        start: (B, 3, H, W), x at levels[0].
        levels: N noise levels, then 0.
        save_memory: recompute activations in the backward pass; the gradient is the same.
    """
    return sampler(checkpointed(denoise) if save_memory else denoise, start, levels)
