"""Split cross-attention: sizes by formula, modes of one set of weights, two stages, and what each training moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.errors import UserError
from ssimbad.methods import registry, split_attention
from ssimbad.methods.contract import Part, Plan
from ssimbad.networks.split_attention import LowRankLayer, Recovery, SketchEncoder
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Sampler
from ssimbad.pipeline import runner, table
from ssimbad.training import checkpoints, loop

from . import small
from .conftest import miniature, write_params
from .small import COMMON, TRAIN, batch, feed, job, rng
from .test_params import complaint
from .toy import load as parsed

METHOD = split_attention.METHOD
Options = split_attention.Options
NOISE = Plan("noise", split_attention.Noise())
SPLIT = Plan("split", split_attention.SplitNoise(drop=0.0))
FIG2FIG = Options(mode="fig2fig", sketch_threshold=0.5)


def base(**config) -> nn.Module:
    return _woken(small.build("split_attention", **config))


def split(**config) -> nn.Module:
    """Of the second stage, on the base that `base` makes, with terms that are zero."""
    torch.manual_seed(0)
    model = registry.built(small.setup("split_attention", "finetune", **config))
    model.base.load_state_dict(base(**config).state_dict())
    model.base.requires_grad_(False)
    return model


def _woken(model: nn.Module) -> nn.Module:
    """What is zero at first is not any more, so that it can be seen."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def denoised(model: nn.Module, given, options: Options = Options()) -> torch.Tensor:  # noqa: B008
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return split_attention.denoiser(model, given, options)(x, torch.full((4,), 1.5))


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def test_parts_have_the_published_sizes_at_the_published_widths():
    """16 cross-attentions of a Stable Diffusion U-Net on 1024 features: LoRA 1.32, 0.33 and 34.0 million, recovery
    75.8, sketch encoder 63.97."""
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    with torch.device("meta"):
        sixteen, four, half = ([LowRankLayer(c, 1024, r) for c in widths] for r in (16, 4, None))
        recovery = Recovery(256, 1024, 16, 6)
        stem = [(16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2), (320, 1)]
        sketch = SketchEncoder(3, stem, [(320, 2), (640, 2), (1280, 2), (1280, 1)])
    assert count(*sixteen) == sum(16 * (2 * c + 2 * (1024 + c)) for c in widths) == 1_323_008
    assert count(*four) == 1_323_008 // 4
    assert count(*half) == sum(c // 2 * 2 * c + min(c, 1024) * (1024 + c) for c in widths) == 34_021_376
    layer = 4 * 1024**2 + 2 * 4 * 1024**2 + 5 * 1024 + 4 * 1024
    assert count(recovery) == 256 * 1024 + 6 * layer == pytest.approx(75.8e6, rel=1e-3)
    assert count(sketch) == 63_970_960


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_network_that_says_what_is_wanted_of_it_denoises_wholly(prediction, monkeypatch):
    model, given, sigma = small.build("split_attention", prediction=prediction), batch(), torch.tensor([0.1, 1, 5, 14])
    noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(5))
    wanted = model.wanted(given.target, noise, sigma)
    monkeypatch.setattr(model, "predicted", lambda *_: wanted)
    noisy = given.target + sigma[:, None, None, None] * noise
    assert torch.allclose(model(noisy, sigma, given.sketch, None), given.target, atol=1e-5)


def test_the_velocity_is_the_slope_of_the_noisy_image_over_its_angle():
    """x_t = cos(a) y + sin(a) n, v = dx_t / da (Salimans & Ho 2022, appendix D)."""
    model = small.build("split_attention", prediction="velocity")
    clean, noise = torch.randn(2, 3, 3, 4, 4, dtype=torch.float64)
    angle, step = torch.tensor([0.2, 0.9, 1.5], dtype=torch.float64), 1e-6
    ahead, behind = ((angle + s)[:, None, None, None] for s in (step, -step))
    slope = ((ahead.cos() - behind.cos()) * clean + (ahead.sin() - behind.sin()) * noise) / (2 * step)
    assert torch.allclose(model.wanted(clean, noise, angle.tan()), slope, atol=1e-8)


