"""Every row of the main table through the miniature, in one process: training, colouring, tables, figures."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace

import pytest
import torch
import yaml

from ssimbad.colorize import load, spread
from ssimbad.errors import ParameterError
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics import test_set
from ssimbad.params import tree as params
from ssimbad.params.view import View
from ssimbad.pipeline import export, rows, table
from ssimbad.reporting import compare, compute
from ssimbad.runtime.job import Job

from .conftest import ROOT, lived_in, miniature, preset_tree, write_params

FREE = {("ddpm-faces", "pretrain"), ("ddpm-faces-posterior", "pretrain")}
DDPM = FREE | {("ddpm-faces-sdedit", "pretrain")}
ROWS = {
    *DDPM,
    *[("scft", "pretrain"), ("edm", "pretrain"), ("edm", "finetune"), ("ssimbad", "pretrain")],
    *[("animediffusion", "pretrain"), ("animediffusion", "finetune")],
    *[("animediffusion-trajectory", "finetune"), ("ssimbad", "finetune"), ("ssimbad-guided", "finetune")],
    *[("regression", "pretrain"), ("regression-compute", "pretrain")],
    *[("scft-sga", "pretrain"), ("coloring-assistant", "pretrain"), ("coloring-assistant", "finetune")],
    *[("coloring-assistant-inversion", "pretrain"), ("coloring-assistant-qsample", "finetune")],
    *[("latent-cold", "pretrain"), ("latent-cold-oneshot", "pretrain"), ("latent-cold-untimed", "pretrain")],
    ("latent-cold-grey", "pretrain"),
    *[(f"split-attention{mode}", "finetune") for mode in ("", "-bg2fig", "-fig2fig", "-bare", "-terms")],
}
ONE_CALL = {"scft", "scft-sga", "regression", "regression-compute", "latent-cold-oneshot"}
RESTORED = {("latent-cold-grey", "pretrain")}
SAMPLED = {row for row in ROWS - FREE if row[0] not in ONE_CALL and not row[0].startswith("latent-cold")}
"""By a sampler of x = y + sigma·n, from noise."""
INVERTED = {("coloring-assistant", "finetune"), ("coloring-assistant-inversion", "pretrain")}
"""They start from the reference's inversion, a call for each step but one, and from no noise."""
OWN = {row for row in ROWS if row[0].startswith(("coloring-assistant", "scft-sga", "latent-cold", "split-attention"))}
"""At demo scale alone."""


