"""Losses of the finished image: their values, their gradients, and on tensors without data."""

import piq
import pytest
import torch

from ssimbad.features import registry as features
from ssimbad.methods import losses
from ssimbad.methods.chain import ImageLoss

from .small import batch


def test_equal_images_cost_nothing_and_a_shift_costs_its_square():
    target = batch().target
    assert losses.mse(target, target).abs().max() == 0
    assert losses.ssim_l1(target, target).abs().max() < 1e-5
    assert losses.mse(target + 0.2, target).tolist() == pytest.approx([0.01] * 4, rel=1e-4)
    assert (losses.ssim_l1(target.roll(3, 2), target) > losses.ssim_l1(target + 0.01, target)).all()


def test_pixels_out_of_range_keep_their_gradient():
    """The published code clamps first, so that a pixel beyond white gets no correction."""
    image = torch.full((1, 3, 4, 4), 1.5, requires_grad=True)
    losses.mse(image, torch.ones(1, 3, 4, 4)).sum().backward()
    assert (image.grad > 0).all()


@pytest.mark.parametrize("size", [(11, 11), (16, 24), (64, 64)])
def test_ssim_and_its_gradient_are_those_of_piq_to_the_bit(size):
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, 3, *size, generator=rng) for _ in range(2))
    x.requires_grad_()
    ours, theirs = losses.ssim(x, y), piq.ssim(x, y, data_range=1.0, reduction="none", downsample=False)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, theirs)]
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_a_loss_looks_at_no_value(name):
    """The work of a training is counted on tensors without data."""
    image = torch.empty(2, 3, 16, 16, device="meta", requires_grad=True)
    loss = losses.make(name, lambda a, b: (a - b).mean(dim=(1, 2, 3)))(image, torch.empty_like(image))
    assert loss.shape == (2,)
    assert torch.autograd.grad(loss.sum(), image)[0].shape == image.shape


def test_a_loss_that_looks_through_a_network_is_refused_without_it_and_uses_it():
    with pytest.raises(ValueError, match=r"weights\.enabled"):
        losses.make("lpips", None)
    image, target = torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16)
    assert losses.make("lpips", lambda a, b: (b - a)[:, 0, 0, 0])(image, target).tolist() == [1, 1]


def test_every_loss_is_an_option_and_names_a_network_that_there_is():
    for name, loss in losses.LOSSES.items():
        assert ImageLoss(loss=name).features == loss.network
        assert loss.network is None or loss.network in features.names()
    with pytest.raises(ValueError, match=r"mse.*lpips.*ssim\+l1.*lpips-vgg.*clip"):
        ImageLoss(loss="ssim")
