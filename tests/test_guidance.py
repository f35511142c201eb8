"""Guidance by the lines of the given sketch, and classifier-free guidance: of every kind that colours by a sampler."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.colorize import nfe as nfe_stage
from ssimbad.colorize import stage as colorize
from ssimbad.errors import UserError
from ssimbad.faces.embedded import draw_faces, face_ids, render
from ssimbad.methods import animediffusion, chain, registry
from ssimbad.methods.contract import Conditions, Plan
from ssimbad.metrics.contract import Lines
from ssimbad.metrics.line_fidelity import line_fidelity
from ssimbad.pairing import lines, resize, xdog
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.blocks import Sketches
from ssimbad.params.view import View
from ssimbad.pipeline import runner, table
from ssimbad.planning import flops, report
from ssimbad.runtime.job import Job
from ssimbad.samplers import ode
from ssimbad.samplers.counts import ODE

from . import small
from .conftest import miniature, write_params
from .small import CPU, batch, build, by, same
from .test_params import complaint
from .toy import load as parsed

XDOG = Sketches(sigmas=[0.3, 0.4, 0.5], k=3.5, p=10.0, epsilon=0.01, phi=1.0e9, seed=0)
KINDS = ("edm", "ssimbad", "animediffusion")
PULL = chain.Guidance(weight=0.02, enlarge=2)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """(3, 128, 128, 3) uint8 of the demo."""
    drawn = draw_faces(face_ids(3), "adventurer", 0).values()
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(render("adventurer", *face, 128))).convert("RGB")) for face in drawn]
    )


def drawn(images: np.ndarray, sigma: float, **changes) -> np.ndarray:
    """(N, H, W) uint8 paper, as the differentiable XDoG draws it."""
    found = lines.ink(resize.to_unit(images).double(), sigma, XDOG.model_copy(update=changes))
    return torch.round(255 * (1 - found))[:, 0].numpy().astype(np.uint8)


# The lines.


@pytest.mark.parametrize("sigma", XDOG.sigmas)
def test_xdog_is_the_stages(faces, sigma):
    ours, theirs = drawn(faces, sigma), xdog.sketch(faces, np.full(3, sigma), XDOG)
    assert (ours == theirs).mean() >= 0.999
    assert 0.01 < (theirs == 0).mean() < 0.5


def test_xdog_of_a_grey_photograph_is_the_stages_to_a_pixel():
    """Where grey is a byte as it is; rounding it is all in which the two differ."""
    grey = xdog.grey(data.astronaut()[None, :160, 160:320])
    image = np.rint(255 * grey[..., None]).astype(np.uint8).repeat(3, axis=-1)
    theirs = xdog.sketch(image, np.array([0.4]), XDOG)
    assert (drawn(image, 0.4) != theirs).mean() < 1e-4
    assert 0 < (theirs == 0).mean() < 1


@pytest.mark.parametrize("enlarge", [1, 2])
@pytest.mark.parametrize("loss", sorted(lines.LOSSES))
def test_the_gradient_is_that_of_finite_differences(enlarge, loss):
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(2, 3, 16, 16, generator=generator) * 1.6 - 0.8).double().requires_grad_()
    wanted = (torch.rand(2, 1, 16, 16, generator=generator) > 0.7).double()
    gentle = XDOG.model_copy(update={"phi": 3.0})

    def value(x):
        return lines.LOSSES[loss](lines.ink(x, 0.4, gentle, enlarge), wanted).sum()

    (gradient,) = torch.autograd.grad(value(images), images)
    for _ in range(3):
        direction = torch.randn(images.shape, generator=generator).double()
        step = 1e-6 * direction
        with torch.no_grad():
            numeric = (value(images + step) - value(images - step)) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-5)
        assert abs(numeric) > 1e-4


def test_a_line_can_come_into_being_where_there_is_none():
    """The published threshold is flat above epsilon."""
    flat = torch.full((1, 3, 16, 16), 0.2).requires_grad_()
    line = torch.zeros(1, 1, 16, 16)
    line[..., 8] = 1
    loss = lines.dice(lines.ink(flat, 0.4, XDOG.model_copy(update={"phi": 3.0})), line)
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    assert gradient[..., 8].min() > 0 > gradient[..., 7].max(), "darker on the line and lighter beside it"


def test_dice_is_the_metrics(faces):
    """Along the same path, with the image's own sigma and the stage's threshold."""
    sigmas = np.array(XDOG.sigmas)
    sketches = xdog.sketch(faces, sigmas, XDOG)
    answers = resize.area(np.roll(faces, 2, axis=2), 64)
    known = line_fidelity(answers, Lines(sketches, sigmas, XDOG))
    wanted = (1 - resize.to_unit(resize.area(sketches, 64))) / 2
    for i, sigma in enumerate(sigmas):
        found = lines.ink(resize.to_unit(answers[i : i + 1]), float(sigma), XDOG, 2)
        assert 1 - lines.dice(found, wanted[i : i + 1]).item() == pytest.approx(known[i], abs=0.01)
    assert known.max() < 0.8
    assert lines.dice(*torch.zeros(2, 1, 1, 8, 8)).item() == 0, "no lines beside no lines"


# The pull.


def coloured(kind: str, how: Colour, given=None, seed: int = 5):
    model, given = build(kind).eval(), given or batch()
    noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return registry.get(kind).colorize(model, given, same(noise), how, None)


def guided(name: str = "euler", steps: int = 4, **options) -> Colour:
    return Colour(sampler=Sampler(name=name, steps=steps), options=chain.Guided.model_validate(options))


@pytest.mark.parametrize("kind", KINDS)
def test_without_guidance_the_chain_is_the_models_own_to_the_bit(kind):
    """Against the sampler on the bare model."""
    model, given = build(kind).eval(), batch()
    noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(5))
    if kind == "animediffusion":
        levels = animediffusion.levels(model, 4)
        start = animediffusion.pure(noise, levels)
    else:
        levels = model.levels.grid(4)
        start = float(levels[0]) * noise
    with torch.no_grad():
        plain = ode.euler(lambda x, s: model(x, s, given.sketch, given.reference), start, levels).clamp(-1, 1)
    for how in (guided(), by("euler", 4), guided(guidance=None, guidance_scale=1.0, sketch_guidance_scale=1.0)):
        assert torch.equal(coloured(kind, how), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ODE)
def test_every_kind_and_sampler_is_pulled_to_the_lines(kind, name):
    """The last step pulls what the last call said: the loss of the answer falls, whatever the network."""
    given = batch()
    wanted = (1 - given.sketch) / 2

    def loss(image):
        return lines.dice(lines.ink(image, 0.4, PULL, 2), wanted)

    plain = coloured(kind, by(name, 3))
    pulled = coloured(kind, guided(name, 3, guidance={"weight": 0.005, "enlarge": 2}))
    assert (loss(pulled) < loss(plain)).all()


def test_an_answer_without_sharp_lines_gets_them(faces):
    """Of a denoiser that knows no better than a blurred face; against the metric, which the loss is not."""
    sigmas = np.array(XDOG.sigmas)
    sketches = xdog.sketch(faces, sigmas, XDOG)
    target = resize.to_unit(resize.area(faces, 64))
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(target, (1, 1, 1, 1), mode="replicate"), 3, 1)
    given = Conditions(sketch=resize.to_unit(resize.area(sketches, 64)), reference=target)

    def answer(how):
        levels = torch.tensor([80.0, 1.0, 0.1, 0.0], dtype=torch.float64)
        image = chain.colour(lambda x, *_: blurred.expand_as(x), given, 80 * target, levels, ode.euler, how, None)
        return line_fidelity(resize.to_bytes(image), Lines(sketches, sigmas, XDOG))

    with torch.no_grad():
        plain, pulled = answer(guided(steps=3)), answer(guided(steps=3, guidance=PULL.model_dump()))
    assert (pulled > plain + 0.1).all() and pulled.min() > 0.6


@pytest.mark.parametrize(
    ("name", "start", "end", "expected"),
    [
        ("euler", 0.0, 1.0, [0, 1, 2, 3]),
        ("euler", 0.25, 0.75, [1, 2]),
        ("euler", 0.3, 1.0, [2, 3]),
        ("heun", 0.25, 0.75, [2, 3, 4, 5]),
        ("heun", 0.75, 1.0, [6]),
    ],
)
def test_the_pull_begins_and_ends_with_its_steps(monkeypatch, name, start, end, expected):
    pulled, calls = [], []
    monkeypatch.setattr(chain, "line_gradient", lambda d, *_: (pulled.append(len(calls) - 1), torch.zeros_like(d))[1])
    how = guided(name, guidance={"weight": 1.0, "start": start, "end": end})
    denoise = chain.denoiser(lambda x, *_: (calls.append(1), 0 * x)[1], batch(), how, None)
    ode.SAMPLERS[name](denoise, torch.ones(4, 3, 16, 16), torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0]))
    assert pulled == expected
    assert len(calls) == registry.nfe("edm", how), "the pull costs no network call"


def test_the_gradient_needs_no_gradients_around_it():
    """Colouring runs in inference mode, in bf16 where the parameters say so."""
    given = batch()
    plain = chain.line_gradient(given.target, given.sketch, PULL)
    with torch.inference_mode():
        image, sketch = given.target + 0, given.sketch + 0
        assert image.is_inference()
        with torch.autocast("cpu", torch.bfloat16):
            inside = chain.line_gradient(image, sketch, PULL)
        denoised = image - 0.1 * inside
    assert torch.equal(inside, plain) and plain.abs().max() > 0 and plain.dtype == torch.float32
    assert torch.isfinite(denoised).all() and not inside.requires_grad


def test_the_gradient_is_per_pixel_and_of_each_image_alone():
    given = batch()
    together = chain.line_gradient(given.target, given.sketch, PULL)
    for i in range(4):
        alone = chain.line_gradient(given.target[i : i + 1], given.sketch[i : i + 1], PULL)
        assert torch.allclose(alone[0], together[i], rtol=1e-4, atol=1e-6)
    wide = [torch.cat([x, x], dim=2).repeat(1, 1, 1, 2) for x in (given.target, given.sketch)]
    inner = chain.line_gradient(*wide, PULL)[..., 4:12, 4:12]
    assert torch.allclose(inner, together[..., 4:12, 4:12], rtol=0.05, atol=0.02 * together.abs().max().item())


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ({"weight": 0.0}, "guidance.weight: Input should be greater than 0"),
        ({"weight": 1.0, "loss": "ssim"}, "guidance.loss: Input should be 'dice' or 'mse'"),
        ({"weight": 1.0, "start": 0.5, "end": 0.5}, "guidance: start 0.5 must be below end 0.5"),
        ({"weight": 1.0, "truth": True}, "guidance.truth: unknown key"),
        ({}, "guidance.weight: Field required"),
    ],
)
def test_impossible_guidance(guidance, said):
    tree = miniature()
    tree["methods"]["ssimbad"]["colour"]["finetune"]["options"] = {"guidance": guidance}
    assert f"methods.ssimbad.colour.finetune.options.{said}" in complaint(tree)


def test_losses_of_lines_are_options():
    assert all(chain.Guidance(weight=1.0, loss=name) for name in lines.LOSSES)


def test_only_what_is_chosen_is_said():
    assert guided().words == by("euler", 4).words == "by euler in 4 steps"
    assert (
        guided(guidance={"weight": 0.02, "enlarge": 2}).words
        == "by euler in 4 steps, guidance (weight 0.02, enlarge 2)"
    )


# Without classifiers.


class Told(torch.nn.Module):
    """Answers with the means of what it was given, and remembers it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, sigma, sketch, reference):
        self.seen.append((sketch, reference))
        return torch.ones_like(x) + 10 * reference.mean((1, 2, 3), True) + 100 * sketch.mean((1, 2, 3), True)


