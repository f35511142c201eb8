"""SCFT: the network's size, the correspondence that supervises its attention, its losses, and that it learns."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from ssimbad.errors import UserError
from ssimbad.features import registry as features
from ssimbad.methods import registry, scft
from ssimbad.methods.contract import Batch, Losses, Plan
from ssimbad.networks.patch_gan import PatchGAN, SpectralConv2d
from ssimbad.networks.scft import Generator, StopGradient, Transfer
from ssimbad.networks.vgg import VGG19
from ssimbad.pairing import tps
from ssimbad.params.methods import Method

from .small import CPU, SHARED, WARP, rng, setup


def count(network):
    return sum(p.numel() for p in network.parameters())


def identity(count):
    """Warps that move nothing (but the published protocol's stretch by W / (W-1))."""
    return tps.Warp(np.tile([0.4, 0.6], (count, 1)), np.zeros((count, 2)))


def batch(n=4, size=32, warp=None):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 4, 4, generator=generator) * 2 - 1
    image = torch.nn.functional.interpolate(coarse, size=size, mode="nearest")
    warp = warp or tps.Warp.random(np.random.default_rng(2), n, WARP)
    sketch = image.mean(1, keepdim=True).sign()
    return Batch(target=image, sketch=sketch, reference=tps.warp(image, warp), warp=warp)


def build():
    """Freshly initialised, from wherever torch's generator is."""
    return scft.build(setup("scft"))


def duel(**options):
    torch.manual_seed(0)
    model = build()
    plan = Plan("adversarial", scft.Adversarial(discriminator=[8, 16], **options))
    critic, generator = scft.METHOD.parties(model, plan, None)
    return model, critic, generator


def test_number_of_parameters():
    """SGA's re-implementation: 82.93 million for the generator of 992-channel tokens, 0.10 million for PatchGAN."""
    with torch.device("meta"):
        published = Generator(base=16, levels=5, width=None, residuals=4)
        assert count(published) / 1e6 == pytest.approx(82.93, abs=0.005)
        assert published.transfer.query.in_features == 992
        assert count(published.residuals) / 1e6 == pytest.approx(70.9, abs=0.05)
        assert count(PatchGAN([16, 32, 64, 128])) / 1e6 == pytest.approx(0.10, abs=0.005)


