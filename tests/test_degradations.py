"""Degradations of faces that are to be restored: grey, blur, mask, pixelate, snow."""

from __future__ import annotations

import pytest
import torch

from ssimbad.pairing import degradations

from .small import batch


def normal(*shape):
    return torch.randn(64, *shape, generator=torch.Generator().manual_seed(3))


def test_grey_is_the_luma_or_the_mean_and_nothing_else():
    red, images = torch.tensor([1.0, -1, -1])[:, None, None].expand(1, 3, 2, 2), batch().target
    assert degradations.grey(red)[0, :, 0, 0].tolist() == pytest.approx([2 * 0.299 - 1] * 3)
    assert degradations.grey(red, "mean")[0, :, 0, 0].tolist() == pytest.approx([-1 / 3] * 3)
    grey = degradations.grey(images)
    assert torch.allclose(degradations.grey(grey), grey, atol=1e-6), "what is grey stays as it is"


def test_a_blur_spreads_a_point_as_the_gaussian_and_keeps_what_is_flat():
    point = torch.zeros(1, 3, 31, 31)
    point[:, :, 15, 15] = 1
    seen, at = degradations.blurred(point, 2.0)[0, 0], torch.arange(31.0) - 15
    assert seen.sum().item() == pytest.approx(1, abs=1e-5)
    assert (seen.sum(dim=0) * at**2).sum().sqrt().item() == pytest.approx(2, rel=0.02)
    assert torch.allclose(seen, seen.T, atol=1e-7)
    assert torch.allclose(degradations.blurred(0.3 * torch.ones(1, 3, 8, 8), 2.0), 0.3 * torch.ones(1, 3, 8, 8))


def test_a_mask_is_one_square_of_the_given_side_anywhere_inside():
    images = torch.full((64, 3, 16, 16), 0.7)
    holes = degradations.masked(images, 0.25, normal) == 0
    assert (holes.sum(dim=(2, 3)) == 16).all()
    corners = [(hole[0].nonzero()[0].tolist(), hole[0].nonzero()[-1].tolist()) for hole in holes]
    assert all((b[0] - a[0], b[1] - a[1]) == (3, 3) for a, b in corners)
    assert {a[0] for a, _ in corners} == {a[1] for a, _ in corners} == set(range(13))


def test_pixels_are_the_means_of_their_squares():
    images = batch().target
    coarse = degradations.pixelated(images, 4)
    assert torch.allclose(coarse[:, :, 4:8, 8:12], images[:, :, 4:8, 8:12].mean(dim=(2, 3), keepdim=True), atol=1e-6)
    assert torch.allclose(degradations.pixelated(coarse, 4), coarse, atol=1e-6)


def test_snow_is_white_on_its_share_of_the_pixels_and_elsewhere_nothing():
    images = torch.full((64, 3, 32, 32), -0.2)
    snowed = degradations.snowed(images, 0.15, normal)
    white = snowed == 1
    assert white.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (snowed[~white] == images[~white]).all()
    assert torch.equal(white[:, 0], white[:, 2]) and not torch.equal(white[0], white[1])
    beside = (white[..., 1:] & white[..., :-1]).float().mean() / white.float().mean()
    assert beside > 0.3, "flakes are larger than a pixel"
