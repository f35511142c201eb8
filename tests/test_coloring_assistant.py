"""Coloring Assistant: its network's size, the way from the reference's inversion, what memory that takes, its copy."""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.errors import ParameterError, UserError
from ssimbad.methods import chain, registry
from ssimbad.methods import coloring_assistant as ca
from ssimbad.methods.contract import Part, Plan
from ssimbad.methods.losses import mse
from ssimbad.networks.coloring_unet import ColoringUNet
from ssimbad.noise import ddpm
from ssimbad.params import tree
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.methods import Method
from ssimbad.params.methods import needs as needs_of
from ssimbad.pipeline import table
from ssimbad.training import checkpoints, loop

from . import small
from .conftest import ROOT, miniature
from .small import COMMON, CPU, batch, rng, same
from .test_contract import run, workshop  # noqa: F401 - a fixture

KIND = "coloring_assistant"
METHOD = ca.METHOD
ALPHA_BAR = ddpm.alpha_bar(1000, 1e-4, 2e-2)
build = partial(small.build, KIND)


def ddim(steps, **own):
    return Sampler(name="ddim", steps=steps, **own)


def by(steps, **options):
    return Colour(sampler=ddim(steps), options=ca.ColourOptions(**options))


def finetuning(model, steps, features=None, **options):
    """The only player of a finetuning."""
    plan = Plan("reference", ca.Reference(sampler=ddim(steps), **options))
    [player] = METHOD.parties(model, plan, features)
    return player


def goes_on(of=None, **config):
    """A model that goes on from another's weights, which it keeps beside its own."""
    before = small.setup(KIND, **config)
    part = Part("", "", registry.described(before))
    torch.manual_seed(0)
    model = registry.built(replace(before, needed={"frozen": part}))
    start = of or registry.built(before)
    for module in (model, model.frozen):
        checkpoints.load_into(module, start.state_dict(), Path(), ("frozen.",))
    model.frozen.requires_grad_(False)
    return model


def test_number_of_parameters():
    with torch.device("meta"):
        for time, expected in ((128, 33_543_555), (256, 33_748_355)):
            assert sum(p.numel() for p in ColoringUNet(7, 3, 64, time).parameters()) == expected
        assert sum(p.numel() for p in ColoringUNet(7, 3, 16, 128).parameters()) == 2_139_747  # the demo's


def test_every_parameter_takes_part_and_so_does_the_timestep():
    model, given = build(), batch()
    sigma = model.sigmas[torch.tensor([3, 300, 600, 999])].float()
    noise = model.noise(given.target, sigma, given.sketch, given.reference)
    assert noise.shape == given.target.shape
    noise.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    network, x, t = model.network, torch.randn(1, 7, 16, 16), torch.tensor([7.0])
    assert not torch.allclose(network(x, t), network(x, t + 1), atol=1e-5)


def test_images_are_halved_three_times():
    block = {"kind": KIND, "label": "x", "pretrain": {"objective": "noise", **SHORT}}
    registry.check("toy", Method.model_validate(block), 24, small.SHARED)
    with pytest.raises(ValueError, match=r"^methods\.toy\.kind: .* data\.size 20 "):
        registry.check("toy", Method.model_validate(block), 20, small.SHARED)


SHORT = {"images": 16, "batch": 8, "learning_rate": 1.0e-3, "warmup_images": 8}


def test_the_pretraining_predicts_noise_at_all_timesteps_but_the_first():
    model, given = build(), batch()
    [player] = METHOD.parties(model, Plan("noise", ca.Noise()), None)

    class Ends:
        """The least and the greatest that a uniform draw can be, and a known noise."""

        def uniform(self):
            return torch.tensor([0.0, 1 - 2**-53, 0.5, 0.25], dtype=torch.float64)

        def normal(self, *shape):
            return torch.full((4, *shape), 0.3)

    model.predicted = lambda x, sigma, *_: (x - given.target) / sigma[:, None, None, None] - 0.2
    losses = player.step(given, Ends())
    assert model.timestep(losses.sigma).round().tolist() == [1, 999, 500, 250]
    assert losses.loss.item() == pytest.approx(0.04, rel=1e-3)
    assert losses.per_image.tolist() == pytest.approx([0.04] * 4, rel=1e-2)


