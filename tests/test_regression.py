"""Regression: one call from sketch and reference to the image; and the presets that set it beside refinement."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ssimbad.errors import ParameterError
from ssimbad.methods import registry, regression
from ssimbad.methods.contract import Plan
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Network
from ssimbad.planning import flops
from ssimbad.reporting import compute

from .conftest import ROOT, bring, lived_in, miniature, write_params
from .small import batch, build, losses_of_training, rng, setup

PAPER = {"base": 64, "multipliers": [1, 2, 4, 8], "blocks": 2, "heads": 4, "embedding": 64, "groups": 32}


def test_it_is_the_shared_network_with_three_channels_less():
    with torch.device("meta"):
        papers = replace(setup("regression"), shared={"network": Network(**PAPER)})
        count = sum(p.numel() for p in registry.built(papers).parameters())
    assert count == 52_301_251 - 3 * 64


def test_its_answer_needs_no_noise_and_both_conditions():
    model, given = build("regression"), batch()

    def none(*shape):
        raise AssertionError("asked for noise")

    def image(given):
        return regression.colorize(model, given, none, Colour(), None)

    assert image(given).shape == given.target.shape and image(given).abs().max() <= 1
    assert not torch.equal(image(given), image(replace(given, sketch=-given.sketch)))
    assert not torch.equal(image(given), image(replace(given, reference=-given.reference)))


@pytest.mark.parametrize("loss", ["mse", "ssim+l1"])
def test_a_few_steps_lower_the_loss(loss):
    plan = Plan("direct", regression.Direct(loss=loss))
    losses = losses_of_training(regression.METHOD, build("regression"), plan, steps=30)
    assert losses[-1] < 0.7 * losses[0]


def test_every_weight_is_used():
    model = build("regression")
    plan = Plan("direct", regression.Direct())
    regression.training_step(model, batch(), plan, rng()).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_lpips_asks_for_its_network_and_a_sampler_is_refused():
    tree = miniature()
    tree["methods"]["regression"]["pretrain"]["options"] = {"loss": "lpips"}
    with pytest.raises(ParameterError, match=r"weights\.alexnet"):
        params.parse(yaml.safe_dump(tree))
    tree = miniature()
    tree["methods"]["regression"]["colour"]["pretrain"]["sampler"] = {"name": "euler", "steps": 1}
    with pytest.raises(ParameterError, match=r"methods\.regression\.colour\.pretrain\.sampler.*one pass"):
        params.parse(yaml.safe_dump(tree))
    tree = miniature()
    tree["methods"]["regression"]["pretrain"]["options"] = {"sampler": {"name": "euler", "steps": 1}}
    with pytest.raises(ParameterError, match=r"methods\.regression\.pretrain\.options\.sampler: unknown key"):
        params.parse(yaml.safe_dump(tree))


def test_one_answer_has_no_mean_of_several():
    tree = miniature()
    tree["methods"]["regression"]["colour"]["pretrain"]["samples"] = 4
    with pytest.raises(ParameterError, match=r"methods\.regression\.colour\.pretrain\.samples.*one answer"):
        params.parse(yaml.safe_dump(tree))


def work(p: params.Params) -> dict[tuple[str, str], float]:
    rows = [(m, s) for m, block in p.methods.items() for s in ("pretrain", "finetune") if s in block.colour]
    return {row: compute.effort(p, *row)["pflop"] for row in rows}


@pytest.mark.parametrize(
    ("preset", "equal"), [("demo-seeds", "ssimbad-control/finetune"), ("demo-all", "ssimbad/pretrain")]
)
def test_regressions_have_the_work_of_the_refined_row_and_of_one_trained_without_its_chain(preset, equal):
    p = params.load(ROOT / f"presets/{preset}.yaml")
    method, _, stage = equal.partition("/")
    pairs = [
        {("ssimbad", "finetune"), ("regression-compute", "pretrain")},
        {(method, stage), ("regression", "pretrain")},
    ]
    found = {row: compute.effort(p, *row)["pflop"] for pair in pairs for row in pair}
    together = [set(group) for group in compute.groups(found)]
    assert all(pair in together for pair in pairs)
    images = {row: compute.effort(p, *row)["images"] for row in pairs[1]}
    assert len(set(images.values())) == 1


def test_chains_of_all_lengths_take_equal_work():
    p = params.load(ROOT / "presets/demo-chain-steps.yaml")
    found = work(p)
    alike = {(name, "finetune") for name in p.report.chain_steps} | {("regression", "pretrain")}
    assert [set(group) for group in compute.groups(found)] == [{("ssimbad", "pretrain")}, alike]
    lengths = [flops.training(p, n, "finetune").chain for n in p.report.chain_steps]
    assert lengths == [1, 2, 4, 8, 16]
    assert len(p.seeds) == 3


def test_equal_work_stands_together():
    assert compute.groups({("a", "x"): 2.0, ("b", "x"): 1.0, ("c", "x"): 1.01}) == [
        [("b", "x"), ("c", "x")], [("a", "x")],
    ]  # fmt: skip


@pytest.mark.parametrize("names", [["regression"], ["nobody"], ["ssimbad-control"]])
def test_only_refined_methods_are_chains(names):
    tree = miniature()
    tree["report"]["chain_steps"] = names
    with pytest.raises(ParameterError, match=f"report.chain_steps: '{names[0]}'"):
        params.parse(yaml.safe_dump(tree))


def test_every_kind_offers_what_the_registry_asks():
    assert "regression" in registry.kinds()


def test_references_that_show_companions_make_other_weights_and_concern_no_method_without_references(tmp_path):
    stages = ("raw", "faces", "sketches", "references", "pretrain")
    tree = miniature("demo-all")
    tree["methods"] = {name: tree["methods"][name] for name in ("regression", "ddpm-faces")}
    weights = {name: Path(f"models/{name}/pretrain/seed-0.safetensors") for name in tree["methods"]}
    with lived_in(tmp_path / "house", tree, only=stages) as house:
        plain = {name: path.read_bytes() for name, path in weights.items()}
        tree["references"]["companions"] = 0.5
        write_params(house, tree)
        bring(params.load(), only=stages)
        assert weights["regression"].read_bytes() != plain["regression"]
        assert weights["ddpm-faces"].read_bytes() == plain["ddpm-faces"]