def test_scales_go_beyond_what_the_condition_brings():
    """D_u + g (D - D_u), where D_u sees a grey reference or blank paper."""
    given = replace(batch(), reference=torch.full((4, 3, 16, 16), 0.5), sketch=torch.full((4, 1, 16, 16), 0.2))
    x, sigma = torch.zeros(4, 3, 16, 16), torch.ones(4)
    whole, no_reference, no_sketch = 1 + 5 + 20, 1 + 0 + 20, 1 + 5 + 100
    for options, expected in (
        ({}, whole),
        ({"guidance_scale": 3.0}, no_reference + 3 * (whole - no_reference)),
        ({"guidance_scale": 0.0}, no_reference),
        ({"sketch_guidance_scale": 1.5}, no_sketch + 1.5 * (whole - no_sketch)),
        (
            {"guidance_scale": 2.0, "sketch_guidance_scale": 1.5},
            whole + (whole - no_reference) + 0.5 * (whole - no_sketch),
        ),
    ):
        model = Told()
        denoised = chain.denoiser(model, given, guided(**options), None)(x, sigma)
        assert denoised.flatten()[0].item() == pytest.approx(expected, rel=1e-5), options
        assert len(model.seen) == 1 + len(options) == guided(**options).options.calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["euler", "phi2"])