def test_the_grid_takes_the_whole_parts_of_equal_steps():
    sigmas, model = ddpm.sigma(1000, 1e-4, 2e-2), build()
    t = [int(999 * k / 24) for k in range(25)]
    assert t[:4] == [0, 41, 83, 124]
    assert ca.levels(model, 25).tolist() == [*sigmas[t[::-1]].tolist(), 0]
    assert ca.levels(model, 3, 0.4).tolist() == [*sigmas[[399, 199, 0]].tolist(), 0]
    assert ca.levels(model, 1).tolist() == [sigmas[999].item(), 0]
    with pytest.raises(UserError, match=r"^sampler\.steps: 11 are more than the 10 timesteps"):
        ca.levels(model, 11, 0.0095)


def test_colours_start_from_the_reference_noised_as_far_as_the_level():
    """x_t = sqrt(alpha_bar) r + sqrt(1 - alpha_bar) n, as the network sees it, at t = 999 or below."""
    given, noise = batch(), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for level, t in ((1.0, 999), (0.4, 399)):
        model, seen = build(), []
        model.network.register_forward_hook(lambda module, inputs, _, seen=seen: seen.append(inputs))
        ca.colorize(model, given, same(noise), by(2, level=level), None)
        bar = ALPHA_BAR[t].float()
        noisy = bar.sqrt() * given.reference + (1 - bar).sqrt() * noise
        assert torch.allclose(seen[0][0], torch.cat([noisy, given.sketch, given.reference], dim=1), atol=1e-5)
        assert seen[0][1].tolist() == pytest.approx([t] * 4, abs=1e-2)
    assert ALPHA_BAR[999].sqrt().item() == pytest.approx(0.00635, abs=1e-5)


class Vp:
    """The source's own recurrence, written in x_t and not in x: forth from the reference, and step by step back."""

    def __init__(self, model, given, steps):
        self.model, self.given = model, given
        self.t = [int(999 * k / (steps - 1)) for k in range(steps)]

    def noise(self, network, x, t):
        inputs = torch.cat([x, self.given.sketch, self.given.reference], dim=1)
        return network.network(inputs, torch.full((len(x),), float(t)))

    def step(self, network, x, t, bar_next):
        bar, noise = ALPHA_BAR[t].float(), self.noise(network, x, t)
        image = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
        return bar_next.sqrt() * image + (1 - bar_next).sqrt() * noise, image

    @torch.no_grad()
    def inversion(self, network):
        x = self.given.reference
        for t, following in zip(self.t, self.t[1:], strict=False):
            x, _ = self.step(network, x, t, ALPHA_BAR[following].float())
        return x


def moderate(model):
    """A network that stays near noise of unit variance, as a trained one does: else chains of it run away."""
    with torch.no_grad():
        model.network.head.weight *= 0.2
    return model


def test_the_start_is_the_references_inversion():
    model, given = moderate(build()), batch()
    x = ca.inverted(model, given, ca.levels(model, 6))
    sigma = float(ca.levels(model, 6)[0])
    expected = Vp(model, given, 6).inversion(model)
    assert torch.allclose(ca.scaled(x, sigma), expected, atol=1e-4)
    assert not torch.allclose(expected, Vp(model, replace(given, reference=given.target), 6).inversion(model), atol=0.1)
    assert not x.requires_grad