def test_vanilla_is_bit_equal_with_the_terms_there_but_off():
    plain, both = base(), _woken(split())
    assert torch.equal(denoised(plain, batch()), denoised(both, batch()))
    assert not torch.equal(denoised(both, batch(), FIG2FIG), denoised(plain, batch()))


def test_without_a_cut_terms_of_zero_and_no_recovery_change_nothing():
    model = split()
    uncut = replace(batch(), reference_mask=torch.zeros(4, 1, 16, 16))
    off = FIG2FIG.model_copy(update={"recovery": False})
    assert torch.equal(denoised(model, uncut, off), denoised(model, uncut))
    model.recovery.forward = lambda tokens: tokens
    assert torch.equal(denoised(model, uncut, FIG2FIG), denoised(model, uncut))
    assert torch.equal(denoised(model, batch(), Options(mode="bg2fig", sketch_threshold=0.5)), denoised(model, batch()))
    model.figure[0].query.up.weight.data.fill_(0.3)
    assert not torch.equal(denoised(model, uncut, FIG2FIG), denoised(model, uncut))


@pytest.mark.parametrize(("inside", "matters", "idle"), [(1.0, "figure", "background"), (0.0, "background", "figure")])
def test_a_mask_of_one_kind_leaves_the_other_sides_tokens_and_terms_out(inside, matters, idle):
    model = _woken(split())
    given = replace(batch(), mask=torch.full((4, 1, 16, 16), inside))
    before = denoised(model, given, FIG2FIG)
    cut = replace(given, reference_mask=1 - given.reference_mask)  # changes the tokens of the background alone
    assert torch.equal(denoised(model, cut, FIG2FIG), before) == (matters == "figure")
    for parameter in getattr(model, idle).parameters():
        parameter.data.add_(1)
    assert torch.equal(denoised(model, given, FIG2FIG), before)
    for parameter in getattr(model, matters).parameters():
        parameter.data.add_(1)
    assert not torch.equal(denoised(model, given, FIG2FIG), before)


def test_each_position_takes_the_side_of_its_own_mask():
    """A deaf U-Net, but for its cross-attentions, and a mask of two halves: the halves are those of whole masks."""
    model = _woken(split())
    cross = model.base.network.crosses[0]
    given = batch()
    halves = torch.zeros(4, 1, 16, 16)
    halves[..., 8:] = 1
    x = torch.randn(4, cross.channels, 16, 16, generator=torch.Generator().manual_seed(1))
    ones, zeros = torch.ones_like(halves), torch.zeros_like(halves)
    seen = [split_attention.shown(model, replace(given, mask=m), FIG2FIG) for m in (halves, ones, zeros)]
    with torch.no_grad():
        both, figure, background = (cross(x, shown, 0) for shown in seen)
    assert torch.equal(both[..., 8:], figure[..., 8:]) and torch.equal(both[..., :8], background[..., :8])
    assert not torch.allclose(figure, background)


def test_thresholds_cut_mask_and_reference():
    model = _woken(split())
    given, options = batch(), FIG2FIG
    high = options.model_copy(update={"sketch_threshold": 1.0})
    none = replace(given, mask=torch.zeros(4, 1, 16, 16))
    assert torch.equal(denoised(model, given, high), denoised(model, none, options))
    whole = options.model_copy(update={"reference_threshold": 0.0})
    white = replace(given, reference_mask=torch.ones(4, 1, 16, 16))
    cut = model.background_tokens(given.reference, given.reference_mask, torch.zeros(4))
    assert torch.equal(cut, model.background_tokens(given.reference, white.reference_mask, torch.zeros(4)))
    blank = torch.ones_like(given.reference)
    assert torch.equal(cut, model.background_tokens(blank, white.reference_mask, torch.zeros(4)))
    assert not torch.equal(denoised(model, given, whole), denoised(model, given, options))