@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 2.0}, {"guidance_scale": 2.0, "sketch_guidance_scale": 0.5}]
)
def test_network_calls_are_counted_as_they_are(kind, name, options):
    model, how, calls, told = build(kind, drop=0.1).eval(), guided(name, 3, **options), [], []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    noise = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        registry.get(kind).colorize(model, batch(), same(noise), how, lambda *call: told.append(call))
    assert len(calls) == registry.nfe(kind, how) == len(told) * (1 + len(options))
    assert registry.nfe(kind, how.model_copy(update={"samples": 4})) == 4 * len(calls)


OBJECTIVES = [(kind, name) for kind in KINDS for name in registry.get(kind).objectives]


def first_step(kind, objective, **config):
    """The loss of a training step, and the conditions that its first network call saw."""
    model, seen, draws = build(kind, **config), [], []
    method, rng = registry.get(kind), small.rng()
    inner, uniform = model.network.forward, rng.uniform
    model.network.forward = lambda inputs, *rest: (seen.append(inputs.detach()), inner(inputs, *rest))[1]
    rng.uniform = lambda *shape: (draws.append(shape), uniform(*shape))[1]
    own = {"sampler": Sampler(name="euler", steps=2)} if objective in ("trajectory", "inversion") else {}
    plan = Plan(objective, method.objectives[objective](**own))
    return method.training_step(model, batch(), plan, rng, None).loss.item(), seen[0], len(draws)


