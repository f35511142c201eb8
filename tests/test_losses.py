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


def spotted(pixels: int, spot=(1.0, -0.6, -0.6), size: int = 32) -> torch.Tensor:
    """(1, 3, S, S): blue, with a spot of so many pixels."""
    image = torch.tensor([-0.6, -0.4, 0.9]).view(1, 3, 1, 1).repeat(1, 1, size, size)
    image.view(1, 3, -1)[..., :pixels] = torch.tensor(spot)[:, None]
    return image


@pytest.mark.parametrize("pixels", [16, 64, 512])
def test_a_hue_weighs_about_the_same_however_small_it_is(pixels):
    """In the mean over pixels the spot would weigh its share of the area: less than a hundredth, here."""
    weights = losses.by_hue(spotted(pixels)).flatten()
    assert weights.sum() == pytest.approx(1, rel=1e-5)
    assert weights[:pixels].sum() == pytest.approx(0.5, abs=0.08)
    assert weights[:pixels].std() < 1e-6


def test_a_stray_pixel_has_less_say_and_what_has_no_colour_has_none():
    assert losses.by_hue(spotted(1, size=128)).flatten()[0] < 0.1
    grey = torch.linspace(-1, 1, 32).view(1, 1, 1, 32).repeat(1, 3, 32, 1)
    assert losses.by_hue(grey).sum() < 1e-3
    image = grey + 0.2
    assert torch.allclose(losses.mse_hues(image, grey), losses.mse(image, grey), rtol=1e-2)
    line = spotted(64, (-1.0, -1.0, -1.0))  # ink: no colour of its own
    assert losses.by_hue(line).flatten()[:64].sum() == 0


@pytest.mark.parametrize("turn", [0.0, 0.25, 0.5, 0.75])
def test_where_a_hue_lies_between_bins_counts_for_a_factor_of_two_at_most(turn):
    def colour(bins: float) -> torch.Tensor:
        angle = torch.tensor(bins * 2 * torch.pi / losses.HUES)
        cb, cr = 0.3 * angle.cos(), 0.3 * angle.sin()
        red, blue = 0.5 + cr / 0.713, 0.5 + cb / 0.564
        green = (0.5 - 0.299 * red - 0.114 * blue) / 0.587
        return (2 * torch.stack([red, green, blue]) - 1).view(1, 3, 1, 1).expand(1, 3, 8, 8)

    share = losses.by_hue(torch.cat([colour(turn), colour(8)], dim=3))[..., :8].sum().item()
    assert 0.49 < share < 0.68


def test_a_hue_is_shared_by_the_bins_around_it_wherever_the_circle_is_cut():
    turned = [torch.tensor([c, 0.9, -0.9]).view(1, 3, 1, 1) for c in (-0.9, -0.3, 0.3, 0.9)]
    for colour in turned:
        image = torch.cat([colour.expand(1, 3, 8, 8), colour.roll(1, dims=1).expand(1, 3, 8, 8)], dim=3)
        assert losses.by_hue(image)[..., :8].sum() == pytest.approx(0.5, abs=0.02)


def test_an_iris_costs_more_than_the_same_error_elsewhere():
    target = spotted(12)
    missed, elsewhere = target.clone(), target.clone()
    missed.view(1, 3, -1)[..., :12] += 0.3
    elsewhere.view(1, 3, -1)[..., 12:24] += 0.3
    assert losses.mse(missed, target) == pytest.approx(losses.mse(elsewhere, target).item(), rel=1e-4)
    assert losses.mse_hues(missed, target) > 10 * losses.mse_hues(elsewhere, target)


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
    with pytest.raises(ValueError, match=r"mse.*lpips.*hues.*ssim\+l1.*lpips-vgg.*clip"):
        ImageLoss(loss="ssim")