@pytest.mark.parametrize("mode", ["vanilla", "bg2fig", "fig2fig"])
def test_guidance_goes_from_what_is_not_shown_through_what_is(mode):
    model, given = _woken(split()), batch()
    options = Options(mode=mode, sketch_threshold=0.5)
    whole = denoised(model, given, options)
    none = denoised(model, given, options.model_copy(update={"guidance_scale": 0.0}))
    assert not torch.allclose(none, whole)
    # Without a reference no other reference matters.
    other = replace(given, reference=-given.reference)
    blind = options.model_copy(update={"guidance_scale": 0.0})
    assert torch.allclose(denoised(model, other, blind), none, atol=1e-5)
    threefold = denoised(model, given, options.model_copy(update={"guidance_scale": 3.0}))
    assert torch.allclose(threefold, none + 3 * (whole - none), atol=1e-4)
    unlined = denoised(model, given, options.model_copy(update={"sketch_guidance_scale": 0.0}))
    assert torch.allclose(unlined, denoised(model, replace(given, sketch=torch.ones(4, 1, 16, 16)), options), atol=1e-5)
    assert Options(guidance_scale=3.0).calls == 2 and Options().calls == 1


def test_the_share_of_hidden_references_falls_as_training_goes():
    model = base()
    hidden = {}
    for progress in (0.0, 0.5, 1.0):
        shares = []
        model.predicted = lambda x, sigma, sketch, shown, found=shares: (
            found.extend((shown.tokens == 0).all((1, 2)).tolist()),
            torch.zeros_like(x),
        )[1]
        for seed in range(60):
            METHOD.training_step(model, replace(batch(), progress=progress), NOISE, rng(seed), None)
        hidden[progress] = sum(shares) / len(shares)
    assert hidden == pytest.approx({0.0: 0.8, 0.5: 0.65, 1.0: 0.5}, abs=0.09)


def test_the_loop_says_how_far_it_is(tmp_path):
    seen = []

    def step(model, given, draws):
        seen.append(given.progress)
        return small.step(model, given, draws)

    model = small.build()
    state = loop.TrainState(model, small.alone(model, lambda b, r: step(model, b, r)), TRAIN, COMMON)
    loop.fit(state, feed(), None, 5, job(tmp_path), "key")
    assert seen == [i / 8 for i in range(8)]


def test_both_stages_learn_and_the_second_moves_its_own_alone():
    model = base(drop_first=0.0)
    losses = small.losses_of_training(METHOD, model, NOISE, 30, clip=1.0)
    assert losses[-1] < 0.8 * losses[0]
    model = split()
    before = {k: v.clone() for k, v in model.base.state_dict().items()}
    for _ in range(2):
        result = METHOD.training_step(model, batch(), SPLIT, rng(), None)
        result.loss.backward()
        with torch.no_grad():
            for parameter in loop.trainable(model):
                parameter -= 0.01 * parameter.grad
    assert all(torch.equal(v, before[k]) for k, v in model.base.state_dict().items())
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.split(".")[0] for name in moved} == {"figure", "background", "recovery", "threshold"}