def tree() -> dict:
    small = miniature("demo-all")
    small["report"] |= {"ladder": ["edm", "ssimbad"], "chain_steps": ["edm", "ssimbad"]}
    small["report"]["nfe"] = {
        "calls": [2, 3],
        "samplers": [{"name": "heun"}, {"name": "ddim", "eta": 1.0}],
        "images": 4,
    }
    return small


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Everything that the parameters ask for, brought up to date by the runner."""
    with lived_in(tmp_path_factory.mktemp("rows"), tree()) as folder:
        yield folder


def of(lines, row):
    """Those of one row."""
    return [x for x in lines if (x["method"], x["stage"]) == row]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_main_table_has_every_row_in_all_settings(house):
    lines = read(house / "reports/tables/main.csv")
    seen = {(x["method"], x["stage"], x["setting"]) for x in lines}
    settings = [(*row, setting) for row in ROWS - RESTORED - FREE for setting in ("same", "cross", "cross-true")]
    assert seen == {*settings, *((*row, "restored") for row in RESTORED), *((*row, "free") for row in FREE)}
    with_published = {(x["method"], x["stage"]) for x in lines if x["published"]}
    assert with_published == ROWS - {
        ("edm", "pretrain"), ("edm", "finetune"), ("animediffusion-trajectory", "finetune"),
        ("regression", "pretrain"), ("regression-compute", "pretrain"), ("ssimbad-guided", "finetune"), *OWN, *DDPM,
    }  # fmt: skip


def test_missing_terms_of_scft_are_in_the_record_and_under_the_table(house):
    made = json.loads((house / "models/scft/pretrain/seed-0.json").read_text())
    assert "perceptual and style" in made["remarks"][0]
    text = (house / "reports/tables/main.md").read_text()
    assert "| SCFT (a) (b) | reproduced" in text
    assert f"- (b) {made['remarks'][0]}" in text
    assert "but for latent-cold 16 in encoder" in text


def test_what_trainings_say_of_themselves_has_a_table(house):
    lines = read(house / "reports/tables/measures.csv")
    told = {(x["method"], x["stage"]) for x in lines}
    assert told == {("latent-cold", "encoder"), *((f"latent-cold{x}", "pretrain") for x in ("", "-untimed", "-grey"))}
    made = json.loads((house / "models/latent-cold/encoder/seed-0.json").read_text())["measures"]
    assert {x["measure"]: float(x["value"]) for x in lines if x["stage"] == "encoder"} == pytest.approx(made, rel=1e-4)
    assert 1 <= made["codes used by them, of 16"] <= 16
    text = (house / "reports/tables/measures.md").read_text()
    assert "Latent cold diffusion: autoencoder" in text and "MAPE of latents, %, one_shot" in text
    others = json.loads((house / "models/edm/pretrain/seed-0.json").read_text())
    assert "measures" not in others


def test_grey_faces_are_restored_with_the_other_rows_autoencoder_and_shown_apart(house):
    made = json.loads((house / "models/latent-cold-grey/pretrain/seed-0.json").read_text())
    assert made["setup"]["needed"]["encoder"]["weights"] == "models/latent-cold/encoder/seed-0.safetensors"
    outputs = house / "outputs/latent-cold-grey/pretrain/seed-0"
    assert [path.name for path in outputs.iterdir()] == ["restored.zip"]
    summary = json.loads((house / "reports/metrics/latent-cold-grey/pretrain/seed-0/restored.json").read_text())
    assert summary["metrics"]["line_fidelity"]["reason"] == "no sketch given"
    assert 0 < summary["metrics"]["mse"]["value"] < 4 and summary["metrics"]["pixel_mmd"]["value"] is not None
    assert (house / "reports/figures/qualitative_restored.png").read_bytes()[:4] == b"\x89PNG"
    text = (house / "reports/tables/main.md").read_text()
    assert "the face itself, restored from a degraded copy" in text


def test_a_row_is_exported_whole_and_compared_from_there(house):
    p = params.load()
    said = export.run(p, "ssimbad-guided/finetune", house / "guided.zip", weights=True)
    assert said.startswith("ssimbad-guided/finetune: ") and said.endswith(f"-> {house / 'guided.zip'}")
    with zipfile.ZipFile(house / "guided.zip") as archive:
        names = archive.namelist()
        about = json.loads(archive.read("run.json"))
        for name in names[1:]:
            assert archive.read(name) == (house / name).read_bytes()
    assert about["row"] == "ssimbad-guided/finetune" and about["weights"] == [
        "models/ssimbad/finetune/seed-0.safetensors"
    ]
    assert {"params.yaml", "records/faces.json", "records/pretrain-ssimbad-seed-0.json"} <= set(names)
    assert "outputs/ssimbad-guided/finetune/seed-0/cross.zip" in names and not [n for n in names if "edm" in n]
    same = compare.run("ssimbad-guided/finetune", f"@{house / 'guided.zip'}", metric="psnr", setting="same")
    assert "+0.00 [+0.00, +0.00]" in same
    with pytest.raises(ParameterError, match=r"guided\.zip: there already"):
        export.run(p, "ssimbad-guided/finetune", house / "guided.zip")
    with pytest.raises(ParameterError, match=r"^ssimbad-guide/finetune: no row of .*; there are scft/pretrain"):
        export.run(p, "ssimbad-guide/finetune", house / "other.zip")


def test_curves_tell_of_both_players(house):
    names = {x["name"] for x in read(house / "models/scft/pretrain/seed-0.csv")}
    assert {"loss", "loss_reconstruction", "loss_triplet", "loss_adversarial", "discriminator_loss"} <= names


def test_refinement_starts_from_the_rows_own_pretraining(house):
    p = params.parse(yaml.safe_dump(tree()))
    starts = {i.wildcards["method"]: i.inputs.get("start") for i in table.instances(p) if i.stage.name == "finetune"}
    assert starts["animediffusion-trajectory"] == "models/animediffusion/pretrain/seed-0.safetensors"
    assert starts["edm"] == "models/edm/pretrain/seed-0.safetensors"


def test_the_ladder_shows_what_differs_and_by_how_much(house):
    lines = read(house / "reports/tables/ladder.csv")
    first, last = ([x for x in lines if (x["method"], x["metric"]) == (m, "psnr")] for m in ("edm", "ssimbad"))
    assert [x["setting"] for x in first] == ["same", "cross", "cross-true"]
    assert (first[0]["sigma_density"], last[0]["sigma_density"]) == ("log_normal", "phi")
    assert (first[0]["loss_weight"], last[0]["loss_weight"]) == ("edm", "none")
    assert first[0]["previous_difference"] == ""
    for step in ("previous", "first"):
        gap = float(last[0]["value"]) - float(first[0]["value"])
        assert float(last[0][f"{step}_difference"]) == pytest.approx(gap, abs=2e-4)
        assert float(last[0][f"{step}_low"]) <= gap <= float(last[0][f"{step}_high"])
    text = (house / "reports/tables/ladder.md").read_text()
    assert "16 images seen, 1 seed." in text
    assert "One seed: an interval" in text


def test_quality_against_calls_stays_within_its_limits(house):
    lines = read(house / "reports/tables/nfe.csv")
    assert {(x["method"], x["stage"]) for x in lines} == SAMPLED
    assert len(lines) == len(SAMPLED) * 2 * 2 * 2  # samplers, limits, metrics
    found = {row: {(x["sampler"], x["calls"], x["steps"], x["nfe"]) for x in of(lines, row)} for row in SAMPLED}
    from_noise = {
        ("heun", "2", "1", "1"), ("heun", "3", "2", "3"),
        ("ddim, eta 1", "2", "2", "2"), ("ddim, eta 1", "3", "3", "3"),
    }  # fmt: skip
    from_inversion = {
        ("heun", "2", "1", "1"), ("heun", "3", "1", "1"),
        ("ddim, eta 1", "2", "1", "1"), ("ddim, eta 1", "3", "2", "3"),
    }  # fmt: skip
    guided = {  # by a second call for each
        ("heun", "2", "1", "2"), ("heun", "3", "1", "2"),
        ("ddim, eta 1", "2", "1", "2"), ("ddim, eta 1", "3", "1", "2"),
    }  # fmt: skip
    expected = dict.fromkeys(SAMPLED, from_noise) | dict.fromkeys(INVERTED, from_inversion)
    expected |= {row: guided for row in SAMPLED if row[0].startswith("split-attention")}
    assert found == expected
    assert (house / "reports/figures/nfe.png").read_bytes()[:4] == b"\x89PNG"


def test_at_a_rows_own_sampler_the_curve_meets_the_table(house):
    own = tree()["methods"]["animediffusion"]["colour"]["pretrain"]["sampler"]
    assert own == {"name": "ddim", "eta": 1.0, "steps": 2}
    table_ = json.loads((house / "reports/metrics/animediffusion/pretrain/seed-0/same.json").read_text())["metrics"]
    own = ("animediffusion", "pretrain", "ddim, eta 1", "2")
    lines = {
        x["metric"]: x
        for x in read(house / "reports/tables/nfe.csv")
        if (x["method"], x["stage"], x["sampler"], x["calls"]) == own
    }
    for metric in ("psnr", "ms_ssim"):
        assert float(lines[metric]["value"]) == pytest.approx(table_[metric]["value"], abs=1e-4)


def test_spread_is_told_of_every_row_that_starts_from_noise(house):
    lines = read(house / "reports/tables/spread.csv")
    assert {(x["method"], x["stage"]) for x in lines} == SAMPLED
    shares = {(x["method"], x["stage"]): float(x["value"]) for x in lines if x["metric"] == "share"}
    assert len(shares) == len(SAMPLED) and all(share < 1 for share in shares.values())
    assert {row for row, share in shares.items() if share == 0} == INVERTED, "an answer that knows no noise is one"
    for row in SAMPLED - INVERTED:
        psnr = [x for x in lines if (x["method"], x["stage"], x["metric"]) == (*row, "psnr")]
        scores = {x["answer"]: float(x["value"]) for x in psnr}
        assert scores["sample"] < scores["mean"] < scores["bias"]


def test_one_step_is_the_same_whatever_the_sampler(house):
    """One step of Heun's is Euler's and DDIM's, from the same noise."""
    curves = {
        (x["method"], x["stage"], x["metric"]): x["value"]
        for x in read(house / "reports/tables/nfe.csv")
        if (x["sampler"], x["steps"]) == ("heun", "1")
    }
    lines = [x for x in read(house / "reports/tables/spread.csv") if x["answer"] == "one_step"]
    assert len(lines) == len(curves)
    for x in lines:
        assert float(x["value"]) == pytest.approx(float(curves[x["method"], x["stage"], x["metric"]]), abs=1e-3)