@pytest.mark.parametrize(("kind", "objective"), OBJECTIVES)
def test_training_drops_conditions_only_where_it_is_told_to(kind, objective):
    """And the noise of a training that drops some is that of one which drops none."""
    given = batch()
    loss, seen, draws = first_step(kind, objective)
    assert torch.equal(seen[:, 3:4], given.sketch) and torch.equal(seen[:, 4:], given.reference)
    assert draws == (objective in ("denoising", "noise")), "nothing is drawn to drop nothing"
    dropped = first_step(kind, objective, drop=0.5)
    lost = [not reference.any() for reference in dropped[1][:, 4:]]
    assert 0 < sum(lost) < 4 and dropped[0] != loss and dropped[2] == draws + 1
    for i, gone in enumerate(lost):
        assert gone or torch.equal(dropped[1][i, 4:], given.reference[i])
    assert torch.equal(dropped[1][:, 3:4], given.sketch)
    if objective != "inversion":
        assert torch.equal(dropped[1][:, :3], seen[:, :3])
    blank = first_step(kind, objective, drop_sketch=0.5)[1]
    assert 0 < sum(bool((sketch == 1).all()) for sketch in blank[:, 3:4]) < 4
    assert torch.equal(blank[:, 4:], given.reference)


def test_as_many_are_dropped_as_was_said():
    config, rng = chain.Dropping(drop=0.2), small.rng(n=2000)
    many = replace(batch(1), **{k: getattr(batch(1), k).expand(2000, -1, -1, -1) for k in ("sketch", "reference")})
    dropped = chain.dropped(many, config, rng)
    assert (dropped.reference == 0).all((1, 2, 3)).double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert chain.dropped(many, chain.Dropping(), None) is many


@pytest.mark.parametrize("scale", ["guidance_scale", "sketch_guidance_scale"])
@pytest.mark.parametrize("place", ["own", "borrowed", "validation"])
def test_a_network_is_not_guided_by_what_it_has_never_missed(scale, place):
    tree = miniature()
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    how = {"sampler": {"name": "euler", "steps": 2}, "options": {scale: 2.0}}
    own = tree["methods"]["ssimbad"]
    if place == "own":
        own["colour"]["pretrain"], key = how, "ssimbad.colour.pretrain"
    elif place == "borrowed":
        tree["methods"]["other"] = {
            "kind": "ssimbad", "label": "x", "weights": "ssimbad/pretrain", "colour": {"pretrain": how},
        }  # fmt: skip
        key = "other.colour.pretrain"
    else:
        own["finetune"]["validation"]["colour"], key = how, "ssimbad.finetune.validation.colour"
    share = {"guidance_scale": "drop", "sketch_guidance_scale": "drop_sketch"}[scale]
    said = complaint(tree)
    assert f"methods.{key}.options.{scale}: these weights have never missed a" in said and f"train with {share}" in said
    own["config"][share] = 0.1
    assert parsed(tree)


# Through the stages.


@pytest.fixture
def kept(house):
    """A trained miniature with a guided row, and the parameters."""
    tree = miniature()
    own = tree["methods"]["ssimbad"]
    tree["methods"] = {"ssimbad": {k: v for k, v in own.items() if k != "finetune"}}
    tree["methods"]["ssimbad"]["config"] = {"phi": small.RATIONAL, "drop": 0.1}
    tree["methods"]["ssimbad"]["colour"] = {"pretrain": own["colour"]["pretrain"]}
    tree["methods"]["guided"] = {
        "kind": "ssimbad", "label": "Guided", "weights": "ssimbad/pretrain",
        "colour": {"pretrain": {
            "sampler": {"name": "euler", "steps": 3},
            "options": {"guidance": {"weight": 0.02, "enlarge": 2}, "guidance_scale": 2.0},
        }},
    }  # fmt: skip
    tree["report"]["nfe"] = {"calls": [1, 3, 8], "samplers": [{"name": "euler"}, {"name": "heun"}], "images": 2}
    write_params(house, tree)
    p = params.load()
    for instance in table.instances(p):
        if instance.stage.name in {"raw", "faces", "sketches", "references", "pretrain", "colorize"}:
            runner.run(p, instance)
    return p


