"""A sweep: a grid over a method's block becomes a preset whose points repeat no more than they must, and a table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from ssimbad import artifacts
from ssimbad.errors import ParameterError
from ssimbad.metrics import measure
from ssimbad.params import tree as parameters
from ssimbad.params.view import View
from ssimbad.pipeline import rows, sweep, table
from ssimbad.reporting import sweep as sweep_table
from ssimbad.runtime.job import Job

from .conftest import miniature, write_params
from .test_reporting_tables import entry


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    write_params(tmp_path, miniature())
    return tmp_path


def laid(name: str) -> parameters.Params:
    return parameters.load(Path(f"presets/sweep-{name}.yaml"))


def trainings(p: parameters.Params) -> list[str]:
    return [f"{w['method']}/{w['stage']}" for w in rows.trained(p)]


def test_a_grid_over_the_last_training_shares_the_first(here):
    axes = {"finetune.learning_rate": "1.0e-3,2.0e-3", "finetune.images": "16,32"}
    said = sweep.run("rates", "ssimbad", axes, [0, 1])
    assert said.startswith("4 rows × 2 seeds -> presets/sweep-rates.yaml; `ssimbad preset sweep-rates`")
    p = laid("rates")
    assert p.seeds == [0, 1] and p.report.sweep == [f"ssimbad-0{i}" for i in (1, 2, 3, 4)]
    assert sorted(set(trainings(p))) == [
        "ssimbad-01/finetune", "ssimbad-02/finetune", "ssimbad-03/finetune", "ssimbad-04/finetune",
        "ssimbad/finetune", "ssimbad/pretrain",
    ]  # fmt: skip
    values = {n: p.methods[n].finetune for n in p.report.sweep}
    assert [(t.learning_rate, t.images) for t in values.values()] == [(1e-3, 16), (1e-3, 32), (2e-3, 16), (2e-3, 32)]
    assert {t.start for t in values.values()} == {"ssimbad/pretrain"}
    assert p.methods["ssimbad-04"].label == "SSIMBaD, finetune.learning_rate 0.002, finetune.images 32"
    assert "sweep" in {i.name for i in table.instances(p)}


def test_what_changes_the_first_training_repeats_all(here):
    sweep.run("drop", "ssimbad", {"config.drop": "0.0,0.1"})
    block = laid("drop").methods["ssimbad-02"]
    assert block.pretrain and block.finetune.start == "ssimbad-02/pretrain"
    sweep.run("first", "ssimbad", {"pretrain.learning_rate": "1.0e-3"})
    assert laid("first").methods["ssimbad-01"].finetune.start == "ssimbad-01/pretrain"


def test_a_grid_over_colouring_trains_nothing(here):
    sweep.run("steps", "ssimbad", {"colour.finetune.sampler.steps": "1,2,4"})
    p = laid("steps")
    assert set(trainings(p)) == {"ssimbad/pretrain", "ssimbad/finetune"}
    points = [p.methods[name] for name in p.report.sweep]
    assert [m.colour["finetune"].sampler.steps for m in points] == [1, 2, 4]
    assert {m.weights for m in points} == {"ssimbad/finetune"}


@pytest.mark.parametrize(
    ("name", "of", "axes", "says"),
    [
        ("Bad name", "ssimbad", {"pretrain.batch": "8"}, "^Bad name: no name of a sweep"),
        ("a", "ssimbat", {"pretrain.batch": "8"}, "^--of ssimbat: no method of params.yaml; there are ssimbad,"),
        ("a", "ssimbad", {}, "this one 0"),
        ("a", "ssimbad", {"pretrain.batch": "8," * 201}, "this one 201"),
        ("a", "ssimbad", {"data.size": "32"}, "^data.size: a sweep varies what stands below methods.ssimbad"),
        (
            "a",
            "ssimbad",
            {"pretrain.batsh": "8"},
            "methods.ssimbad-01.pretrain.batsh; did you mean 'batch'",
        ),
        ("a", "ssimbad", {"pretrain.batch": "eight"}, "methods.ssimbad-01.pretrain.batch"),
        ("a", "ssimbad", {"pretrain.batch": ""}, "^pretrain.batch=: expected values with commas between"),
        ("a", "ssimbad", {"pretrain.batch": "8]\nseeds: [1"}, "pretrain.batch"),
        ("a", "ssimbad", {"pretrain.batch": "8, ["}, "^pretrain.batch, line 1: not valid YAML"),
        ("a", "ssimbad", {"pretrain.images.x": "8"}, "^pretrain.images.x: methods.ssimbad has no block"),
    ],
)
def test_wrong_sweeps_are_one_line_and_write_nothing(here, name, of, axes, says):
    with pytest.raises(ParameterError, match=says.replace(".", r"\.")) as caught:
        sweep.run(name, of, axes)
    assert "\n" not in str(caught.value) and not list(Path("presets").iterdir())


def test_values_may_be_lists_and_labels_are_never_too_long(here):
    keys = (
        "finetune.learning_rate",
        "finetune.warmup_images",
        "finetune.images",
        "finetune.batch",
        "finetune.options.loss",
    )
    values = dict(zip(keys, ("1.0e-3", "8", "16", "8", "mse,ssim+l1"), strict=True))
    sweep.run("long", "ssimbad", values)
    labels = [laid("long").methods[name].label for name in laid("long").report.sweep]
    assert len(set(labels)) == 2 and all(len(label) <= 120 and label.startswith("SSIMBaD") for label in labels)
    tree = miniature("demo-ddpm")
    tree["report"]["reverse"] = None
    write_params(here, tree)
    sweep.run("lists", "ddpm-faces", {"config.multipliers": "[1, 2], [1, 4]"})
    p = laid("lists")
    assert [p.methods[name].config.multipliers for name in p.report.sweep] == [[1, 2], [1, 4]]


def test_another_sweep_of_that_name_is_kept(here):
    sweep.run("a", "ssimbad", {"finetune.images": "16"})
    assert sweep.run("a", "ssimbad", {"finetune.images": "16"}).startswith("1 rows")
    with pytest.raises(ParameterError, match="there already"):
        sweep.run("a", "ssimbad", {"finetune.images": "32"})


def tabled(here, levels, told):
    """The files of the table of a sweep of two rates and two seeds, measured by PSNR."""
    sweep.run("rates", "ssimbad", {"finetune.learning_rate": "1.0e-3,2.0e-3"}, [0, 1])
    p, files = laid("rates"), []
    for method, level in levels.items():
        for seed in p.seeds:
            base = here / f"{method}/finetune/seed-{seed}/same"
            artifacts.write_text(base.with_suffix(".csv"), f"id,psnr\na,{level + seed}\nb,{level + seed}\n")
            about = {"method": method, "stage": "finetune", "seed": seed, "setting": "same", "n": 2, "size": 16}
            artifacts.write_json(base.with_suffix(".json"), about | {"metrics": {"psnr": told(level + seed)}})
            files.append(base)
    outputs = {key: here / f"out{e}" for key, e in (("sweep", ".csv"), ("sweep_md", ".md"), ("sweep_tex", ".tex"))}
    inputs = {"summaries": [f.with_suffix(".json") for f in files], "images": [f.with_suffix(".csv") for f in files]}
    (instance,) = [i for i in table.instances(p) if i.name == "sweep"]
    sweep_table.run(View(p, instance.params), inputs, outputs, Job("sweep", here))
    return outputs


def test_a_table_without_a_single_value_names_the_points(here):
    outputs = tabled(here, {"ssimbad-01": 15.0, "ssimbad-02": 16.0}, lambda _: measure.missing(2, "no such value"))
    text = outputs["sweep_md"].read_text()
    assert "| 0.001 |" in text and "| 0.002 |" in text and "PSNR" not in text


def test_the_table_has_the_best_first_and_the_values_that_differ(here):
    outputs = tabled(here, {"ssimbad-01": 15.0, "ssimbad-02": 16.0}, entry)
    text = outputs["sweep_md"].read_text()
    assert "| finetune.learning_rate | PSNR (dB) ↑ |" in text and "over 2 seeds" in text
    assert text.index("| 0.002 | 16.50") < text.index("| 0.001 | 15.50")
    with outputs["sweep"].open(newline="") as file:
        assert {(x["method"], x["finetune.learning_rate"]) for x in csv.DictReader(file)} == {
            ("ssimbad-01", "0.001"), ("ssimbad-02", "0.002"),
        }  # fmt: skip


def test_points_that_are_no_rows_are_refused(here):
    wrong = yaml.safe_load(Path("params.yaml").read_text())
    wrong["report"]["sweep"] = ["ssimbad-07"]
    write_params(here, wrong)
    with pytest.raises(ParameterError, match=r"report\.sweep: 'ssimbad-07' is no method with a row"):
        parameters.load()
