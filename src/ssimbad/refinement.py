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