@pytest.mark.parametrize(("n", "on"), [(1, "state"), (2, "state"), (4, "state"), (1, "denoised"), (2, "denoised")])
def test_losses_are_those_of_the_sources_recurrence(n, on):
    """S / n of them, each of the state behind n steps (or of D in the last of them), with the gradient of n steps."""
    model, given = moderate(build()), batch()
    steps = 4
    found = list(with_gradients(finetuning(model, steps, every_n=n, loss_on=on), model, given))
    assert len(found) == steps // n
    vp = Vp(model, given, steps)
    x = vp.inversion(model)
    for losses, gradient in found:
        for _ in range(n):
            k = vp.t.pop()
            x, image = vp.step(model, x, k, ALPHA_BAR[vp.t[-1]].float() if vp.t else torch.tensor(1.0))
        per_image = mse(image if on == "denoised" else x, given.target)
        assert losses.per_image.tolist() == pytest.approx(per_image.tolist(), rel=1e-3)
        assert losses.loss.item() == pytest.approx(per_image.mean().item(), rel=1e-3)
        assert losses.sigma.tolist() == pytest.approx([ddpm.sigma(1000, 1e-4, 2e-2)[k].item()] * 4, rel=1e-5)
        own = torch.autograd.grad(per_image.mean(), list(model.parameters()))
        far = max(float((a - b).norm() / b.norm()) for a, b in zip(gradient, own, strict=True) if b.norm() > 1e-6)
        assert far < 0.02
        x = x.detach()


def with_gradients(player, model, given):
    for losses in player.losses(given, rng()):
        yield losses, torch.autograd.grad(losses.loss, list(model.parameters()))


def test_each_group_is_walked_by_the_weights_as_they_then_are():
    model, given = moderate(build()), batch()
    still = [losses.loss.item() for losses, _ in with_gradients(finetuning(model, 3), model, given)]
    stream, moved = finetuning(model, 3).losses(given, rng()), []
    for losses in stream:
        moved.append(losses.loss.item())
        with torch.no_grad():
            model.network.head.bias += 0.3
    assert moved[0] == still[0] and moved[1] != still[1] and len(moved) == 3


def test_inversion_followed_by_ddim_returns_the_reference():
    """With a network that knows the noise, whatever the sketch."""
    model, given = build(), batch()
    noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(2))
    model.predicted = lambda x, sigma, *_: noise
    grid = ca.levels(model, 25)
    start = ca.inverted(model, given, grid)
    assert start.std() > 100
    image = ca.colorize(
        model, replace(given, reference=0.7 * given.reference), same(noise), by(25, start="inversion"), None
    )
    # At the lowest level the reference is taken for x_t, so its own share of noise, 1 % of sigma, is taken off it.
    assert torch.allclose(image, 0.7 * given.reference - float(grid[-2]) * noise, atol=1e-3)


def test_inversion_of_a_linear_flow_is_undone_by_ddim():
    """Of the exact flow of Gaussian data, where the noise is no constant: forth and back in many steps."""
    model, given = build(), batch()
    model.predicted = lambda x, sigma, *_: x * (sigma / (0.25 + sigma**2))[:, None, None, None]
    image = ca.colorize(model, given, None, by(500, start="inversion"), None)
    assert torch.allclose(image, given.reference, atol=0.05)
    assert not torch.allclose(ca.inverted(model, given, ca.levels(model, 500)), given.reference, atol=1)


def test_training_and_colouring_from_the_inversion_walk_the_same_steps():
    model, given, walked = moderate(build()), batch(), []
    inner = model.forward
    model.forward = lambda x, sigma, *rest: (walked.append((sigma[0].item(), x)), inner(x, sigma, *rest))[1]
    list(finetuning(model, 4).losses(given, rng()))
    trained, walked[:] = list(walked), []
    with torch.no_grad():
        ca.colorize(model, given, None, by(4, start="inversion"), None)
    assert len(walked) == len(trained) == 7
    assert all(a[0] == b[0] and torch.allclose(a[1], b[1], rtol=1e-4) for a, b in zip(walked, trained, strict=True))