def test_every_input_reaches_the_image_and_every_parameter_takes_part():
    model, given = build(), batch()
    image, logits = model(given.sketch, given.reference)
    assert image.shape == given.target.shape and image.abs().max() <= 1
    assert logits.shape == (4, 64, 64)
    for other in ((-given.sketch, given.reference), (given.sketch, given.reference + 0.3)):
        assert not torch.allclose(image, model(*other)[0], atol=1e-4)
    (image.square().sum() + logits.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_the_reference_speaks_from_the_start():
    """Drowned by offsets common to all images, it took hundreds of steps more until colours came through."""
    torch.manual_seed(0)
    model, given = Generator(base=16, levels=4, width=128, residuals=4), batch()
    with torch.no_grad():
        image, logits = model(given.sketch, given.reference)
        by_reference = image - model(given.sketch, given.reference.roll(1, 0))[0]
        by_sketch = image - model(given.sketch.roll(1, 0), given.reference)[0]
    assert by_reference.std() > 0.05 * by_sketch.std()
    assert logits.std() > 1


def test_an_image_does_not_depend_on_its_company():
    model, given = build().eval(), batch()
    whole, _ = model(given.sketch, given.reference)
    alone, _ = model(given.sketch[1:2], given.reference[1:2])
    assert torch.allclose(whole[1:2], alone, atol=1e-5)


def test_attention_is_the_published_formula():
    transfer, x, y = Transfer(6), torch.randn(1, 6, 2, 2), torch.randn(1, 6, 2, 2)
    joined, logits = transfer(x, y)
    q, k, v = (layer(t.flatten(2)[0].T) for layer, t in ((transfer.query, x), (transfer.key, y), (transfer.value, y)))
    scores = torch.stack([torch.stack([(a * b).sum() / 6**0.5 for b in k]) for a in q])
    assert torch.allclose(logits[0], scores, atol=1e-6)
    gathered = scores.exp() / scores.exp().sum(dim=1, keepdim=True) @ v
    assert torch.allclose(joined[0].flatten(1).T, x[0].flatten(1).T + gathered, atol=1e-6)


def test_stop_gradient_attention_is_the_published_formula_and_its_map_a_constant():
    torch.manual_seed(0)
    part, x, y = StopGradient(8), torch.randn(1, 8, 2, 2, requires_grad=True), torch.randn(1, 8, 2, 2)
    own, other = (t.flatten(2)[0].T for t in (x, y))
    products = (own @ other.T).exp()
    weights = products / products.sum(dim=1, keepdim=True)  # over the reference's tokens
    weights = (weights / weights.sum(dim=0)).detach()  # then over the sketch's
    lrelu = partial(torch.nn.functional.leaky_relu, negative_slope=0.2)
    gathered = weights @ lrelu(part.value(other)) + lrelu(part.query(own))
    expected = x + part.norm(gathered.T.reshape(x.shape))
    found = part(x, y)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(weights.sum(dim=1), torch.ones(4), atol=0.05), "which order, shows"
    by, of = (torch.autograd.grad(image.square().sum(), x)[0] for image in (found, expected))
    assert torch.allclose(by, of, atol=1e-4)


def test_with_stop_gradient_attention_every_parameter_takes_part_and_no_triplet():
    torch.manual_seed(0)
    model, given = scft.build(setup("scft", attention="sga")), batch()
    image, logits = model(given.sketch, given.reference)
    assert image.shape == given.target.shape and logits is None
    image.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    for other in ((-given.sketch, given.reference), (given.sketch, given.reference + 0.3)):
        assert not torch.allclose(image, model(*other)[0], atol=1e-4)
    losses = scft.generator_step(model, PatchGAN([8]), scft.Adversarial(), None, given, rng())
    assert set(losses.terms) == {"adversarial", "reconstruction"}
    assert losses.loss.item() == pytest.approx(
        sum(w * losses.terms[n].item() for n, w in (("adversarial", 1), ("reconstruction", 30))), rel=1e-5
    )
    sga, off = scft.Config(attention="sga"), scft.Adversarial(triplet=0.0)
    assert "triplet" in scft.METHOD.remarks(sga, scft.Adversarial(), True)[0]
    assert scft.METHOD.remarks(sga, off, True) == []
    assert len(scft.METHOD.remarks(sga, scft.Adversarial(), False)) == 2


def test_where_nothing_moves_every_token_corresponds_to_itself():
    positive, known, _ = scft.correspondence(tps.grid(identity(2), 32, 32), 8)
    assert known.all()
    assert torch.equal(positive, torch.arange(64).expand(2, 64))


def test_correspondence_points_to_where_the_reference_shows_the_place():
    """A source shifted by exactly two tokens to the right: the token at x is shown at x - 2."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    positive, known, _ = scft.correspondence(torch.stack([x + 8, y], dim=-1)[None], 8)
    columns = torch.arange(64) % 8
    assert torch.equal(known[0], columns >= 1)  # within one token of a token that is shown
    inside = columns >= 2
    assert torch.equal(positive[0][inside], torch.arange(64)[inside] - 2)


def test_known_correspondence_agrees_with_the_warped_picture():
    """The reference's token at the positive shows the colour of the target at the sketch token's place."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    narrow = WARP.model_copy(update={"shift": 0.1})
    warp = tps.Warp.random(np.random.default_rng(3), 8, narrow)
    shown = tps.warp(torch.stack([x, y, x]).expand(8, 3, 64, 64).contiguous(), warp)
    positive, known, _ = scft.correspondence(tps.grid(warp, 64, 64), 8)
    mean = torch.nn.functional.avg_pool2d(shown, 8).flatten(2)[:, :2]  # where each reference token reads, in [-1, 1]
    read = mean.gather(2, positive[:, None].expand(-1, 2, -1)).transpose(1, 2)
    centre = (scft.places(8, shown) + 0.5) / 4 - 1
    gap = (read - centre).norm(dim=2)[known] * 4  # in tokens
    assert known.float().mean() > 0.7
    assert gap.median() < 0.6


def test_triplet_rewards_the_true_correspondence_and_nothing_else():
    source = tps.grid(identity(2), 32, 32)
    right = 40 * torch.eye(64).expand(2, 64, 64)
    indifferent = torch.zeros(2, 64, 64)
    assert scft.triplet(right, source, 12.0, rng(n=2)).item() == 0
    assert scft.triplet(indifferent, source, 12.0, rng(n=2)).item() == pytest.approx(12)
    assert scft.triplet(-right, source, 12.0, rng(n=2)).item() == pytest.approx(12 + 40)
    shuffled = right.roll(27, dims=2)
    assert scft.triplet(shuffled, source, 12.0, rng(n=2)).item() >= 12


def test_triplet_pulls_the_positive_up_and_a_far_token_down():
    logits = torch.zeros(1, 64, 64, requires_grad=True)
    scft.triplet(logits, tps.grid(identity(1), 32, 32), 12.0, rng(n=1)).backward()
    gradient = logits.grad[0] * 64
    assert torch.allclose(gradient.diagonal(), torch.full((64,), -1.0))
    at = scft.places(8, logits)
    rows, negatives = (gradient > 0).nonzero(as_tuple=True)
    assert len(set(rows.tolist())) == len(rows) == 64
    read = ((4 * at + 1.5) * 32 / 31 + 0.5) / 4 - 0.5  # the published protocol's stretch, from pixel 0
    assert (at[rows] - read[negatives]).norm(dim=1).min() > scft.FAR
    assert len(set(negatives.tolist())) > 20


def test_where_a_place_is_shown_twice_neither_token_is_a_negative():
    """A warp that folds along the middle: columns 0 to 3 show what columns 7 to 4 show."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    source = torch.stack([torch.minimum(x, 31 - x) * 2 + 0.5, y], dim=-1)[None]
    logits = torch.zeros(1, 64, 64, requires_grad=True)
    for seed in range(20):
        scft.triplet(logits, source, 12.0, rng(seed, n=1)).backward()
    rows, negatives = (logits.grad[0] > 0).nonzero(as_tuple=True)
    shown = torch.minimum(negatives % 8, 7 - negatives % 8) * 2 + 0.5  # column that the negative's token shows
    gap = torch.stack([rows % 8 - shown, (rows // 8 - negatives // 8).float()]).norm(dim=0)
    assert len(rows) > 500 and gap.min() > scft.FAR


def test_the_correspondence_is_that_of_the_size_at_which_the_warp_was_made():
    """Warped at 64 and shrunk to 32: a picture of coordinates, treated so, shows what is read where."""
    warp = tps.Warp.random(np.random.default_rng(3), 4, WARP.model_copy(update={"shift": 0.1}))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    picture = torch.stack([x, y, x]).expand(4, 3, 64, 64).contiguous()
    shown = torch.nn.functional.avg_pool2d(tps.warp(picture, warp), 2)
    read, inside = scft.read_by_reference(
        Batch(target=shown, sketch=shown[:, :1], reference=shown, warp=warp, native=64)
    )
    expected = ((shown[:, :2].permute(0, 2, 3, 1) + 1) / 2 * 63 + 0.5) / 2 - 0.5
    whole = (inside[:, 0] == 1) & (read.amin(dim=-1) > 2) & (read.amax(dim=-1) < 29)
    assert whole.float().mean() > 0.5
    assert (read - expected)[whole].abs().max() < 0.1


def test_tokens_that_the_reference_does_not_show_are_left_out():
    outside = torch.full((1, 32, 32, 2), -500.0)
    assert scft.triplet(torch.zeros(1, 64, 64), outside, 12.0, rng(n=1)).item() == 0


@pytest.mark.parametrize(("score", "judged", "coloured"), [(1.0, 0.5, 0.0), (0.0, 0.5, 1.0), (0.5, 0.25, 0.25)])
def test_least_squares_gan_on_constant_scores(score, judged, coloured):
    model, given = build(), batch()
    options = scft.Adversarial(reconstruction=0.0, triplet=0.0)

    def critic(image, sketch):
        return torch.full((len(image), 1, 2, 2), score)

    assert scft.discriminator_step(model, critic, options, given, rng()).loss.item() == pytest.approx(judged)
    losses = scft.generator_step(model, critic, options, None, given, rng())
    assert losses.loss.item() == pytest.approx(coloured, abs=1e-6)


def test_terms_are_weighted_and_told():
    _, critic, generator = duel()
    losses = generator.step(batch(), rng())
    assert set(losses.terms) == {"adversarial", "reconstruction", "triplet"}
    total = 1 * losses.terms["adversarial"] + 30 * losses.terms["reconstruction"] + 1 * losses.terms["triplet"]
    assert losses.loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert losses.terms["triplet"] > 1
    assert losses.per_image.mean().item() == pytest.approx(losses.terms["reconstruction"].item(), rel=1e-5)
    assert isinstance(critic.step(batch(), rng()), Losses)


def test_all_five_terms_are_weighted_and_reach_the_generator():
    weights = {"adversarial": 2.0, "reconstruction": 3.0, "perceptual": 5.0, "style": 7.0, "triplet": 11.0}

    def feature_network(images):
        return [2 * images, images[:, :, ::2, ::2]]

    def step(**options):
        torch.manual_seed(0)
        model = build()
        losses = scft.generator_step(model, PatchGAN([8]), scft.Adversarial(**options), feature_network, batch(), rng())
        gradient = torch.autograd.grad(losses.loss, list(model.parameters()), materialize_grads=True)
        return losses, sum(float(g.abs().sum()) for g in gradient)

    losses, _ = step(**weights)
    total = sum(weight * losses.terms[name].item() for name, weight in weights.items())
    assert losses.loss.item() == pytest.approx(total, rel=1e-5)
    for name, weight in weights.items():
        assert step(**{other: weight * (other == name) for other in weights})[1] > 0, name


def test_each_player_moves_its_own_network_only():
    model, critic, generator = duel()
    for player, other in ((critic, generator), (generator, critic)):
        loss = player.step(batch(), rng()).loss
        own = torch.autograd.grad(loss, list(player.network.parameters()), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in own)
        foreign = torch.autograd.grad(loss, list(other.network.parameters()), allow_unused=True)
        # The generator's loss reaches the discriminator's weights, but the loop never asks for that gradient.
        assert player is generator or all(g is None for g in foreign)
    assert (critic.rate, critic.betas, generator.betas) == (2.0, (0.5, 0.999), (0.5, 0.999))
    assert generator.network is model


def test_both_players_see_the_same_recoloured_images():
    first, second = (scft.recoloured(batch(), 50.0, rng()) for _ in range(2))
    assert torch.equal(first[0].target, second[0].target)
    shift = first[0].target - batch().target
    assert shift.abs().max() <= 50 / 127.5 + 1e-6
    assert shift.flatten(2).std(dim=2).max() < 0.25  # one constant per channel, but for the clipping
    assert shift.mean(dim=(2, 3)).std() > 0.05
    untouched, _ = scft.recoloured(batch(), 0.0, rng())
    assert torch.equal(untouched.target, batch().target)


def test_target_and_reference_take_the_same_shift():
    given = batch(warp=identity(4))
    given = replace(given, target=0.3 * given.target, reference=0.3 * given.reference)  # far from clipping
    after, source = scft.recoloured(given, 50.0, rng())
    shift = after.target - given.target
    assert shift.abs().min() > 1e-4
    inside = (source <= 31).all(dim=-1)[:, None].expand(-1, 3, -1, -1)
    assert inside.float().mean() > 0.9
    assert torch.allclose((after.reference - given.reference)[inside], shift[inside], atol=1e-6)


def test_the_border_does_not_give_the_colour_shift_away():
    far = tps.Warp(np.tile([0.3, 0.7], (4, 1)), np.tile([0.25, 0.2], (4, 1)))
    given = batch(warp=far)
    after, source = scft.recoloured(given, 50.0, rng())
    outside = ((source < 0) | (source > 31)).any(dim=-1)[:, None].expand(-1, 3, -1, -1)
    assert outside.float().mean() > 0.02
    assert torch.equal(after.reference[outside], given.reference[outside])


def test_a_few_rounds_lower_the_generators_reconstruction():
    _, critic, generator = duel(recolour=0.0)
    trained = (critic, generator)
    optimisers = [torch.optim.Adam(p.network.parameters(), lr=3e-3, betas=p.betas) for p in trained]
    told = []
    for _ in range(30):
        for player, optimiser in zip(trained, optimisers, strict=True):
            losses = player.step(batch(), rng())
            gradients = torch.autograd.grad(losses.loss, list(player.network.parameters()))
            for parameter, gradient in zip(player.network.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
        told.append({k: v.item() for k, v in losses.terms.items()})
    assert told[-1]["reconstruction"] < 0.7 * told[0]["reconstruction"]
    assert told[-1]["triplet"] < 0.7 * told[0]["triplet"]


def test_spectral_normalisation_is_exact():
    torch.manual_seed(0)
    layer, x = SpectralConv2d(5, 7, 3), torch.randn(2, 5, 8, 8)
    normalised = layer.weight / torch.linalg.svdvals(layer.weight.flatten(1))[0]
    assert torch.allclose(layer(x), torch.nn.functional.conv2d(x, normalised, layer.bias), atol=1e-5)
    assert torch.equal(layer(x), layer(x))
    layer(x).square().sum().backward()
    # Scaling the weight changes nothing, so the gradient is orthogonal to it.
    assert (layer.weight.grad * layer.weight).sum().abs() < 1e-3 * layer.weight.grad.norm() * layer.weight.norm()


@pytest.mark.parametrize("part", ["logits", "score"])
def test_under_autocast_what_must_be_exact_is(part):
    model, given = build(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        if part == "logits":
            assert model(given.sketch, given.reference)[1].dtype == torch.float32
        else:
            layer = SpectralConv2d(4, 8, 3)
            full = torch.linalg.svdvals(layer.weight.flatten(1))[0]
            unit = torch.zeros(1, 4, 3, 3)
            unit[0, 0, 1, 1] = 1
            got = layer(unit) - layer.bias[:, None, None]
            assert got[0, :, 0, 0].tolist() == pytest.approx((layer.weight[:, 0, 1, 1] / full).tolist(), abs=3e-3)


def test_gram_and_perceptual_terms():
    a = torch.randn(2, 3, 4, 4)
    assert torch.allclose(scft.gram(a)[0, 0, 1], (a[0, 0] * a[0, 1]).sum() / 48, atol=1e-6)
    terms = scft.perceptual_and_style([a, 2 * a], [a, a])
    assert terms["perceptual"].item() == pytest.approx(a.abs().mean().item(), rel=1e-5)
    assert terms["style"].item() == pytest.approx(3 * scft.gram(a).abs().mean().item(), rel=1e-5)
    # Style is blind to where things are, the perceptual term is not.
    moved = scft.perceptual_and_style([a.flip(3)], [a])
    assert moved["style"].item() == pytest.approx(0, abs=1e-6)
    assert moved["perceptual"] > 0.1


def test_vgg19_comes_from_its_file_and_from_no_other(tmp_path):
    network = VGG19()
    state = {k: torch.randn(v.shape) / v[0].numel() ** 0.5 for k, v in network.state_dict().items() if "features" in k}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg19.pth")
    feature_network = features.among({"vgg19": tmp_path / "vgg19.pth"}, CPU)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    maps = feature_network(image)
    x = ((image + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    for i in (0, 2):
        x = torch.nn.functional.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).relu()
    assert torch.allclose(maps[0], x, atol=1e-4)
    assert [m.shape[1:] for m in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert not any(p.requires_grad for p in feature_network.parameters())
    losses = scft.generator_step(build(), PatchGAN([8]), scft.Adversarial(), feature_network, batch(), rng())
    assert {"perceptual", "style"} <= set(losses.terms)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="VGG-19"):
        features.among({"vgg19": tmp_path / "other.pth"}, CPU)
    assert features.among({}, CPU) is None


def test_missing_terms_are_said():
    options = scft.Adversarial()
    assert options.features == "vgg19"
    assert "perceptual" in scft.METHOD.remarks(scft.Config(), options, False)[0]
    assert scft.METHOD.remarks(scft.Config(), options, True) == []
    assert scft.Adversarial(perceptual=0.0, style=0.0).features is None


def test_a_method_in_one_pass_takes_no_sampler():
    train = {"objective": "adversarial", "images": 8, "batch": 8, "learning_rate": 1e-3, "warmup_images": 0}
    block = {"kind": "scft", "label": "SCFT", "pretrain": train, "colour": {"pretrain": {}}}
    registry.check("scft", Method.model_validate(block), 64, SHARED)
    with pytest.raises(ValueError, match=r"methods\.scft\.config\.levels: 5 leave no whole"):
        registry.check("scft", Method.model_validate(block), 32, SHARED)
    block["colour"]["pretrain"]["sampler"] = {"name": "euler", "steps": 2}
    with pytest.raises(ValueError, match=r"methods\.scft\.colour\.pretrain\.sampler.*one pass"):
        registry.check("scft", Method.model_validate(block), 64, SHARED)