def test_the_first_sample_is_the_rows_own_and_no_two_are_equal(house, tmp_path, monkeypatch):
    tree_ = tree()
    tree_["report"]["spread"] = {"samples": 3, "images": 3}
    p = params.parse(yaml.safe_dump(tree_))
    instance = next(i for i in table.instances(p) if i.name == "spread-ssimbad-finetune-seed-0")
    inputs = {name: house / path for name, path in instance.inputs.items()}
    seen = []
    monkeypatch.setattr(spread, "lines", lambda one_step, samples, *_: seen.extend([*samples, one_step]) or [])
    job = Job("spread", tmp_path, method="ssimbad", of="finetune", seed=0)
    spread.run(View(p, instance.params), inputs, {"values": tmp_path / "values.csv"}, job)
    own = test_set.by_id(inputs["images"], manifest.ids(inputs["manifest"], "test"), p.data.size)
    assert (seen[0] == own[:3]).all()
    assert len({images.tobytes() for images in seen}) == 4


def test_samples_do_not_depend_on_how_many_cores_were_granted(house, tmp_path, monkeypatch):
    """A network computes other last bits with other threads, which turn a byte in some tens of thousands."""
    p = params.parse(yaml.safe_dump(tree()))
    instance = next(i for i in table.instances(p) if i.name == "spread-edm-pretrain-seed-0")
    inputs = {name: house / path for name, path in instance.inputs.items()}
    edm, seen = registry.get("edm"), set()

    def watched(*given):
        seen.add(torch.get_num_threads())
        return edm.colorize(*given)

    monkeypatch.setattr(load.Trained, "method", replace(edm, colorize=watched))
    before = torch.get_num_threads()
    job = Job("spread", tmp_path, threads=3, method="edm", of="pretrain", seed=0)
    spread.run(View(p, instance.params), inputs, {"values": tmp_path / "values.csv"}, job)
    torch.set_num_threads(before)
    assert seen == {1}
    assert (tmp_path / "values.csv").read_bytes() == (house / instance.outputs["values"]).read_bytes()


