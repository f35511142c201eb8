"""Methods: SSIMBaD and EDM share a denoiser and differ in their schedule only."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from ssimbad.errors import ParameterError
from ssimbad.methods import chain, edm, registry
from ssimbad.methods.contract import Plan
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.methods import Method

from .conftest import miniature
from .small import RATIONAL, batch, build, by, losses_of_training, refines_from_pure_noise, rng, same, setup

EULER = Sampler(name="euler", steps=2)


@pytest.mark.parametrize("kind", ["ssimbad", "edm"])
def test_refinement_starts_from_pure_noise_and_is_judged_by_the_target(kind):
    plan = Plan("trajectory", chain.Trajectory(save_memory=False, sampler=Sampler(name="euler", steps=3)))
    refines_from_pure_noise(registry.get(kind), build(kind), plan, 80, 80)


def test_what_departs_from_the_description_is_said():
    options = edm.Denoising()
    for kind in ("ssimbad", "edm"):
        remarks = registry.get(kind).remarks
        assert remarks(setup(kind).config, options, False) == []
        assert "unscaled" in remarks(setup(kind, as_published=True).config, options, False)[0]


def test_registry_finds_the_method_files():
    assert {"edm", "ssimbad"} <= set(registry.kinds())
    with pytest.raises(ValueError, match=r"known: .*ssimbad"):
        registry.get("ssimbat")


@pytest.mark.parametrize("kind", registry.kinds())
def test_setup_survives_its_json(kind):
    made = setup(kind)
    assert registry.setup_from(json.loads(json.dumps(registry.described(made)))) == made


@pytest.mark.parametrize("kind", registry.kinds())
def test_a_model_built_again_from_what_is_written_beside_its_weights_is_the_same(kind):
    first, again = build(kind), registry.setup_from(json.loads(json.dumps(registry.described(setup(kind)))))
    torch.manual_seed(0)
    second = registry.built(again)
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    given, how = batch(), registry.get(kind).default_colour(again.config)
    if how.sampler:
        how = how.model_copy(update={"sampler": by(how.sampler.name, 2).sampler})
    colorize = registry.get(kind).colorize
    noise = torch.randn(given.target.shape)
    with torch.no_grad():
        assert torch.equal(*(colorize(model, given, same(noise), how, None) for model in (first, second)))


def test_the_selected_phi_is_what_the_model_is_built_from():
    literal, selected = build(phi=RATIONAL), replace(setup(phi="selected"), needed={"phi": RATIONAL})
    sigma = torch.logspace(-2, 1, 9)
    assert torch.equal(registry.built(selected).embed(sigma), literal.embed(sigma))
    other = replace(selected, needed={"phi": {"form": "rational", "c": 0.9}})
    assert not torch.allclose(registry.built(other).embed(sigma), literal.embed(sigma), atol=1)


def test_ssimbad_draws_sigma_uniformly_in_phi():
    """Uniform phi = sigma/(sigma + 0.3): ln sigma is logistic around ln 0.3, so P(sigma < 0.1) = 0.246 and so on."""
    sigma = build().levels.draw(torch.linspace(0, 1, 100_001, dtype=torch.float64))
    for edge, share in ((0.01, 0.026), (0.1, 0.246), (0.3, 0.499), (1, 0.771), (3, 0.912), (10, 0.974)):
        assert (sigma < edge).double().mean().item() == pytest.approx(share, abs=1.5e-3)
    assert sigma.min() >= 0.002
    assert sigma.max() <= 80


def test_edm_draws_sigma_log_normally():
    """ln sigma ~ N(-1.2, 1.2²): median 0.30, P(sigma > 1) = 16 %, P(sigma < 0.05) = 7 %."""
    sigma = build("edm").levels.draw(torch.linspace(0, 1, 100_001, dtype=torch.float64))
    assert sigma.median().item() == pytest.approx(0.301, abs=1e-3)
    assert (sigma > 1).double().mean().item() == pytest.approx(0.16, abs=0.005)
    assert (sigma < 0.05).double().mean().item() == pytest.approx(0.07, abs=0.005)


def test_sampling_grids():
    """The rho = 7 grid of EDM eq. 5 and SSIMBaD's phi grid, both from 80 to 0.002 and then 0."""
    n = 18
    rho = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    assert build("edm").levels.grid(n).tolist() == pytest.approx([*rho, 0], rel=1e-9)
    assert build().levels.grid(10)[:5].tolist() == pytest.approx([80, 2.34, 1.04, 0.600, 0.376], rel=5e-3)