def _trained(folder, stop_after: int | None = None) -> loop.TrainState | None:
    model, calls = split(), []

    def step(given, draws):
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        figure = (given.target[:, :1] + 1) / 2
        return METHOD.training_step(model, replace(given, mask=figure, reference_mask=figure), SPLIT, draws, None)

    state = loop.TrainState(model, small.alone(model, step), TRAIN, COMMON, frozen=("base.",))
    try:
        loop.fit(state, feed(), None, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None
    return state


def test_the_second_stage_resumes_bit_equal_and_stores_no_base(tmp_path):
    whole = _trained(tmp_path / "whole")
    assert _trained(tmp_path / "cut", stop_after=5) is None
    again = _trained(tmp_path / "cut")
    assert whole.ema.keys() == again.ema.keys() and not [k for k in whole.ema if k.startswith("base.")]
    assert all(torch.equal(v, again.ema[k]) for k, v in whole.ema.items())
    assert any((v != split().state_dict()[k]).any() for k, v in whole.ema.items())


@pytest.mark.parametrize(
    ("mode", "name"), [("vanilla", "dpmpp_2m"), ("bg2fig", "dpmpp_2m"), ("fig2fig", "dpmpp_2m"), ("fig2fig", "ddim")]
)
def test_colours_by_dpmpp_and_by_others(mode, name):
    model = _woken(split())
    how = Colour(sampler=Sampler(name=name, steps=3), options=Options(mode=mode, guidance_scale=2.0))
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    seen = []
    with torch.inference_mode():
        image = METHOD.colorize(model, batch(), small.same(noise), how, lambda sigma, x: seen.append(sigma))
    assert image.shape == (4, 3, 16, 16) and image.abs().max() <= 1 and len(seen) == 3


def test_first_stage_weights_know_one_mode():
    with pytest.raises(UserError, match=r"mode fig2fig.*finetuning"):
        denoised(base(), batch(), FIG2FIG)


@pytest.mark.parametrize("place", ["own", "borrowed", "validation"])
@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"mode": "fig2fig"}, {}, "mode: weights of pretrain have no split for fig2fig; colour with those of finetune"),
        ({"mode": "bg2fig"}, {}, "mode: weights of pretrain have no split for bg2fig; colour with those of finetune"),
        (
            {"sketch_guidance_scale": 2.0},
            {"drop_sketch": 0.0},
            "sketch_guidance_scale: these weights have never",
        ),
        ({"guidance_scale": 2.0}, {"drop_first": 0.0, "drop_last": 0.0}, "guidance_scale: these weights have never"),
    ],
)
def test_what_weights_cannot_do_is_refused_where_parameters_are_read(place, options, config, message):
    tree = miniature("demo-all")
    own = {k: v for k, v in tree["methods"]["split-attention"].items() if k != "finetune"} | {"config": config}
    how = {"sampler": {"name": "dpmpp_2m", "steps": 2}, "options": options}
    own["colour"] = {"pretrain": {"sampler": how["sampler"]}}
    tree["methods"] = {"split": own}
    assert parsed(tree)
    key = "split.colour.pretrain"
    if place == "own":
        own["colour"] = {"pretrain": how}
    elif place == "borrowed":
        borrower = {"kind": "split_attention", "label": "x", "weights": "split/pretrain", "colour": {"pretrain": how}}
        tree["methods"]["other"], key = borrower, "other.colour.pretrain"
    else:
        own["pretrain"]["validation"], key = {"every": 8, "colour": how}, "split.pretrain.validation.colour"
    assert f"methods.{key}.options.{message}" in complaint(tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"terms": False}, "mode: vanilla has"), ({"mode": "bg2fig", "recovery": False}, "recovery: bg2fig")],
)
def test_options_that_a_mode_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="heads: 3 does not divide width 8"):
        small.setup("split_attention", heads=3)
    with pytest.raises(ValueError, match=r"config\.patch: 4 does not divide data.size 18"):
        METHOD.fits(small.setup("split_attention").config, 18, small.SHARED)


# In latents


LATENT = {"encoder": "latent-cold/encoder", "latent_scale": 2.0}


def latent(**config) -> nn.Module:
    """Of the first stage, in the latents of an untrained autoencoder."""
    torch.manual_seed(0)
    setup = small.setup("split_attention", **LATENT, **config)
    codec = Part("", "", registry.described(small.setup("latent_cold", "encoder")))
    model = _woken(registry.built(replace(setup, needed={"codec": codec})))
    model.codec.requires_grad_(False)
    return model


def test_the_latent_network_has_other_ends_and_nothing_else_of_another_size():
    pixels, latents = base(), latent()
    stem_and_head = 2 * small.NETWORK.base + 1  # weights of a channel in and of one out, and its bias
    assert count(latents) - count(latents.codec) - count(pixels) == (latents.codec.code_size - 3) * stem_and_head
    maps = latents.network.sketch(batch().sketch)
    assert [m.shape[2:] for m in maps] == [(4, 4), (2, 2)]


