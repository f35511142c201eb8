"""The autoencoder of latent cold diffusion: its codebook, what it learns together, and what it says of itself."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from ssimbad.methods import latent_cold
from ssimbad.methods.contract import Batch, Plan
from ssimbad.networks.vqvae import Codebook

from . import small
from .small import batch, rng

METHOD = latent_cold.METHOD
RECONSTRUCTION = Plan("reconstruction", latent_cold.Reconstruction(grey="mean"))

build = partial(small.build, "latent_cold", "encoder")


def test_every_position_takes_the_nearest_code():
    torch.manual_seed(0)
    book, z = Codebook(7, 3), torch.randn(2, 3, 4, 5)
    torch.nn.init.normal_(book.stored)
    quantised = book(z)
    distance = (z.permute(0, 2, 3, 1)[:, :, :, None] - book.codes).norm(dim=-1)
    assert torch.equal(quantised.codes, distance.argmin(dim=-1))
    assert torch.allclose(quantised.latents.permute(0, 2, 3, 1), book.codes[quantised.codes], atol=1e-6)
    assert len(quantised.codes.unique()) > 3
    nearest = distance.min(dim=-1).values.square().mean() / 3
    assert quantised.commitment.item() == pytest.approx(nearest.item()) == pytest.approx(quantised.codebook.item())


def test_the_gradient_passes_the_codebook_straight_through():
    book, z = Codebook(7, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    weights = torch.randn(2, 3, 4, 4)
    of_latents, of_codes = torch.autograd.grad(
        (book(z).latents * weights).sum(), [z, book.stored], materialize_grads=True
    )
    assert torch.equal(of_latents, weights)
    assert not of_codes.any()


def test_commitment_moves_the_latents_and_the_other_term_the_codes():
    book, z = Codebook(5, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    quantised = book(z)
    gap = (z - quantised.latents).detach()
    of_latents, of_codes = torch.autograd.grad(quantised.commitment, [z, book.stored], materialize_grads=True)
    assert torch.allclose(of_latents, 2 * gap / z.numel(), atol=1e-6) and not of_codes.any()
    of_latents, of_codes = torch.autograd.grad(quantised.codebook, [z, book.stored], materialize_grads=True)
    assert not of_latents.any()
    expected = torch.zeros(5, 3).index_add(0, quantised.codes.flatten(), gap.permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.allclose(of_codes, -2 * expected / z.numel(), atol=1e-6)


def test_codes_are_counted_once_however_often_they_are_used():
    found = latent_cold.usage(torch.tensor([2, 0, 6, 0]))
    assert found["codes used by them, of 4"] == 2
    assert found["perplexity of the codes"] == pytest.approx(math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))))


def test_an_autoencoder_measures_itself_over_all_batches():
    model, given = build(), batch()
    halves = [Batch(target=part, sketch=part[:, :1]) for part in given.target.split(2)]
    found = METHOD.measures(model, iter(halves))
    image, quantised = model(given.target)
    assert found["codes used by them, of 16"] == len(quantised.codes.unique())
    wrong = (image - given.target).square().mean().item()
    assert found["reconstruction MSE of faces"] == pytest.approx(wrong, rel=1e-5)
    direct = (model.decode(model.encode(given.target)) - given.target).square().mean().item()
    assert found["the same without quantisation, as latents are decoded"] == pytest.approx(direct, rel=1e-5)
    spread = model.encode(given.target).std(correction=0).item()
    assert found["standard deviation of their latents"] == pytest.approx(spread, rel=1e-5) and spread > 0
    assert METHOD.score(model, given).mean().item() == pytest.approx(-wrong, rel=1e-5)


def test_the_autoencoder_learns_faces_sketches_and_greys_together():
    model, given, seen = build(), batch(), []
    inner = model.forward
    model.forward = lambda shown, direct: (seen.append(shown), inner(shown, direct))[1]
    losses = METHOD.training_step(model, given, RECONSTRUCTION, rng())
    target, sketch, grey = seen[0].split(4)
    assert torch.equal(target, given.target)
    assert torch.equal(sketch, given.sketch.expand(-1, 3, -1, -1))
    assert torch.allclose(grey, given.target.mean(1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6)
    terms = {name: value.item() for name, value in losses.terms.items()}
    assert losses.per_image.mean().item() == pytest.approx(terms["reconstruction"])
    assert losses.loss.item() == pytest.approx(terms["reconstruction"] + 0.25 * terms["commitment"] + terms["codebook"])
    METHOD.training_step(model, given, Plan("reconstruction", latent_cold.Reconstruction()), rng())
    assert len(seen[1]) == 8


def test_codes_move_as_many_learning_rates_as_they_are_told():
    z = torch.randn(2, 3, 4, 4)
    moved = []
    for rate in (1.0, 20.0):
        torch.manual_seed(0)
        book = Codebook(5, 3, rate)
        before = book.codes.detach().clone()
        optimiser = torch.optim.Adam(book.parameters(), lr=1e-3)
        book(z).codebook.backward()
        optimiser.step()
        moved.append((book.codes.detach() - before).abs().max().item())
        assert before.abs().max() <= 1 / 5
    assert moved == pytest.approx([1e-3, 20e-3], rel=1e-3)


def test_pictures_are_decoded_from_latents_where_that_is_asked():
    model, given = build(), batch()
    direct = torch.tensor([True, False, True, False])
    image, quantised = model(given.target, direct)
    latents, codes = model.decode(model.encode(given.target)), model.decode(quantised.latents)
    assert torch.allclose(image[direct], latents[direct], atol=1e-6) and not torch.allclose(latents, codes, atol=1e-3)
    assert torch.allclose(image[~direct], codes[~direct], atol=1e-6)
    asked, inner = [], model.forward
    model.forward = lambda shown, where: (asked.append(where), inner(shown, where))[1]
    for share in (0.0, 0.5, 1.0):
        for seed in range(10):
            options = latent_cold.Reconstruction(direct=share)
            METHOD.training_step(model, given, Plan("reconstruction", options), rng(seed))
    shares = [torch.cat(asked[i : i + 10]).float().mean().item() for i in (0, 10, 20)]
    assert shares[0] == 0 and shares[2] == 1 and 0.3 < shares[1] < 0.7
