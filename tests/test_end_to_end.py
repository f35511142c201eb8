"""A miniature of the whole pipeline through Snakemake, from nothing to tables and figures."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ssimbad import cli
from ssimbad.errors import UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import runner, table
from ssimbad.reporting import summary

from .conftest import lost, make_house, miniature, plant, write_params

# The miniature runs whole, stage by stage, also where another process has one of two cores.
pytestmark = pytest.mark.timeout(1200)

FOREIGN: dict[Path, bytes] = {}
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "SSIMBAD_DEVICE": "cpu",
    "COLUMNS": "200",
}


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=900
    )


def snakemake(folder: Path, *arguments: str) -> str:
    done = run(folder, "snakemake", "--cores", "2", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs_planned(folder: Path) -> list[str]:
    """Rules of a dry run, besides the targets."""
    text = snakemake(folder, "-n", "all", "--quiet", "rules")
    lines = text.split("Job stats:")[-1].splitlines() if "Job stats:" in text else []
    rules = [line.split()[0] for line in lines if len(line.split()) == 2 and line.split()[1].isdigit()]
    return [rule for rule in rules if rule not in ("all", "total")]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A finished miniature run, in folders in which somebody else also keeps files."""
    folder = make_house(tmp_path_factory.mktemp("house"))
    FOREIGN.update(plant(folder))
    snakemake(folder, "all")
    return folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_tables_and_figures_are_there(house):
    for name in (
        "main.csv",
        "main.md",
        "main.tex",
        "spread.csv",
        "spread.md",
        "spread.tex",
        "r2.csv",
        "r2.md",
        "r2.tex",
        "reference_use.csv",
        "differences.csv",
    ):
        assert (house / "reports/tables" / name).stat().st_size > 50, name
    for name in (
        "ssim_degradation",
        "noisy_grid",
        "r2",
        "qualitative_same",
        "qualitative_cross",
        "training_curves",
    ):
        assert (house / f"reports/figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (house / f"reports/figures/{name}.pdf").read_bytes()[:4] == b"%PDF"


def test_main_table_has_every_row(house):
    rows = list(csv.DictReader((house / "reports/tables/main.csv").open()))
    columns = ["method", "stage", "setting", "seed", "metric", "value", "ci_low", "ci_high", "n", "published"]
    assert list(rows[0]) == columns
    seen = {(r["method"], r["stage"], r["setting"]) for r in rows}
    expected = {("ssimbad", "pretrain"), ("ssimbad", "finetune"), ("ssimbad-control", "finetune")}
    expected |= {("regression", "pretrain"), ("regression-compute", "pretrain")}
    assert seen == {(*row, setting) for row in expected for setting in ("same", "cross", "cross-true")}
    fid = [r for r in rows if r["metric"] == "fid"]
    assert fid
    assert all(r["value"] == "" for r in fid)
    psnr = [float(r["value"]) for r in rows if r["metric"] == "psnr"]
    assert all(3 < value < 60 for value in psnr)


def test_nothing_to_do_right_after(house):
    assert "Nothing to be done" in snakemake(house, "-n", "all")


def test_one_parameter_reruns_only_what_uses_it(house):
    text = (house / "params.yaml").read_text()
    tree = yaml.safe_load(text)
    tree["report"]["grid_images"] = 3
    write_params(house, tree)
    try:
        assert jobs_planned(house) == ["data_sheet", "figures"]
    finally:
        (house / "params.yaml").write_text(text)
    assert "Nothing to be done" in snakemake(house, "-n", "all")


def test_outputs_are_png_archives_named_by_id(house):
    ids = [r["id"] for r in csv.DictReader((house / "data/faces/manifest.csv").open()) if r["split"] == "test"]
    with zipfile.ZipFile(house / "outputs/ssimbad/finetune/seed-0/cross.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{i}.png" for i in ids)
        assert all(m.compress_type == zipfile.ZIP_STORED and m.date_time[0] == 1980 for m in archive.infolist())


def test_computed_again_with_other_threads_the_images_are_bit_equal(house):
    path = house / "outputs/ssimbad/pretrain/seed-0/same.zip"
    before = md5(path)
    command = (
        "ssimbad",
        "stage",
        "colorize",
        "method=ssimbad",
        "stage=pretrain",
        "seed=0",
        "setting=same",
        "--force",
    )
    done = run(house, *command, SSIMBAD_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert md5(path) == before


def test_every_stage_repeats_itself_to_the_byte_and_touches_nothing(house):
    """In one process, one after another, trainings too: figures that come second look like figures that come first."""
    before = {p: md5(p) for p in house.rglob("*") if p.is_file() and p.parent.name != ".state"}
    done = run(house, "ssimbad", "verify", "--expensive")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith(("equal", "differs"))]
    outputs = [i.outputs for i in table.instances(parameters.load(house / "params.yaml"))]
    assert len(told) == sum(map(len, outputs)) > 80
    assert {p: md5(p) for p in house.rglob("*") if p.is_file() and p.parent.name != ".state"} == before


def test_data_are_the_same_in_another_house_with_other_threads(house, tmp_path):
    other = make_house(tmp_path)
    for stage in ("raw", "faces", "sketches", "references"):
        done = run(other, "ssimbad", "stage", stage, SSIMBAD_THREADS="2")
        assert done.returncode == 0, done.stderr
    made = [p.relative_to(other) for p in (other / "data").rglob("*") if p.is_file()]
    assert len(made) > 10
    assert [str(p) for p in made if md5(other / p) != md5(house / p)] == []


def test_status_and_results_name_what_there_is(house):
    status = run(house, "ssimbad", "status").stdout.splitlines()
    assert len(status) == len(table.instances(parameters.load(house / "params.yaml")))
    assert all(line.split()[-1] == "fresh" for line in status)
    other = house / "work/cost/pretrain-elsewhere-seed-0.json"  # of a method that these parameters do not have
    other.write_text((house / "work/cost/pretrain-ssimbad-seed-0.json").read_text().replace("ssimbad", "elsewhere"))
    shown = run(house, "ssimbad", "results")
    assert shown.returncode == 0, shown.stderr
    assert "reports/tables/main.md" in shown.stdout
    assert "reports/figures/qualitative_same.png" in shown.stdout
    cost = (house / "reports/tables/cost.csv").read_text()
    assert "ssimbad,pretrain,0,train" in cost and "elsewhere" not in cost
    other.unlink()


def results(house, monkeypatch, capsys) -> tuple[str, str]:
    """What `ssimbad results` prints above the main table, and all of it."""
    monkeypatch.chdir(house)
    summary.show(parameters.load())
    text = capsys.readouterr().out
    return text.partition("## Main table")[0], text


@pytest.fixture
def edited(house):
    """A function that changes the house's parameters; afterwards they and the cost table are as before."""
    before = {path: (house / path).read_text() for path in ("params.yaml", "reports/tables/cost.csv")}

    def edit(change):
        tree = yaml.safe_load(before["params.yaml"])
        change(tree)
        write_params(house, tree)

    yield edit
    for path, text in before.items():
        (house / path).write_text(text)


def test_results_of_these_parameters_have_nothing_above_them(house, monkeypatch, capsys, edited):
    (house / "reports/tables/mine.md").write_text("notes")
    FOREIGN[house / "reports/tables/mine.md"] = b"notes"
    above, text = results(house, monkeypatch, capsys)
    assert above == ""
    assert "reports/tables/main.md" in text and "reports/tables/mine.md" not in text


def test_results_name_the_rows_that_are_stale_and_why(house, monkeypatch, capsys, edited):
    edited(lambda tree: tree["methods"]["ssimbad"]["finetune"].update(learning_rate=3.0e-3))
    above, text = results(house, monkeypatch, capsys)
    assert "NOT FRESH" in above
    assert "- finetune-ssimbad-seed-0: parameter methods.ssimbad.finetune changed\n" in above
    assert "Rows concerned: SSIMBaD, finetuned.\n" in above
    assert "reports/tables/cost.md" in text
    cost = (house / "reports/tables/cost.csv").read_text()
    assert "ssimbad,pretrain,0,train" in cost and "ssimbad,finetune" not in cost


@pytest.fixture
def copied(house, tmp_path):
    """A house of the same contents, to be spoilt."""
    return Path(shutil.copytree(house, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("kept")))


ALL = (
    "SSIMBaD, pretrained; SSIMBaD, finetuned; SSIMBaD, same extra images without refinement; Regression, one call;"
    " Regression, one call, at the refined rows' training compute"
)


def concerned(house, monkeypatch, capsys) -> str:
    above, _ = results(house, monkeypatch, capsys)
    assert "NOT FRESH" in above
    return above.partition("Rows concerned: ")[2].strip().removesuffix(".")


def test_results_name_the_rows_whose_numbers_were_measured_anew(copied, monkeypatch, capsys):
    """They are fresh, the table is not: what it prints is of before."""
    tree = yaml.safe_load((copied / "params.yaml").read_text())
    tree["evaluation"]["seed"] = 77
    write_params(copied, tree)
    monkeypatch.chdir(copied)
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    p = parameters.load()
    for instance in table.instances(p):
        if instance.stage.name in ("evaluate", "baselines"):
            runner.run(p, instance)
    capsys.readouterr()
    assert concerned(copied, monkeypatch, capsys) == ALL


def test_results_name_the_row_that_was_measured_anew(copied, monkeypatch, capsys):
    """By the same parameters: another file in place of the one that the table was made from."""
    path = copied / "reports/metrics/ssimbad/pretrain/seed-0/same.json"
    path.write_text(path.read_text().replace('"n": 4', '"n": 3'))
    record = copied / "records/evaluate-ssimbad-pretrain-seed-0-same.json"
    made = json.loads(record.read_text())
    made["outputs"][str(path.relative_to(copied))] = md5(path)
    record.write_text(json.dumps(made))
    assert concerned(copied, monkeypatch, capsys) == "SSIMBaD, pretrained"


def test_results_name_the_row_that_the_parameters_no_longer_have(copied, monkeypatch, capsys):
    tree = yaml.safe_load((copied / "params.yaml").read_text())
    tree["methods"]["ssimbad"]["finetune"] = None
    del tree["methods"]["ssimbad"]["colour"]["finetune"]
    write_params(copied, tree)
    assert concerned(copied, monkeypatch, capsys) == "SSIMBaD, finetuned (not in params.yaml)"
    del tree["methods"]["ssimbad-control"]
    write_params(copied, tree)
    gone = "SSIMBaD, finetuned (not in params.yaml); ssimbad-control (not in params.yaml)"
    assert concerned(copied, monkeypatch, capsys) == gone


@pytest.mark.parametrize("path", ["reports/tables/main.md", "reports/tables/main.csv", "records/tables.json"])
def test_results_name_all_rows_of_a_table_that_is_not_its_records(copied, monkeypatch, capsys, path):
    text = (copied / path).read_text()
    (copied / path).write_text(text.replace("PSNR", "PSNRX") if path.endswith("md") else f"{text},")
    assert concerned(copied, monkeypatch, capsys) == ALL


def test_results_name_the_rows_without_a_method(copied, monkeypatch, capsys):
    path = copied / "reports/metrics/baselines.json"
    path.write_text(path.read_text() + "\n")
    assert concerned(copied, monkeypatch, capsys) == "what comes from reports/metrics/baselines.json"


def test_results_name_the_row_with_another_label(copied, monkeypatch, capsys):
    tree = yaml.safe_load((copied / "params.yaml").read_text())
    tree["methods"]["ssimbad"]["label"] = "Ours"
    write_params(copied, tree)
    assert concerned(copied, monkeypatch, capsys) == "Ours, pretrained; Ours, finetuned"


@pytest.mark.parametrize("text", ["", "{", '{"devices": "x"}', "[]"])
def test_a_damaged_note_of_a_cost_is_left_out_and_named(copied, monkeypatch, capsys, text):
    (copied / "work/cost/pretrain-ssimbad-seed-0.json").write_text(text)
    monkeypatch.chdir(copied)
    summary.show(parameters.load())
    shown = capsys.readouterr()
    assert shown.err == (
        "ssimbad: work/cost/pretrain-ssimbad-seed-0.json: no measurement of a cost; left out of the cost table; "
        "`ssimbad stage pretrain method=ssimbad seed=0 --force` measures again\n"
    )
    assert "## Main table" in shown.out
    lines = (copied / "reports/tables/cost.csv").read_text()
    assert "ssimbad,finetune,0,train" in lines and "ssimbad,pretrain,0,train" not in lines


def test_results_of_another_preset_are_not_shown_as_this_ones(house, monkeypatch, capsys, edited):
    edited(lambda tree: tree.update(preset="paper"))
    cost = (house / "reports/tables/cost.md").read_text()
    with pytest.raises(UserError, match=r"made with preset miniature, and params\.yaml says paper"):
        results(house, monkeypatch, capsys)
    assert capsys.readouterr().out == ""
    assert (house / "reports/tables/cost.md").read_text() == cost
    (house / "records/tables.json").rename(house / "records/tables.away")
    try:
        above, _ = results(house, monkeypatch, capsys)
    finally:
        (house / "records/tables.away").rename(house / "records/tables.json")
    assert "- tables: output records/tables.json is missing" in above


@pytest.mark.parametrize("fingerprint", ["0123456789ab", None])
def test_a_cost_of_another_result_is_not_taken(house, monkeypatch, capsys, edited, fingerprint):
    path = house / "work/cost/pretrain-ssimbad-seed-0.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"fingerprint": fingerprint, "images": 10752}))
    try:
        results(house, monkeypatch, capsys)
    finally:
        path.write_text(text)
    cost = (house / "reports/tables/cost.csv").read_text()
    assert "ssimbad,finetune,0,train" in cost and "ssimbad,pretrain,0,train" not in cost


def test_a_table_made_by_hand_of_stale_results_says_so(house, edited):
    edited(lambda tree: tree["colorize"].update(seed=3))
    done = run(house, "ssimbad", "stage", "tables")
    assert done.returncode == 0
    assert "NOT FRESH" in done.stderr
    assert "- colorize-ssimbad-pretrain-seed-0-same: parameter colorize changed" in done.stderr
    assert "Rows concerned: SSIMBaD, pretrained; SSIMBaD, finetuned; SSIMBaD, same extra" in done.stderr


def test_the_trained_weights_colour_a_users_sketch(house, tmp_path):
    with zipfile.ZipFile(house / "data/raw/embedded.zip") as archive:
        face = next(n for n in archive.namelist() if n.endswith(".png"))
        (tmp_path / "face.png").write_bytes(archive.read(face))
    done = run(
        house, "ssimbad", "colorize", "--sketch", str(tmp_path / "face.png"), "--reference", str(tmp_path / "face.png"),
        "--weights", "models/ssimbad/finetune/seed-0.safetensors", "--out", str(tmp_path / "out.png"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").exists()


def test_how_the_weights_were_made_is_told_without_times_or_hosts(house):
    made = json.loads((house / "models/ssimbad/finetune/seed-0.json").read_text())
    assert made["setup"]["needed"]["phi"]["form"] == "rational"
    assert made["images"] == 16
    assert made["validation"] is not None
    text = "".join(p.read_text() for p in (house / "records").iterdir())
    assert os.uname().nodename not in text.split('"')
    assert "2026-" not in text


def test_a_users_own_folder_goes_the_same_way(tmp_path, house):
    """Two test faces fewer stages: raw is gone, the true cross answers do not exist."""
    tree = miniature()
    folder = tmp_path / "faces"
    folder.mkdir()
    with zipfile.ZipFile(house / "data/raw/embedded.zip") as archive:
        for name in [n for n in archive.namelist() if n.endswith(".png")]:
            (folder / name).write_bytes(archive.read(name))
    (folder / "broken.jpg").write_bytes(b"not a picture")
    tree["data"] |= {"source": "folder", "path": str(folder)}
    other = make_house(tmp_path, tree)
    snakemake(other, "all_data")
    assert "broken.jpg" in (other / "data/faces/quarantine.csv").read_text()
    assert not (other / "data/references/cross_true.npy").exists()
    assert sorted(set(jobs_planned(other))) == [
        "baselines", "colorize", "compute", "evaluate", "figures", "finetune", "pretrain", "select_phi", "spread",
        "spread_table", "ssim_curves", "tables",
    ]  # fmt: skip


def test_a_wrong_parameter_stops_before_any_job(tmp_path):
    tree = miniature()
    tree["data"]["sizes"] = 3
    folder = make_house(tmp_path, tree)
    done = run(folder, "snakemake", "--cores", "1", "all")
    assert done.returncode == 2
    assert "did you mean 'size'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "data").exists()


# With an argument each; stage and colorize have been called above, and ui never ends (make test-browser).
WRITERS = {
    "compare": "ssimbad/pretrain ssimbad/finetune --metric psnr",
    "export-run": "ssimbad/finetune --out row.zip",
    "export": "ssimbad/finetune --out exported",
    "sweep": "rates finetune.images=16,32 --of ssimbad",
    "dvc-yaml": "",
    "versions": "",
    "sync": "",
    "results": "",
    "plan": "",
    "status": "",
    "parameters": "",
    "preset": "paper",
    "gc": "--keep 0 --days 0",
}


def test_no_command_has_touched_a_foreign_file(house, monkeypatch):
    """In the end, after all of the above; cleaning then leaves nothing else."""
    monkeypatch.chdir(house)
    commands = {c.name or c.callback.__name__ for c in cli.app.registered_commands}
    assert commands == {
        *WRITERS,
        "stage",
        "colorize",
        "ui",
        "clean",
        "verify",
        "evaluate",
        "page",
        "init",
    }  # the last four have tests of their own
    for name, argument in [*WRITERS.items(), ("clean", "results"), ("clean", "work")]:
        done = CliRunner().invoke(cli.app, [name, *argument.split()])
        assert done.exit_code == 0, (name, done.output, done.exception)
        assert lost(FOREIGN) == [], name
    folders = ("data", "models", "outputs", "reports", "records", "logs", ".state", "work")
    assert {p for top in folders for p in (house / top).rglob("*") if p.is_file()} == set(FOREIGN)