def test_the_inversion_is_counted_watched_and_made_by_the_weights_from_which_a_training_started():
    given, told, asked = batch(), [], {"own": 0, "frozen": 0}

    def counting(name):
        def count(*_):
            asked[name] += 1

        return count

    for model in (moderate(build()), goes_on()):
        model.network.register_forward_hook(counting("own"))
        if model.frozen:
            model.frozen.network.register_forward_hook(counting("frozen"))
        for name, calls in (("ddim", 9), ("heun", 13)):
            how = Colour(sampler=Sampler(name=name, steps=5), options=ca.ColourOptions(start="inversion"))
            told.clear()
            asked.update(own=0, frozen=0)
            ca.colorize(model, given, None, how, lambda sigma, image: told.append(sigma))
            assert asked["own"] + asked["frozen"] == len(told) == calls == registry.nfe(KIND, how)
            assert asked["frozen"] == (4 if model.frozen else 0)
            assert registry.cost(KIND, name, how.options).most_steps(calls) == 5
    assert registry.nfe(KIND, by(5)) == 5


def test_where_the_chain_starts_changes_the_image():
    model, given, noise = moderate(build()), batch(), torch.randn(4, 3, 16, 16)
    images = [
        ca.colorize(model, given, same(noise), by(4, **o), None) for o in ({}, {"level": 0.4}, {"start": "inversion"})
    ]
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in ((images[0], images[1]), (images[0], images[2])))
    assert all(image.abs().max() <= 1 for image in images)


@pytest.mark.parametrize(
    ("slot", "options", "named"),
    [
        ("pretrain", {"every_n": 3, "sampler": {"name": "ddim", "steps": 8}}, r"options: every_n: 3 does not divide"),
        ("pretrain", {"sampler": {"name": "heun", "steps": 8}}, r"options: sampler\.name: .* not by heun"),
        ("colour", {"start": "inversion", "level": 0.5}, r"colour\.pretrain\.options: level: belongs to start qsample"),
        ("colour", {"start": "noise"}, r"colour\.pretrain\.options\.start"),
        ("config", {"time": 9}, r"config\.time"),
        ("finetune", {}, r"finetune\.start: missing; kind coloring_assistant"),
    ],
)
def test_what_cannot_be_is_one_line(slot, options, named):
    parameters = tree_of()
    block = parameters["methods"]["toy"]
    if slot == "colour":
        block["colour"]["pretrain"]["options"] = options
    elif slot == "config":
        block["config"] |= options
    elif slot == "finetune":
        del block["finetune"]["start"]
    else:
        block["pretrain"] |= {"objective": "reference", "options": options}
    with pytest.raises(ParameterError, match=rf"^params\.yaml: methods\.toy.*{named}") as caught:
        tree.parse(yaml.safe_dump(parameters))
    assert "\n" not in str(caught.value)


def tree_of():
    """A miniature with this one method, pretrained and finetuned."""
    parameters = miniature()
    parameters["data"] |= {"val": 5, "test": 6}
    inversion = {"sampler": {"name": "ddim", "steps": 2}, "options": {"start": "inversion"}}
    parameters["methods"] = {
        "toy": {
            "kind": KIND,
            "label": "Toy",
            "config": {"base": 4, "time": 8},
            "pretrain": SHORT | {"objective": "noise"},
            "finetune": SHORT
            | {"start": "toy/pretrain", "objective": "reference", "options": {"sampler": {"name": "ddim", "steps": 2}}}
            | {"validation": {"every": 8, "colour": inversion}},
            "colour": {"pretrain": {"sampler": {"name": "ddim", "steps": 2}}, "finetune": inversion},
        }
    }
    return parameters


def test_the_copy_is_the_start_whole_and_is_neither_trained_nor_stored_once_more(workshop):  # noqa: F811
    p = tree.Params.model_validate(tree_of())
    assert needs_of(p.methods, "toy", "finetune") == {"frozen": "toy/pretrain", "start": "toy/pretrain"}
    assert needs_of(p.methods, "toy", "pretrain") == {}
    made = {slot: run(p, f"{slot}-toy-seed-0") for slot in ("pretrain", "finetune")}
    first, second = (checkpoints.read_tensors(files["weights"])[0] for files in made.values())
    assert first.keys() == second.keys() and not torch.equal(
        first["network.head.weight"], second["network.head.weight"]
    )
    loaded = load.trained(made["finetune"]["weights"], CPU, False)
    copy = loaded.model.frozen.state_dict()
    assert all(torch.equal(copy[name], value) for name, value in first.items())
    assert loaded.setup.needed["frozen"].sha256 == artifacts.sha256(made["pretrain"]["weights"])
    assert "val,psnr" in made["finetune"]["curve"].read_text()
    assert run(p, "colorize-toy-finetune-seed-0-same")["images"].stat().st_size > 1000
    inputs = {i.name: i for i in table.instances(p)}["finetune-toy-seed-0"].inputs
    assert inputs["frozen"] == inputs["start"] == made["pretrain"]["weights"].as_posix()


