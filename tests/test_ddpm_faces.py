"""DDPM of faces, given nothing: its network, its sampler against the formulas, its starts, and that it learns."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from ssimbad.errors import ParameterError
from ssimbad.methods import ddpm_faces, registry
from ssimbad.methods.contract import Batch, Conditions, Plan, Player
from ssimbad.methods.ddpm_faces import METHOD, Options
from ssimbad.networks.ddpm_unet import UNet, dropped
from ssimbad.noise import ddpm
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.methods import Train
from ssimbad.params.tree import Params
from ssimbad.planning import flops
from ssimbad.training import loop
from ssimbad.training.feed import BatchRng, Feed, Shard

from . import small
from .conftest import miniature
from .small import COMMON, CPU, batch, losses_of_training, rng, same

build = partial(small.build, "ddpm_faces")
PLAN = Plan("noise", ddpm_faces.Noise())

ALPHA_BAR = ddpm.alpha_bar(1000, 1e-4, 2e-2)
SIGMAS = ddpm.sigma(1000, 1e-4, 2e-2)


def how(steps: int, name: str = "ancestral", **options) -> Colour:
    return Colour(sampler=Sampler(name=name, steps=steps), options=Options(**options))


def parameters_of(**config) -> int:
    network = ddpm_faces.Config(**config)
    with torch.device("meta"):
        model = UNet(**network.model_dump(exclude={"prediction", "timesteps", "beta_start", "beta_end"}))
    return sum(p.numel() for p in model.parameters())


# The network.


def test_the_source_s_networks_have_their_number_of_parameters():
    """25,304,963 trainable ones. The count that is told of the other variant, 27,623,427, includes the frozen table of
    1000 sinusoids of 128 numbers, which here is computed; so does 25,368,963 of the first."""
    assert parameters_of() == 25_304_963 == 25_368_963 - 1000 * 64
    assert parameters_of(base=128, multipliers=[1, 1, 2, 2], attention=[1]) == 27_623_427 - 1000 * 128


def test_every_parameter_takes_part():
    network = build().network
    network(torch.randn(2, 3, 16, 16), torch.tensor([0.0, 999.0])).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_attention_is_that_of_one_head_scaled_by_its_width():
    block = build().network.middle[0].attention
    x = torch.randn(2, 16, 4, 4)
    q, k, v = block.qkv(block.norm(x)).flatten(2).chunk(3, dim=1)
    weights = (torch.einsum("bci,bcj->bij", q, k) / 16**0.5).softmax(dim=-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(2, 16, 4, 4)
    assert torch.allclose(block(x), x + block.out(mixed), atol=1e-5)
    levels_that_attend = [[type(b.attention).__name__ for b in stage] for stage in build().network.down]
    assert levels_that_attend == [["Identity"], ["Attention"]]


def test_dropout_is_of_the_images_own_streams():
    h = torch.ones(4, 8, 16, 16)
    assert dropped(h, 0.25, None) is h
    one, again = (dropped(h, 0.25, rng().uniform) for _ in range(2))
    assert torch.equal(one, again) and one.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (one == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    halves = [dropped(h[:2], 0.25, rng(n=4, shard=Shard(i, 2)).uniform) for i in (0, 1)]
    assert torch.equal(torch.cat(halves), one), "whatever the number of shares"


def test_training_drops_and_colouring_does_not():
    model, given = build(dropout=0.5), batch()
    seen = []
    model.network.register_forward_pre_hook(lambda _, args: seen.append(len(args) > 2 and args[2] is not None))
    METHOD.training_step(model, given, PLAN, rng(), None)
    METHOD.colorize(model, Conditions(), same(torch.randn(4, 3, 16, 16)), how(1), None)
    METHOD.score(model, given)
    assert seen == [True] + [False] * 11
    free = METHOD.training_step(build(dropout=0.0), given, PLAN, rng(), None).loss
    assert not torch.equal(free, METHOD.training_step(model, given, PLAN, rng(), None).loss)


# Training.


def test_the_network_sees_x_t_and_is_asked_for_its_noise():
    model, given, seen = build(dropout=0.0), batch(), {}

    class Spy(torch.nn.Module):
        def forward(self, x, t, uniform):
            seen.update(x=x, t=t)
            return torch.full_like(x, 0.25)

    model.network = Spy()
    losses = METHOD.training_step(model, given, PLAN, rng(), None)
    drawn = rng()
    t = (drawn.uniform() * 1000).long()
    noise = drawn.normal(3, 16, 16)
    bar = ALPHA_BAR[t].float()[:, None, None, None]
    assert torch.equal(seen["t"], t.float())
    assert torch.allclose(seen["x"], bar.sqrt() * given.target + (1 - bar).sqrt() * noise, atol=1e-5)
    assert torch.allclose(losses.per_image, (noise - 0.25).square().mean(dim=(1, 2, 3)), atol=1e-6)
    assert torch.allclose(losses.sigma, SIGMAS[t].float())


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_who_says_the_truth_loses_nothing_and_is_denoised_to_the_face(prediction):
    """At every level; the velocity of x_t = a·y + b·n is a·n - b·y."""

    class Oracle(torch.nn.Module):
        def forward(self, x, t, uniform=None):
            return truth.float()

    model = build(prediction=prediction)
    clean, noise = torch.rand(2, 3, 16, 16).double() * 2 - 1, torch.randn(2, 3, 16, 16).double()
    for t in (999, 700, 300, 40, 0):
        level = SIGMAS[t].expand(2)
        signal, rest = ALPHA_BAR[t].sqrt(), (1 - ALPHA_BAR[t]).sqrt()
        truth = noise if prediction == "noise" else signal * noise - rest * clean
        model.network = Oracle()
        x = clean + SIGMAS[t] * noise
        torch.testing.assert_close(model.noise(x, level), noise, atol=1e-4, rtol=0, check_dtype=False)
        torch.testing.assert_close(model(x, level), clean, atol=1e-4 * float(1 + SIGMAS[t]), rtol=0, check_dtype=False)
        share = torch.full((2,), (t + 0.5) / len(SIGMAS), dtype=torch.float64)
        drawn = SimpleNamespace(uniform=lambda share=share: share, normal=same(noise))
        losses = METHOD.training_step(model, Batch(target=clean), PLAN, drawn, None)
        assert losses.sigma.tolist() == level.tolist() and losses.per_image.max() < 1e-12


def test_a_few_steps_lower_the_loss_and_raise_the_score():
    model = build(dropout=0.0)
    before = METHOD.score(model, batch())
    losses = losses_of_training(METHOD, model, PLAN, steps=40, clip=1.0)
    assert losses[-1] < 0.8 * losses[0]
    after = METHOD.score(model, batch())
    assert before.shape == (4,) and after.mean() > before.mean()
    assert torch.equal(after, METHOD.score(model, batch())), "always the same noise"


def test_any_kill_leaves_bit_equal_weights(tmp_path):
    """With dropout, whose masks are drawn again."""
    train = Train(objective="noise", images=48, batch=8, learning_rate=1e-3, warmup_images=16)
    faces = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    data = Feed(faces, None, 16, None, 5, CPU, True)

    def trained(folder, stop_after=None):
        model, calls = build(dropout=0.3), []

        def step(given, drawn):
            calls.append(1)
            if stop_after and len(calls) > stop_after:
                raise KeyboardInterrupt
            return METHOD.training_step(model, given, PLAN, drawn, None)

        state = loop.TrainState(model, [Player(model, step)], train, COMMON)
        try:
            loop.fit(state, data, None, 5, small.job(folder), "key")
        except KeyboardInterrupt:
            return None
        return model.state_dict()

    whole = trained(tmp_path / "whole")
    assert [trained(tmp_path / "killed", stop) for stop in (3, 1)] == [None, None]
    resumed = trained(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


# What a row begins with.


def told(model, reference, **options):
    """sigma of every call, and x of the first."""
    calls = []
    model.forward = lambda x, sigma: (calls.append((x, float(sigma[0]))), x)[1]
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    image = METHOD.colorize(model, Conditions(reference=reference), same(noise), how(4, **options), None)
    assert image.shape == noise.shape and image.abs().max() <= 1
    return noise, calls[0][0], [sigma for _, sigma in calls]


def test_without_a_start_it_begins_from_pure_noise_at_the_last_timestep():
    noise, x, seen = told(build(), None)
    assert seen == pytest.approx(SIGMAS[[999, 666, 333, 0]].tolist(), rel=1e-6)
    assert torch.allclose(x * ALPHA_BAR[999].sqrt().float(), noise, atol=1e-5)


def test_a_reference_is_noised_to_its_timestep_and_denoised_from_there():
    """t = 400 is the index 399."""
    reference = batch().reference
    noise, x, seen = told(build(), reference, start=0.4)
    assert seen == pytest.approx(SIGMAS[[399, 266, 133, 0]].tolist(), rel=1e-6)
    bar = ALPHA_BAR[399].float()
    assert torch.allclose(x * bar.sqrt(), bar.sqrt() * reference + (1 - bar).sqrt() * noise, atol=1e-5)


def test_as_published_the_chain_is_whole_whatever_the_noise():
    reference = batch().reference
    noise, x, seen = told(build(), reference, start=0.1, chain="whole")
    assert seen == pytest.approx(SIGMAS[[999, 666, 333, 0]].tolist(), rel=1e-6)
    x_t = ALPHA_BAR[99].sqrt().float() * reference + (1 - ALPHA_BAR[99]).sqrt().float() * noise
    assert torch.allclose(x * ALPHA_BAR[999].sqrt().float(), x_t, atol=1e-5), "the network sees x_t itself"


def test_an_oracle_recovers_the_face_from_a_matched_start():
    model, face = build(), batch().target
    model.forward = lambda x, sigma: face
    noise = torch.randn(face.shape)
    for options in ({"start": 0.1}, {"start": 1.0, "variance": "posterior"}):
        found = METHOD.colorize(model, Conditions(reference=face), same(noise), how(7, **options), None)
        assert torch.allclose(found, face, atol=1e-5)


def test_the_sketch_is_ignored_and_the_reference_is_not():
    model, given, fresh = build(), batch(), same(torch.randn(4, 3, 16, 16))
    colour = partial(METHOD.colorize, model, fresh=fresh, colour=how(3, start=0.4), watch=None)
    image = colour(given)
    assert torch.equal(image, colour(Conditions(sketch=-given.sketch, reference=given.reference)))
    assert not torch.equal(image, colour(Conditions(sketch=given.sketch, reference=-given.reference)))


def test_variance_and_last_noise_change_what_ancestral_draws_and_nothing_else():
    model, generator = build(), torch.Generator()

    def colours(name, **options):
        generator.manual_seed(5)
        fresh = lambda *shape: torch.randn(4, *shape, generator=generator)  # noqa: E731
        return METHOD.colorize(model, Conditions(), fresh, how(4, name, **options), None)

    plain = colours("ancestral")
    assert not torch.equal(plain, colours("ancestral", variance="posterior"))
    assert 0 < (plain - colours("ancestral", last_noise=True)).abs().max() < 0.06, "sqrt(beta_0) is 0.01"
    assert torch.equal(
        colours("ancestral", variance="posterior"), colours("ancestral", variance="posterior", last_noise=True)
    )
    assert torch.equal(colours("euler"), colours("euler", variance="posterior", last_noise=True))


# In the house.


def test_what_a_row_is_given_follows_from_its_start():
    assert METHOD.inputs == METHOD.takes(Options()) == ()
    assert METHOD.takes(Options(start=0.4)) == ("sketch", "reference")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"groups": 3}}, "config: groups: 3 does not divide base"),
        ({"config": {"attention": [4]}}, "config: attention: there is no level 4; the last is"),
        ({"config": {"beta_end": 1.0}}, "config.beta_end"),
        ({"config": {"multipliers": [1, 1, 1, 1, 1, 1]}}, "config.multipliers: data.size 16 is not divisible by 32"),
        ({"config": {"base": 9, "groups": 3}}, "config: base: 9 is odd"),
        ({"row": {"options": {"chain": "whole"}}}, "colour.pretrain.options: chain: belongs to start"),
        ({"row": {"options": {"start": 400}}}, "colour.pretrain.options.start"),
        ({"row": {"options": {"variance": "learned"}}}, "colour.pretrain.options.variance"),
    ],
)
def test_mistakes_end_in_one_line(change, said):
    tree = house()
    block = tree["methods"]["ddpm-faces"]
    block["config"] |= change.get("config", {})
    block["colour"]["pretrain"] |= change.get("row", {})
    with pytest.raises(ParameterError) as caught:
        params.parse(yaml.safe_dump(tree))
    assert f"methods.ddpm-faces.{said}" in str(caught.value) and "\n" not in str(caught.value)


def house() -> dict:
    tree = miniature()
    train = {"objective": "noise", "images": 16, "batch": 8, "learning_rate": 1.0e-3, "warmup_images": 8}
    sampler = {"name": "ancestral", "steps": 3}
    tree["methods"] = {
        "ddpm-faces": {
            "kind": "ddpm_faces", "label": "DDPM", "config": dict(small.CONFIGS["ddpm_faces"]), "pretrain": train,
            "colour": {"pretrain": {"sampler": sampler}},
        },
        "ddpm-faces-sdedit": {
            "kind": "ddpm_faces", "label": "SDEdit", "weights": "ddpm-faces/pretrain",
            "colour": {"pretrain": {"sampler": sampler, "options": {"start": 0.4}}},
        },
    }  # fmt: skip
    return tree


def test_work_is_counted_without_conditions():
    """As torch counts it on real tensors; a chain of N steps costs N calls, shown a reference or not."""
    p = Params.model_validate(house())
    work = flops.training(p, "ddpm-faces", "pretrain")
    model = registry.built(small.setup("ddpm_faces"))
    assert work.parameters == work.trained == sum(q.numel() for q in model.parameters())
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        losses = METHOD.training_step(model, Batch(target=batch(1).target), PLAN, rng(n=1), None)
        torch.autograd.grad(losses.loss, list(model.parameters()), materialize_grads=True)
    assert work.train == counter.get_total_flops() > 0
    one, three = (flops.colouring(p, "ddpm-faces", how(n), "pretrain") for n in (1, 3))
    assert three == 3 * one == flops.colouring(p, "ddpm-faces-sdedit", how(3, start=0.4), "pretrain")


def test_rows_are_judged_where_their_colour_options_put_them():
    from ssimbad.pipeline import rows

    judged = {(w["method"], w["setting"]) for w in rows.judged_rows(Params.model_validate(house()))}
    shown = {("ddpm-faces-sdedit", s) for s in ("same", "cross", "cross-true", "cross-other")}
    assert judged == {("ddpm-faces", "free")} | shown
    assert [w["method"] for w in rows.swept(Params.model_validate(house()))] == ["ddpm-faces-sdedit"]


def test_its_setup_and_options_survive_their_json():
    setup = small.setup("ddpm_faces", attention=[0, 1])
    assert registry.setup_from(json.loads(json.dumps(registry.described(setup)))) == setup
    default = METHOD.default_colour(setup.config)
    registry.check_colour("colour", "ddpm_faces", default)
    assert registry.nfe("ddpm_faces", default) == 100


def test_its_streams_of_random_numbers_do_not_depend_on_the_shares():
    given, model = batch(4), build(dropout=0.3)
    whole = METHOD.training_step(model, given, PLAN, BatchRng(7, 4, Shard(), CPU), None).per_image
    halves = [
        METHOD.training_step(
            model, Batch(target=given.target[2 * i : 2 * i + 2]), PLAN, BatchRng(7, 4, Shard(i, 2), CPU), None
        ).per_image
        for i in (0, 1)
    ]
    assert torch.allclose(torch.cat(halves), whole, atol=1e-6)