def test_latents_are_scaled_diffused_and_decoded():
    model, given = latent(), batch()
    assert torch.equal(model.encoded(given.target), 2 * model.codec.encode(given.target))
    assert torch.allclose(
        model.decoded(model.encoded(given.target)), model.codec.decode(model.codec.encode(given.target))
    )
    asked = []
    model.predicted = lambda x, sigma, sketch, shown: (asked.append((x, sigma)), torch.zeros_like(x))[1]
    METHOD.training_step(model, given, NOISE, rng(), None)
    draws = rng()
    draws.uniform()
    clean, sigma = model.encoded(given.target), asked[0][1][:, None, None, None]
    assert torch.allclose(asked[0][0], clean + sigma * draws.normal(*clean.shape[1:]), atol=1e-5)
    # Who predicts the noise that leads to the target's latents paints the target as the autoencoder knows it.
    model.predicted = lambda x, sigma, sketch, shown: (x - clean) / sigma[:, None, None, None]
    seen = []
    with torch.inference_mode():
        how = Colour(sampler=Sampler(name="dpmpp_2m", steps=2), options=Options())
        image = METHOD.colorize(model, given, rng().normal, how, lambda sigma, x: seen.append(x))
    assert torch.allclose(image, model.codec.decode(model.codec.encode(given.target)), atol=1e-3)
    assert [x.shape for x in seen] == [given.target.shape] * 2


def _latent_tree() -> dict:
    tree = miniature("demo-all")
    methods = tree["methods"]
    methods["latent-cold"] = {k: v for k, v in methods["latent-cold"].items() if k != "pretrain"} | {"colour": {}}
    split = methods["split-attention"]
    split["config"] = small.CONFIGS["split_attention"] | LATENT
    split["colour"]["finetune"]["options"] = {"mode": "fig2fig", "guidance_scale": 2.0}
    tree["methods"] = {name: methods[name] for name in ("latent-cold", "split-attention")}
    return tree


def test_both_stages_train_in_latents_and_colour(house):
    tree = _latent_tree()
    write_params(house, tree)
    p, stages = params.load(), ("raw", "faces", "sketches", "references", "masks", "encoder", "pretrain", "finetune")
    found = {i.name: i for i in table.instances(p)}
    for instance in found.values():
        if instance.stage.name in stages or instance.name == "colorize-split-attention-finetune-seed-0-same":
            runner.run(p, instance)
    assert {"encoder-latent-cold-seed-0", "masks"} <= set(found["pretrain-split-attention-seed-0"].upstream)
    weights = {slot: Path(f"models/split-attention/{slot}/seed-0.safetensors") for slot in ("pretrain", "finetune")}
    names = {slot: set(checkpoints.read_tensors(path)[0]) for slot, path in weights.items()}
    assert not [k for k in names["pretrain"] if k.startswith("codec.")], "the autoencoder is stored once"
    assert not [k for k in names["finetune"] if k.startswith("base.")]
    loaded = load.trained(weights["finetune"], small.CPU, False)
    encoder = checkpoints.read_tensors(Path("models/latent-cold/encoder/seed-0.safetensors"))[0]
    assert all(torch.equal(v, encoder[k]) for k, v in loaded.model.base.codec.state_dict().items())
    assert "standard deviation of their latents" in Path("models/latent-cold/encoder/seed-0.json").read_text()
    images = artifacts.read_png_zip(Path("outputs/split-attention/finetune/seed-0/same.zip"))
    assert len(images) == 4 and {image.shape for image in images.values()} == {(16, 16, 3)}
    beside = weights["pretrain"].with_suffix(".json")
    beside.write_text(beside.read_text().replace('"mode": "vanilla"', '"mode": "fig2fig"'))
    with pytest.raises(UserError, match="no description of a model"):
        load.trained(weights["pretrain"], small.CPU, False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_scale": None}, "latent_scale: missing, and encoder is there"),
        ({"encoder": None}, "encoder: missing, and latent_scale is there"),
        ({"encoder": "nobody/encoder"}, "nobody/encoder is no training of these parameters"),
        (
            {"encoder": "split-attention/encoder"},
            "split-attention/encoder, its codec, is no autoencoder; name one of lat",
        ),
    ],
)
def test_latents_of_nothing_are_refused(config, message):
    tree = _latent_tree()
    own = tree["methods"]["split-attention"]
    own["config"] |= config
    if config.get("encoder") == "split-attention/encoder":
        own["encoder"] = own["pretrain"]
    assert message in complaint(tree)


def test_latents_are_a_quarter_that_the_network_can_halve():
    config = small.setup("split_attention", **LATENT).config
    METHOD.fits(config, 16, small.SHARED)
    with pytest.raises(ValueError, match=r"config\.encoder: data.size 20 is not divisible by 8"):
        METHOD.fits(config, 20, small.SHARED)
