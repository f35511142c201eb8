"""Latent cold diffusion: sizes, the codebook, the line between two latents, both samplers, degradations, mistakes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.nn import functional as F

from ssimbad.colorize import painter
from ssimbad.errors import ParameterError, UserError
from ssimbad.methods import latent_cold, latent_cold_restore
from ssimbad.methods.contract import Batch, Plan, Player
from ssimbad.networks.latent_cold import Convolutional, Dense, sinusoid
from ssimbad.networks.vqvae import VQVAE
from ssimbad.pairing import degradations, settings
from ssimbad.params import tree as params
from ssimbad.params.base import Sampler
from ssimbad.pipeline import rows
from ssimbad.training import loop

from . import small
from .conftest import preset_tree
from .small import batch, by, rng, same

METHOD = latent_cold.METHOD
RESTORATION = Plan("restoration", latent_cold.Restoration())
RECONSTRUCTION = Plan("reconstruction", latent_cold.Reconstruction(grey="mean"))


def count(network):
    return sum(p.numel() for p in network.parameters())


def with_encoder(kind: str = "latent_cold", **config):
    """A network on the latents of an untrained autoencoder, frozen as the pipeline does it."""
    model = small.build(kind, **config)
    model.encoder.requires_grad_(False)
    return model


build = partial(small.build, "latent_cold", "encoder")


def shown_alone():
    """Faces to be restored, and nothing else."""
    return replace(batch(), sketch=None, reference=None)


# Sizes


def formula_of_autoencoder(first, second, residuals, codes, size):
    block = second * second * 9 + second * second
    encoder = 3 * first * 16 + first + first * second * 16 + second + second**2 * 9 + second + second * size + size
    decoder = size * second * 9 + second + second * first * 16 + first + first * 3 * 16 + 3
    return encoder + decoder + 2 * residuals * block + codes * size


@pytest.mark.parametrize(
    ("widths", "exact", "millions"), [((128, 256), 9_614_371, "9.61"), ((32, 64), 634_147, "0.63")]
)
def test_number_of_parameters_of_the_autoencoder(widths, exact, millions):
    with torch.device("meta"):
        network = VQVAE(list(widths), residuals=6, codes=512, code_size=32)
    assert count(network) == formula_of_autoencoder(*widths, 6, 512, 32) == exact
    assert f"{exact / 1e6:.2f}" == millions


@pytest.mark.parametrize(("reference", "exact"), [(False, 536_936_448), (True, 604_045_312)])
def test_number_of_parameters_of_the_published_network(reference, exact):
    """Of latents 32×16×16; in grey mode, and with a reference appended to the input of the first layer."""
    n = 32 * 16 * 16
    with torch.device("meta"):
        network = Dense(n, layers=8, reference=reference, timed=True, as_published=True)
    assert count(network) == 8 * (n**2 + n) + (n**2 if reference else 0) == exact


def test_left_out_sizes_are_the_sources():
    with torch.device("meta"):
        assert count(METHOD.build(replace(small.setup("latent_cold", "encoder", codec=None), size=64))) == 9_614_371
    config = latent_cold.Config()
    assert (config.network, config.layers, config.times, config.timed) == ("dense", 8, 50, True)


# The line and the samplers


def oracle(model, clean):
    """A network that knows the end of the line; what u it was told."""
    told = []
    model.forward = lambda z, reference, u: (told.append(u), clean.expand_as(z))[1]
    return told


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_with_an_oracle_both_samplers_return_the_clean_latents(steps):
    model = with_encoder()
    start, clean = torch.randn(2, 2, 4, 4, 4)
    told = oracle(model, clean)
    cold = latent_cold.sampled(model, start, None, Sampler(name="cold", steps=steps))
    assert torch.allclose(cold, clean, atol=1e-5)
    assert [u.tolist() for u in told] == [pytest.approx([k / steps] * 2) for k in range(steps)]
    told.clear()
    assert torch.equal(latent_cold.sampled(model, start, None, Sampler(name="one_shot", steps=1)), clean)
    assert [u.tolist() for u in told] == [[0, 0]]


def test_the_published_one_shot_is_told_that_all_is_clean():
    model = with_encoder(network="dense", as_published=True)
    told = oracle(model, torch.zeros(2, 4, 4, 4))
    latent_cold.sampled(model, torch.randn(2, 4, 4, 4), None, Sampler(name="one_shot", steps=1))
    assert told[0].tolist() == [1, 1]


def test_improved_sampling_is_algorithm_2_of_cold_diffusion():
    """z - D(x, u) + D(x, u + 1/N), with D(x, u) = z_0 + (x - z_0) u, for a restorer that is wrong."""
    start, asked = torch.randn(2, 4, 4, 4, dtype=torch.float64), []

    def restore(z, u):
        asked.append(z)
        return 0.7 * z + u * z.flip(1) - 0.3

    def degraded(x, u):
        return start + (x - start) * u

    z = start
    for k in range(5):
        x = restore(z, k / 5)
        z = z - degraded(x, k / 5) + degraded(x, (k + 1) / 5)
    first = list(asked)
    asked.clear()
    assert torch.allclose(latent_cold.cold(restore, start, 5), z)
    assert all(torch.allclose(a, b) for a, b in zip(asked, first, strict=True))


def test_training_asks_on_the_line_and_for_its_end():
    model, given, asked = with_encoder(times=4), batch(), []
    clean = model.encoder.encode(given.target)
    start, reference = latent_cold.begun(model, given, None)
    model.forward = lambda z, colours, u: (asked.append((z, colours, u)), 0.5 * z)[1]
    seen = set()
    for seed in range(30):
        losses = METHOD.training_step(model, given, RESTORATION, rng(seed))
        z, colours, u = asked[-1]
        assert torch.allclose(z, start + (clean - start) * u[:, None, None, None], atol=1e-6)
        assert torch.equal(colours, reference)
        assert torch.allclose(losses.per_image, (0.5 * z - clean).square().mean(dim=(1, 2, 3)))
        assert losses.loss.item() == pytest.approx(losses.per_image.mean().item())
        seen |= set(u.tolist())
    assert seen == {0, 0.25, 0.5, 0.75}
    assert torch.equal(start, model.encoder.encode(given.sketch.expand(-1, 3, -1, -1)))
    assert torch.equal(reference, model.encoder.encode(given.reference))


def test_latents_are_coloured_unquantised_and_watched():
    model, given, watched = with_encoder(), batch(), []
    end = torch.randn(4, 4, 4, 4)
    oracle(model, end)
    image = METHOD.colorize(model, given, same(torch.zeros(4)), by("cold", 2), lambda at, x: watched.append((at, x)))
    assert torch.allclose(image, model.encoder.decode(end), atol=1e-5)
    assert not torch.allclose(image, model.encoder.decode(model.encoder.codebook(end).latents), atol=1e-3)
    assert [at for at, _ in watched] == [1, 0.5]
    assert all(torch.equal(x, model.encoder.decode(end)) for _, x in watched)
    assert image.shape == given.target.shape and image.abs().max() <= 1


def test_a_network_measures_its_latents_as_the_source_does():
    model, given = with_encoder(times=3), batch()
    clean, (start, _) = model.encoder.encode(given.target), latent_cold.begun(model, given, None)
    oracle(model, 2 * clean)
    found = METHOD.measures(model, iter([given]))
    assert found["MAPE of latents, %, one_shot"] == pytest.approx(100, rel=1e-4)
    assert found["MAPE of latents, %, cold"] == pytest.approx(100, rel=1e-3)
    assert found["MSE of latents, cold"] == pytest.approx(clean.square().mean().item(), rel=1e-4)
    assert found["MSE of latents, the face's own latents"] == 0
    assert found["MSE of latents, the start itself"] == pytest.approx((start - clean).square().mean().item(), rel=1e-5)
    image = model.encoder.decode(2 * clean)
    assert found["MSE of pixels, one_shot"] == pytest.approx((image - given.target).square().mean().item(), rel=1e-5)
    assert METHOD.score(model, given).mean().item() == pytest.approx(-clean.square().mean().item(), rel=1e-5)


# The networks


def test_published_latents_can_only_rise_and_half_of_them_is_hidden_at_the_start():
    torch.manual_seed(0)
    z, reference, start = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.zeros(3)
    published = Dense(32, layers=3, reference=True, timed=True, as_published=True)
    assert (published(z, reference, torch.rand(3)) >= z).all()
    sane = Dense(32, layers=3, reference=True, timed=True, as_published=False)
    assert (sane(z, reference, torch.rand(3)) < z).any()
    one = Dense(32, layers=1, reference=False, timed=True, as_published=False)
    hidden, shown = torch.zeros(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    hidden[:, 0], shown[:, 1] = 1, 1  # the first half is multiplied by sines
    added = one(z, None, start) - z
    assert torch.allclose(one(z + hidden, None, start) - z - hidden, added, atol=1e-6)
    assert not torch.allclose(one(z + shown, None, start) - z - shown, added, atol=1e-2)


def test_dense_layers_are_the_published_formula():
    network, z, reference, u = Dense(8, 2, True, True, True), torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2), 0.4
    rates = [10000 ** (-i / 3) for i in range(4)]
    e = torch.tensor([math.sin(u * r) for r in rates] + [math.cos(u * r) for r in rates])
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in network.layers)
    h = z.flatten()
    h = h + F.relu(w1 @ torch.cat([h * e, reference.flatten() * e]) + b1)
    h = h + F.relu(w2 @ (h * e) + b2)
    assert torch.allclose(network(z, reference, torch.tensor([u])).flatten(), h, atol=1e-5)
    assert torch.allclose(sinusoid(torch.tensor([u]), 8)[0], e)


def networks(timed, reference=True):
    torch.manual_seed(0)
    return [
        Dense(64, layers=2, reference=reference, timed=timed, as_published=False),
        Convolutional(4, width=8, layers=2, reference=reference, timed=timed),
    ]


@pytest.mark.parametrize("timed", [True, False])
def test_the_share_of_colour_is_heard_by_timed_networks_alone(timed):
    z, reference = torch.randn(2, 2, 4, 4, 4)
    for network in networks(timed):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        early, late = (network(z, reference, torch.full((2,), u)) for u in (0.0, 0.9))
        assert torch.equal(early, late) != timed


@pytest.mark.parametrize("reference", [True, False])
def test_everything_takes_part(reference):
    z, colours, u = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4) if reference else None, torch.rand(2)
    for network in networks(True, reference):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        network(z, colours, u).square().sum().backward()
        assert [n for n, p in network.named_parameters() if not p.grad.abs().sum()] == []
        if reference:
            assert not torch.allclose(network(z, colours, u), network(z, colours.flip(0), u), atol=1e-3)


def test_the_convolutional_network_begins_as_the_identity():
    z = torch.randn(2, 4, 4, 4)
    assert torch.equal(Convolutional(4, 8, 2, True, True)(z, torch.randn_like(z), torch.rand(2)), z)


def losses_of(model, plan, given, steps=40):
    """Before each step on the same pictures and the same draws."""
    optimiser, losses = torch.optim.Adam(loop.trainable(model), lr=3e-3), []
    for _ in range(steps):
        result = METHOD.training_step(model, given, plan, rng())
        assert result.per_image.shape == (4,)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.per_image.mean().item())
    return losses


def test_a_few_steps_teach_the_autoencoder():
    coarse = F.interpolate(batch().target[:, :, ::4, ::4], scale_factor=4.0)
    losses = losses_of(build(), RECONSTRUCTION, Batch(target=coarse, sketch=coarse[:, :1]), steps=150)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("network", ["dense", "convolutional"])
def test_a_few_steps_teach_the_network_and_leave_the_autoencoder_alone(network):
    model = with_encoder(network=network)
    before = copy.deepcopy(model.encoder.state_dict())
    losses = losses_of(model, RESTORATION, batch())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


@pytest.mark.parametrize("slot", ["encoder", "pretrain"])
def test_any_kill_leaves_the_weights_bit_equal(tmp_path, slot):
    plan, made = (RECONSTRUCTION, build) if slot == "encoder" else (RESTORATION, partial(with_encoder, times=5))

    def fit(folder, stop_after=None):
        torch.manual_seed(0)
        model, calls = made().to(memory_format=torch.channels_last), []

        def step(given, draws):
            calls.append(1)
            if stop_after and len(calls) > stop_after:
                raise KeyboardInterrupt
            return METHOD.training_step(model, given, plan, draws)

        frozen = () if slot == "encoder" else ("encoder.",)
        state = loop.TrainState(model, [Player(model, step)], small.TRAIN, small.COMMON, frozen=frozen)
        try:
            loop.fit(state, small.feed(), None, 5, small.job(folder), "key")
        except KeyboardInterrupt:
            return None
        return state, len(calls)

    whole, steps = fit(tmp_path / "whole")
    for stop in (5, 2):
        assert fit(tmp_path / "killed", stop) is None
    resumed, rest = fit(tmp_path / "killed")
    assert rest < steps
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert all(torch.equal(whole.ema[k], resumed.ema[k]) for k in whole.ema) and whole.rows == resumed.rows
    assert all(k.startswith("encoder.") is False for k in whole.ema) or slot == "encoder"


# Degraded faces


@pytest.mark.parametrize("name", ["grey", "blur", "mask", "pixelate", "snow"])
def test_a_restoring_row_starts_from_its_degraded_face_and_sees_nothing_else(name):
    model, given = with_encoder("latent_cold_restore", degradation={"name": name, "cell": 4}), shown_alone()
    start, reference = latent_cold.begun(model, given, rng().normal)
    assert reference is None
    shown = model.begin(given, rng().normal)
    expected = {
        "grey": lambda x: degradations.grey(x),
        "blur": lambda x: degradations.blurred(x, 2.0),
        "mask": lambda x: degradations.masked(x, 0.4, rng().normal),
        "pixelate": lambda x: degradations.pixelated(x, 4),
        "snow": lambda x: degradations.snowed(x, 0.15, rng().normal),
    }
    assert torch.equal(shown, expected[name](given.target)) and not torch.equal(shown, given.target)
    assert torch.equal(start, model.encoder.encode(shown))
    losses = latent_cold_restore.METHOD.training_step(model, given, RESTORATION, rng())
    assert torch.isfinite(losses.loss)
    blind = replace(given, target=-given.target)
    images = [METHOD.colorize(model, g, lambda *s: rng().normal(*s), by("cold", 2), None) for g in (given, blind)]
    assert torch.equal(*images), "colouring is given the face to degrade it, and no target"


def test_who_is_given_the_face_is_judged_in_no_setting_where_it_is_the_answer():
    def judged(*inputs):
        return [setting.name for setting in settings.judged(inputs, has={"answers"})]

    assert judged("face") == judged("sketch", "face") == judged("sketch", "reference", "face") == ["restored"]
    assert "restored" not in judged("sketch", "reference") and judged() == ["free"]


# Mistakes


def complaint(change, block="latent-cold") -> str:
    tree = preset_tree("demo-all")
    change(tree["methods"][block])
    with pytest.raises(ParameterError) as caught:
        params.parse(yaml.safe_dump(tree))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_one_line_with_the_key_and_the_remedy():
    def config(**keys):
        return lambda block: block["config"].update(keys)

    said = complaint(config(codec={"codes": 8}), "latent-cold-grey")
    assert "methods.latent-cold-grey.config: codec: belongs to latent-cold/encoder" in said and "remove it" in said
    assert "config: as_published: the published network is dense" in complaint(config(as_published=True))
    assert "latent-cold.config.encoder: String should match" in complaint(config(codec=None, encoder="latent-cold"))
    said = complaint(config(encoder="nobody/encoder"), "latent-cold-grey")
    assert "methods.latent-cold-grey.pretrain: nobody/encoder is no training of these parameters" in said
    said = complaint(config(degradation={"name": "pixelate", "cell": 7}), "latent-cold-grey")
    assert "latent-cold-grey.config.degradation.cell: 7 does not divide data.size 64" in said
    assert "Input should be 'grey'" in complaint(config(degradation={"name": "rain"}), "latent-cold-grey")


def test_a_part_of_another_form_is_refused_when_parameters_are_read():
    """Else the network would be built on a module that cannot encode."""
    tree = preset_tree("demo-all")
    own = tree["methods"]["regression"]
    own["encoder"] = own["pretrain"]
    tree["methods"]["latent-cold-grey"]["config"]["encoder"] = "regression/encoder"
    with pytest.raises(ParameterError) as caught:
        params.parse(yaml.safe_dump(tree))
    said = (
        "methods.latent-cold-grey.config: regression/encoder, its encoder, is no autoencoder; name one of latent-cold/"
    )
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_sampler_has_no_more_steps_than_it_can_make():
    row = {"sampler": {"name": "one_shot", "steps": 5}}
    said = complaint(lambda block: block["colour"].update(pretrain=row), "latent-cold-oneshot")
    assert "colour.pretrain.sampler.steps: one_shot has at most 1; give 1" in said


def test_a_user_who_asks_for_one_shot_gets_one_step():
    loaded = SimpleNamespace(method=METHOD, colour=by("cold", 50))
    assert painter.with_sampler(loaded, "one_shot", None).sampler == Sampler(name="one_shot", steps=1)
    assert painter.with_sampler(loaded, None, 7).sampler == Sampler(name="cold", steps=7)
    with pytest.raises(UserError, match="steps 2: one_shot has at most 1"):
        painter.with_sampler(loaded, "one_shot", 2)


def test_without_noise_several_samples_are_one():
    row = {"sampler": {"name": "cold", "steps": 5}, "samples": 4}
    said = complaint(lambda block: block["colour"].update(pretrain=row), "latent-cold-oneshot")
    assert "colour.pretrain.samples: kind latent_cold has one answer" in said


def test_curves_against_calls_are_of_the_samplers_that_a_row_has():
    tree = preset_tree("demo-nfe")
    found = {w["method"] for w in rows.curves(params.parse(yaml.safe_dump(tree)))}
    assert {"edm", "latent-cold", "latent-cold-untimed"} <= found and "latent-cold-oneshot" not in found
    tree["report"]["nfe"]["samplers"].pop()
    assert not {w["method"] for w in rows.curves(params.parse(yaml.safe_dump(tree)))} & {"latent-cold", "scft"}
    tree["report"]["nfe"]["samplers"].append({"name": "colt"})
    with pytest.raises(
        ParameterError, match=r"report\.nfe\.samplers\.6\.name: no kind has a sampler 'colt'; known: .*cold"
    ):
        params.parse(yaml.safe_dump(tree))


def test_a_slot_has_its_own_objectives():
    said = complaint(lambda block: block["encoder"].update(objective="restoration", options={}))
    assert "encoder.objective: kind latent_cold has no objective 'restoration' in encoder; it has reconstruct" in said
    said = complaint(lambda block: block["pretrain"].update(objective="reconstruction"))
    assert "pretrain.objective: kind latent_cold has no objective 'reconstruction' in pretrain; it has restor" in said