def test_the_compute_table_has_every_row_and_the_work_of_its_chain(house):
    lines = read(house / "reports/tables/compute.csv")
    assert {(x["method"], x["stage"]) for x in lines} == ROWS
    work = {(x["method"], x["stage"]): (int(x["images"]), int(x["chain"]), int(x["nfe"])) for x in lines}
    assert work["edm", "pretrain"] == (16, 1, 2)
    assert work["edm", "finetune"] == (32, 2, 2)
    assert work["regression", "pretrain"] == (16, 1, 1)
    pflop = {(x["method"], x["stage"]): float(x["pflop"]) for x in lines}
    assert pflop["edm", "finetune"] == pytest.approx(3 * pflop["edm", "pretrain"], rel=0.01)
    assert (house / "reports/figures/chain_steps.png").stat().st_size > 5000
    assert "equal work" in (house / "reports/tables/compute.md").read_text()


def test_cost_names_parameters_and_calls_of_every_row(house):
    measured = [json.loads(path.read_text()) for path in (house / "work/cost").glob("*.json")]
    calls = {(m["method"], m["nfe"]) for m in measured if m["phase"] == "colorize"}
    own = dict.fromkeys(ROWS, 2) | dict.fromkeys(INVERTED, 3) | {row: 1 for row in ROWS if row[0] in ONE_CALL}
    own |= {row: 4 for row in ROWS if row[0].startswith("split-attention")}  # each guided by a second call
    assert calls == {(method, count) for (method, _), count in own.items()}
    assert all(m["parameters"] > 1000 for m in measured)


def test_demo_presets_differ_in_their_rows_only():
    demo, *others = (
        preset_tree(name)
        for name in ("demo", "demo-all", "demo-ladder", "demo-seeds", "demo-chain-steps", "demo-coloring-assistant")
    )
    for other in others:
        for key in demo.keys() - {"preset", "seeds", "methods", "weights", "report", "network"}:
            assert other[key] == demo[key], key
        attending = demo["network"]["attention"] if other["preset"] == "demo-seeds" else []
        assert other["network"] == demo["network"] | {"attention": attending}
        for name in ("enabled", "inception", "alexnet"):
            assert other["weights"][name] == demo["weights"][name]
    rows, calls = (preset_tree(name) for name in ("demo-all", "demo-nfe"))
    assert calls["report"].pop("nfe") and calls.pop("preset") != rows.pop("preset")
    assert calls == rows, "presets/demo-nfe.yaml is demo-all and report.nfe"
    assert set(table_rows("demo-all")) == ROWS
    latent = {row for row in ROWS if row[0].startswith("latent-cold")}
    modes = {(f"split-attention{mode}", "finetune") for mode in ("", "-bg2fig", "-fig2fig")}
    assert set(table_rows("paper")) == ROWS - OWN - DDPM | latent | modes | {("ssimbad-control", "finetune")}
    assert set(table_rows("sources")) >= DDPM