def test_any_kill_between_two_steps_of_a_batch_leaves_the_training_bit_equal(tmp_path):
    def trained(folder, stop_after=None):
        model, calls = goes_on(), []
        inner = finetuning(model, 2)

        def step(given, rng):
            for losses in inner.step(given, rng):
                calls.append(1)
                if stop_after and len(calls) > stop_after:
                    raise KeyboardInterrupt
                yield losses

        train = small.TRAIN.model_copy(update={"images": 12, "batch": 4})
        common = COMMON.model_copy(update={"state_images": 4})
        run = loop.TrainState(model, [replace(inner, step=step)], train, common, frozen=("frozen.",))
        try:
            loop.fit(run, small.feed(), None, 5, small.job(folder), "key")
        except KeyboardInterrupt:
            return None
        return run

    whole = trained(tmp_path / "whole")
    assert trained(tmp_path / "killed", stop_after=3) is None
    state = next((tmp_path / "killed").glob("state-*.safetensors"))
    assert not [name for name in checkpoints.read_tensors(state)[0] if "frozen" in name]
    again = trained(tmp_path / "killed")
    assert whole.rows == again.rows
    assert all(torch.equal(value, again.ema[name]) for name, value in whole.ema.items())
    before, after = goes_on().frozen.state_dict(), again.model.frozen.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    moved = zip(again.model.network.parameters(), again.model.frozen.network.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in moved if a.ndim > 1)


def test_a_few_batches_lower_the_loss():
    model, given = moderate(build()), batch()
    player, optimiser = finetuning(model, 4), torch.optim.Adam(model.parameters(), lr=3e-3)
    told = []
    for _ in range(6):
        told.append([])
        for losses in player.losses(given, rng()):
            optimiser.zero_grad()
            losses.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            told[-1].append(losses.loss.item())
    assert told[-1][-1] < 0.6 * told[0][-1]


def benchmark():
    spec = importlib.util.spec_from_file_location("memory", ROOT / "benchmarks/coloring_assistant_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_graph_grows_with_n_and_not_with_the_steps():
    memory = benchmark()
    peak = {(n, steps): memory.walked(4, 16, 2, steps, n) for n, steps in ((1, 2), (1, 4), (2, 2), (2, 4), (4, 4))}
    assert not any(saved.live for saved in peak.values()), "all is let go in the end"
    held = {at: saved.peak for at, saved in peak.items()}
    assert held[1, 2] == held[1, 4] > 10_000
    assert held[2, 2] == held[2, 4] == pytest.approx(2 * held[1, 4], rel=0.1)
    assert held[4, 4] == pytest.approx(4 * held[1, 4], rel=0.1)


def test_what_the_graph_holds_is_counted_once_and_without_parameters():
    weight = torch.nn.Parameter(torch.ones(1000))
    with benchmark().Saved([weight]) as saved:
        x = torch.ones(1000, requires_grad=True)
        y = (x * weight).exp()  # x, and the result
        z = y.square()  # the same result once more
        assert saved.live == saved.peak == 2 * 4000
        z.sum().backward()
    assert saved.live == 0 and saved.peak == 2 * 4000


def test_samplers_of_other_kinds_serve_the_weights_too():
    model, given, noise = moderate(build()), batch(), torch.randn(4, 3, 16, 16)
    euler = ca.colorize(model, given, same(noise), Colour(sampler=Sampler(name="euler", steps=4)), None)
    assert torch.allclose(euler, ca.colorize(model, given, same(noise), by(4), None), atol=1e-5)
    assert chain.ImageLoss in ca.Reference.__mro__  # its losses are those of all finished images