def test_the_right_answer_is_not_known_to_the_guided_row(kept):
    """Other faces in its place, and the same bytes; another sketch, and others."""
    [instance] = [i for i in table.instances(kept) if i.name == "colorize-guided-pretrain-seed-0-same"]
    assert not any("faces/test" in file or "true" in file for file in instance.files)

    def again() -> bytes:
        inputs = {k: Path(v) for k, v in instance.inputs.items() if isinstance(v, str)}
        job = Job("colorize", Path("work/x"), 1, "guided", "pretrain", 0, "same")
        colorize.run(View(kept, instance.params), inputs, {"images": Path("again.zip")}, job)
        return Path("again.zip").read_bytes()

    first = Path(instance.outputs["images"]).read_bytes()
    truth = artifacts.read_array(Path("data/faces/test.npy"))
    artifacts.write_array(Path("data/faces/test.npy"), 255 - np.array(truth))
    assert again() == first
    sketches = np.array(artifacts.read_array(Path("data/sketches/test.npy")))
    artifacts.write_array(Path("data/sketches/test.npy"), sketches[::-1])
    assert again() != first


def test_tables_and_plans_know_what_a_guided_call_costs(kept):
    found = {i.name: i for i in table.instances(kept)}
    cost = json.loads(Path("work/cost/colorize-guided-pretrain-seed-0-same.json").read_text())
    assert cost["nfe"] == 6
    instance = found["nfe-guided-pretrain-seed-0"]
    inputs = {k: Path(v) for k, v in instance.inputs.items() if isinstance(v, str)}
    outputs = {"values": Path("values.csv")}
    nfe_stage.run(View(kept, instance.params), inputs, outputs, Job("nfe", Path("work/y"), 1, "guided", "pretrain", 0))
    # One call is less than a guided step costs.
    rows = [line.split(",") for line in Path("values.csv").read_text().splitlines()[1:]]
    assert {(r[0], *map(int, r[1:4])) for r in rows} == {
        ("euler", 3, 1, 2), ("euler", 8, 4, 8), ("heun", 3, 1, 2), ("heun", 8, 2, 6),
    }  # fmt: skip
    plain, how = by("euler", 3), kept.methods["guided"].colour["pretrain"]
    doubled = how.model_copy(update={"options": chain.Guided(guidance_scale=2.0)})
    once = flops.colouring(kept, "ssimbad", plain, "pretrain")
    assert flops.colouring(kept, "guided", doubled, "pretrain") == 2 * once
    assert 2 * once < flops.colouring(kept, "guided", how, "pretrain") < 3 * once
    lacking = []
    planned = report.tasks(kept, report.counted(kept, lacking), report.reference_of(kept), lacking)
    figure = next(task for task in planned if task.stage == "guided pretrain: nfe-figure")
    single = flops.colouring(kept, "guided", how.model_copy(update={"sampler": by("euler", 1).sampler}), "pretrain")
    assert figure.calls == 2 + 8 + 2 + 6 and figure.operations == 9 * single, "each of its steps is two calls"
    assert not lacking


def test_weights_that_colour_with_guidance_say_so_and_are_checked(kept):
    path = Path("models/ssimbad/pretrain/seed-0")
    told = json.loads(path.with_suffix(".json").read_text())
    told["colour"]["options"] = {"guidance": {"weight": 0.1}}
    path.with_suffix(".json").write_text(json.dumps(told))
    loaded = load.trained(path.with_suffix(".safetensors"), CPU, False)
    assert loaded.colour.options.guidance == chain.Guidance(weight=0.1)
    given = batch()
    images = chunks.colour(
        chunks.bound(loaded.method, loaded.model), {"sketch": given.sketch, "reference": given.reference},
        ["a", "b", "c", "d"], loaded.colour, chunk=3, seed=0, device=CPU, precision="fp32", channels_last=True,
    )  # fmt: skip
    assert images.shape == (4, 16, 16, 3)
    told["colour"]["options"] = {"sketch_guidance_scale": 2.0}
    path.with_suffix(".json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"seed-0\.json: no description of a model as this revision writes it"):
        load.trained(path.with_suffix(".safetensors"), CPU, False)