def test_the_demos_rows_with_seeds_are_the_demos():
    demo, seeds = (preset_tree(name)["methods"] for name in ("demo", "demo-seeds"))
    assert {name: seeds[name] for name in demo} == demo, "presets/demo-seeds.yaml is the demo and two regressions"
    assert set(seeds) - set(demo) == {"regression", "regression-compute"}


def test_the_frontier_departs_from_the_demos_refined_row():
    demo, frontier = (preset_tree(name)["methods"] for name in ("demo", "demo-frontier"))
    assert frontier["pretrained-1024"]["pretrain"] == demo["ssimbad"]["pretrain"]
    row, refined = frontier["two-steps"]["finetune"], demo["ssimbad"]["finetune"]
    assert {k: v for k, v in row.items() if k != "start"} == {
        k: v for k, v in refined.items() if k not in ("start", "validation")
    }


def test_the_frontiers_rows_take_equal_work_unless_their_label_says_otherwise():
    p = params.load(ROOT / "presets/demo-frontier.yaml")
    work = {row: compute.effort(p, *row)["pflop"] for row in table_rows("demo-frontier")}
    equal = work["two-steps", "finetune"]
    unequal = {("pretrained-1024", "pretrain"), ("half-long", "finetune"), ("twice-long", "finetune")}
    assert {row for row, pflop in work.items() if abs(pflop / equal - 1) > compute.EQUAL} == unequal


def table_rows(preset: str) -> list[tuple[str, str]]:
    return [(w["method"], w["stage"]) for w in rows.listed(params.load(ROOT / f"presets/{preset}.yaml"))]


def test_the_demos_rows_see_equal_numbers_of_images():
    p = params.load(ROOT / "presets/demo-all.yaml")
    trains = [t for m in p.methods.values() for slot, t in m.trainings.items() if slot != "encoder"]
    more = p.methods["regression-compute"].pretrain  # at equal work instead: an image of a chain is as many calls
    fewer = [m.pretrain for m in p.methods.values() if m.kind.startswith("latent_cold")]
    fewer += [p.methods["split-attention"].finetune]  # besides those of its base
    fewer += [p.methods["coloring-assistant"].pretrain]
    assert {t.images for t in trains if not t.start and t is not more and t not in fewer} == {5632}
    assert {t.images for t in fewer if t} == {2816}, "the note under the main table names them"
    assert {t.images for t in trains if t.start} == {352}
    assert more.images == 5632 + 8 * 352
    chains = [m for m in p.methods.values() if "euler" in registry.get(m.kind).samplers and m.kind != "ddpm_faces"]
    rows = [row for m in chains for row in m.colour.values()]
    assert {row.sampler.steps for row in rows if row.sampler} == {8}
    assert {t.options.sampler.steps for t in trains if t.start} == {8}
    ladder = params.load(ROOT / "presets/demo-ladder.yaml")
    assert len(ladder.seeds) == 3
    configs = [ladder.methods[name].config for name in ladder.report.ladder[:-1]]
    switched = [{k for k, v in c.model_dump().items() if v == "phi"} for c in configs]
    assert [len(s) for s in switched] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("ladder", "named"),
    [
        (["edm", "scft"], "differs"),
        (["edm", "none"], "none"),
        (["edm"], "two methods"),
        (["edm", "edm"], "two methods"),
    ],
)
def test_impossible_ladders(ladder, named):
    small = tree()
    small["report"]["ladder"] = ladder
    with pytest.raises(ParameterError, match=named):
        params.parse(yaml.safe_dump(small))


def test_features_are_fetched_where_a_loss_looks_through_them(tmp_path):
    small = tree()
    small["weights"]["enabled"] = True
    found = {i.name: i for i in table.instances(params.parse(yaml.safe_dump(small)))}
    assert found["weights"].outputs["vgg19"] == "data/weights/vgg19.pth"
    assert found["pretrain-scft-seed-0"].inputs["vgg19"] == "data/weights/vgg19.pth"
    assert "weights" in found["pretrain-scft-seed-0"].upstream
    assert "vgg19" not in found["pretrain-edm-seed-0"].inputs
    small["weights"]["vgg19"] = None
    with pytest.raises(ParameterError, match=r"weights\.vgg19"):
        params.parse(yaml.safe_dump(small))
    write_params(tmp_path, small)
