"""A row is not a training: how weights colour can be changed, and borrowed, without training anything."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from ssimbad import artifacts
from ssimbad.colorize.chunks import mean_image
from ssimbad.params import tree as params
from ssimbad.pipeline import records, table

from .conftest import bring, make_house, miniature, write_params
from .test_params import complaint
from .toy import load

BORROWER = {
    "kind": "ssimbad",
    "label": "SSIMBaD, mean of 3 samples",
    "weights": "ssimbad/pretrain",
    "colour": {"pretrain": {"sampler": {"name": "euler", "steps": 3}, "samples": 3}},
}


def borrowed() -> dict:
    tree = miniature()
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    tree["methods"]["ssimbad-mean"] = copy.deepcopy(BORROWER)
    return tree


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """One pipeline with a row of borrowed weights, run to its end."""
    folder = make_house(tmp_path_factory.mktemp("borrowed") / "house", borrowed())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SSIMBAD_DEVICE", "cpu")
        bring(params.load())
    return folder


@pytest.fixture
def house(finished, monkeypatch) -> Path:
    """The current directory, its parameters as they were."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    write_params(finished, borrowed())
    return finished


def test_a_row_with_borrowed_weights_trains_nothing_and_carries_their_stage():
    p = load(borrowed())
    found = {i.name: i for i in table.instances(p)}
    trainings = {i.stage.name for i in found.values() if i.wildcards.get("method") == "ssimbad-mean"}
    assert trainings == {"colorize", "evaluate"}
    colorize = found["colorize-ssimbad-mean-pretrain-seed-0-same"]
    assert colorize.inputs["weights"] == "models/ssimbad/pretrain/seed-0.safetensors"
    assert colorize.outputs == {"images": "outputs/ssimbad-mean/pretrain/seed-0/same.zip"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "ssimbat/pretrain"}, "methods.borrower.weights: ssimbat/pretrain is no training"),
        ({"weights": "ssimbad"}, "methods.borrower.weights: String should match pattern"),
        ({"kind": "edm"}, "methods.borrower.kind: the weights ssimbad/pretrain are of kind ssimbad"),
        ({"config": {"phi": "selected"}}, "methods.borrower.config: belongs to the training"),
        ({"colour": {}}, "methods.borrower.colour: missing"),
        ({"colour": {"finetune": BORROWER["colour"]["pretrain"]}}, "methods.borrower.colour: no weights of stage"),
        ({"colour": {"pretrain": {}}}, "methods.borrower.colour.pretrain.sampler: missing"),
        ({"colour": {"pretrain": {"samples": 0}}}, "samples"),
        ({"colour": {"pretrain": {"options": {"mode": "x"}}}}, "colour.pretrain.options.mode: unknown key"),
        ({"pretrain": miniature()["methods"]["ssimbad"]["pretrain"]}, "a method that trains does not borrow"),
    ],
)
def test_impossible_borrowers(change, said):
    tree = borrowed()
    tree["methods"]["borrower"] = BORROWER | change
    assert said in complaint(tree)


def test_borrowing_from_a_borrower_is_refused():
    tree = borrowed()
    tree["methods"]["third"] = BORROWER | {"weights": "ssimbad-mean/pretrain"}
    assert "methods.third.weights: ssimbad-mean/pretrain is no training" in complaint(tree)


def test_samples_of_a_method_with_one_answer_are_refused():
    tree = miniature()
    tree["methods"]["regression"]["colour"]["pretrain"] = {"samples": 4}
    assert "methods.regression.colour.pretrain.samples: kind regression has one answer" in complaint(tree)


@pytest.mark.parametrize(("one", "other"), [("pretrain", "finetune"), ("finetune", "pretrain")])
def test_a_training_may_start_from_any_other_but_not_from_itself(one, other):
    tree = borrowed()
    ssimbad = tree["methods"]["ssimbad"]
    ssimbad[one]["start"], ssimbad[other]["start"] = f"ssimbad/{other}", None
    assert load(tree)
    ssimbad[other]["start"] = f"ssimbad/{one}"
    assert "it would be made from itself" in complaint(tree)


def test_a_pretraining_may_start_from_another_methods_finetuning():
    tree = borrowed()
    tree["methods"]["again"] = {
        "kind": "ssimbad", "label": "again", "config": {"phi": "selected"},
        "pretrain": tree["methods"]["ssimbad"]["pretrain"] | {"start": "ssimbad/finetune"},
    }  # fmt: skip
    names = [i.name for i in table.instances(load(tree))]
    assert names.index("finetune-ssimbad-seed-0") < names.index("pretrain-again-seed-0")


@pytest.mark.parametrize(
    ("key", "value"),
    [("sampler", {"name": "heun", "steps": 3}), ("sampler", {"name": "euler", "steps": 5}), ("samples", 2)],
)
def test_a_changed_row_makes_only_its_colouring_and_what_follows_stale(house, key, value):
    tree = borrowed()
    assert not any(records.survey(params.load()).values())
    tree["methods"]["ssimbad-mean"]["colour"]["pretrain"][key] = value
    write_params(house, tree)
    stale = {name.split("-")[0] for name, reason in records.survey(params.load()).items() if reason}
    assert stale == {"colorize", "evaluate", "tables", "figures", "compute"}
    assert {
        name for name, reason in records.survey(params.load()).items() if reason and name.startswith("colorize")
    } == {f"colorize-ssimbad-mean-pretrain-seed-0-{setting}" for setting in ("same", "cross", "other")}


def test_the_answer_of_several_samples_is_their_mean_and_the_table_says_so(house):
    """The first sample is that of the row with one."""
    tree = borrowed()
    tree["methods"]["ssimbad"]["colour"]["pretrain"] = {"sampler": {"name": "euler", "steps": 3}}
    write_params(house, tree)
    bring(params.load())
    one, mean = (
        artifacts.read_png_zip(Path(f"outputs/{name}/pretrain/seed-0/same.zip")) for name in ("ssimbad", "ssimbad-mean")
    )
    assert any((one[i] != mean[i]).any() for i in one)
    text = Path("reports/tables/main.md").read_text()
    assert "Coloured by euler in 3 steps, the mean of 3 samples. Weights of ssimbad/pretrain." in text
    cost = json.loads(Path("work/cost/colorize-ssimbad-mean-pretrain-seed-0-same.json").read_text())
    assert cost["nfe"] == 9
    work = {row["method"]: row for row in artifacts_rows("reports/tables/compute.csv") if row["stage"] == "pretrain"}
    assert work["ssimbad"]["pflop"] == work["ssimbad-mean"]["pflop"]
    assert (work["ssimbad"]["nfe"], work["ssimbad-mean"]["nfe"]) == ("3", "9")


def artifacts_rows(path):
    import csv

    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_mean_of_images_is_rounded_once():
    samples = [np.full((1, 2, 2, 3), value, np.uint8) for value in (0, 1, 1)]
    assert (mean_image(samples) == 1).all()
    assert mean_image(samples[:1]) is samples[0]


def test_a_wrong_objective_names_those_of_the_kind():
    tree = miniature()
    tree["methods"]["ssimbad"]["pretrain"]["objective"] = "denoise"
    said = "methods.ssimbad.pretrain.objective: kind ssimbad has no objective 'denoise'; it has denoising, trajectory"
    assert said in complaint(tree)