def test_noise_embedding_is_scaled_unless_as_published():
    sigma = torch.tensor([0.002, 0.3, 80.0])
    assert build().embed(sigma).tolist() == pytest.approx([0, 498.5, 1000], abs=2)
    published = build(as_published=True).embed(sigma)
    assert published.tolist() == pytest.approx([0.0066225, 0.5, 0.9962640], abs=1e-5)
    log = build("edm", as_published=True).embed(sigma).tolist()
    assert log == pytest.approx([float(s.log() / 4) for s in sigma], rel=1e-5)
    scaled = build("edm").embed(sigma)
    assert scaled.tolist() == pytest.approx([0, 1000 * (log[1] - log[0]) / (log[2] - log[0]), 1000], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", ["ssimbad", "edm"])
@pytest.mark.parametrize("objective", ["denoising", "trajectory"])
def test_a_few_steps_lower_the_loss(kind, objective):
    method, own = registry.get(kind), {"trajectory": {"sampler": EULER}}
    plan = Plan(objective, method.objectives[objective](**own.get(objective, {})))
    losses = losses_of_training(method, build(kind), plan, steps=30)
    assert losses[-1] < 0.6 * losses[0]


def test_edm_weights_the_loss_and_ssimbad_does_not():
    plan = Plan("denoising", edm.Denoising())
    plain = edm.training_step(build(), batch(), plan, rng())
    assert plain.loss.item() == pytest.approx(plain.per_image.mean().item(), rel=1e-6)
    weighted = edm.training_step(build("edm"), batch(), plan, rng())
    weight = (weighted.sigma**2 + 0.25) / (weighted.sigma * 0.5) ** 2
    assert weighted.loss.item() == pytest.approx((weight * weighted.per_image).mean().item(), rel=1e-5)


def test_ladder_rungs_are_parameters():
    mixed = setup("edm", phi=RATIONAL, sigma_density="phi")
    assert mixed.config.sampling_grid == "rho"
    with pytest.raises(ValueError, match="phi"):
        Method(kind="edm", label="x", config={"sampling_grid": "phi"})


def test_colours_lie_in_range_and_depend_on_the_reference():
    model, given = build(), batch()
    fresh, how = same(torch.randn(4, 3, 16, 16)), by("heun", 3)
    image = edm.colorize(model, given, fresh, how, None)
    assert image.shape == given.target.shape
    assert image.abs().max() <= 1
    assert not torch.equal(image, edm.colorize(model, replace(given, reference=-given.reference), fresh, how, None))


CHAINS = [(kind, name) for kind in registry.kinds() for name in registry.get(kind).samplers]


@pytest.mark.parametrize(("kind", "name"), CHAINS)
@pytest.mark.parametrize("steps", [1, 4])
def test_whoever_watches_is_told_of_every_network_call_and_changes_no_bit(kind, name, steps):
    model, given, method = build(kind).eval(), batch(), registry.get(kind)
    steps = min(steps, method.samplers[name].most or steps)
    noise, calls, told = torch.randn(given.target.shape), [], []
    how = by(name, steps).model_copy(update={"options": method.ColourOptions()})
    # Of the network itself, inside which the watch must not be.
    model.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        plain = method.colorize(model, given, same(noise), how, None)
        of_plain = len(calls)
        seen = method.colorize(model, given, same(noise), how, lambda sigma, image: told.append((sigma, image.clone())))
    assert torch.equal(plain, seen)
    assert len(told) == len(calls) - of_plain == of_plain == registry.nfe(kind, how)
    levels = [sigma for sigma, _ in told]
    assert levels == sorted(levels, reverse=True) and levels[-1] > 0
    assert all(image.shape == given.target.shape for _, image in told)
    if steps == 1:
        assert torch.allclose(told[-1][1].clamp(-1, 1), seen, atol=1e-4), "of one call the answer is what it said"


def test_a_method_in_one_pass_tells_nobody_of_steps():
    told = []
    for kind in ("regression", "scft"):
        registry.get(kind).colorize(build(kind), batch(), no_noise, Colour(), lambda *call: told.append(call))
    assert told == []


def no_noise(*shape):
    raise AssertionError("asked for noise")


@pytest.mark.parametrize("kind", registry.kinds())
@pytest.mark.parametrize("name", ["unipc", "Heun", ""])
def test_a_kind_refuses_samplers_that_it_has_not(kind, name):
    known = registry.get(kind).samplers
    with pytest.raises(ValueError, match=rf"^here\.sampler.*kind {kind}") as caught:
        registry.check_colour("here", kind, by(name, 3))
    assert all(other in str(caught.value) for other in known)
    for other in known:
        registry.check_colour("here", kind, by(other, known[other].most or 3))


@pytest.mark.parametrize("where", ["colour", "validation", "chain"])
def test_a_sampler_that_the_kind_has_not_is_refused_wherever_it_stands(where):
    tree = miniature()
    trained, wrong = tree["methods"]["ssimbad"], {"name": "unipc", "steps": 2}
    if where == "colour":
        trained["colour"]["pretrain"]["sampler"] = wrong
    elif where == "validation":
        trained["finetune"]["validation"]["colour"]["sampler"] = wrong
    else:
        trained["finetune"]["options"]["sampler"] = wrong
    place = {
        "colour": "colour.pretrain.sampler",
        "validation": "finetune.validation.colour.sampler",
        "chain": "finetune.options.sampler",
    }[where]
    with pytest.raises(ParameterError, match=rf"methods\.ssimbad\.{place}\.name: kind ssimbad has no sampler 'unipc'"):
        params.parse(yaml.safe_dump(tree))


def test_a_chain_must_say_by_which_sampler_it_goes():
    tree = miniature()
    del tree["methods"]["ssimbad"]["finetune"]["options"]["sampler"]
    with pytest.raises(ParameterError, match=r"methods\.ssimbad\.finetune\.options\.sampler: Field required"):
        params.parse(yaml.safe_dump(tree))
