"""A method that another package brings: found by its entry point, taken to the table, and kept in the records."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from .conftest import ROOT, make_house, miniature

PACKAGE = Path(__file__).parent / "outside"
TRAIN = {"images": 16, "batch": 8, "learning_rate": 1.0e-2, "warmup_images": 8}


def tree() -> dict:
    small = miniature()
    small["methods"] = {
        "toy": {
            "kind": "toy-latent",
            "label": "Toy from outside",
            "config": {"width": 3},
            "codes": TRAIN | {"objective": "reconstruct", "validation": {"every": 8}},
            "pretrain": TRAIN | {"objective": "prior"},
            "colour": {"pretrain": {}},
        }
    }
    return small


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    folder = make_house(tmp_path_factory.mktemp("outside"), tree())
    source, site = folder / "package", folder / "site"
    shutil.copytree(PACKAGE, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, source], check=True)
    shutil.rmtree(source)
    return folder


def run(house: Path, *command: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(house / "site"), str(house / "src")])
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": paths, "PATH": place, "SSIMBAD_DEVICE": "cpu"}
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True)


@pytest.mark.engines
def test_a_method_of_another_package_goes_through_snakemake_to_the_table(house):
    done = run(house, "snakemake", "--cores", "2", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    with (house / "reports/tables/main.csv").open(newline="") as file:
        lines = {(x["method"], x["stage"], x["setting"], x["metric"]): x["value"] for x in csv.DictReader(file)}
    assert {key[:3] for key in lines} == {("toy", "pretrain", "free")}
    assert float(lines["toy", "pretrain", "free", "pixel_mmd"]) > 0
    text = (house / "reports/tables/main.md").read_text()
    assert "Toy from outside" in text and "no right answer to compare with" in text
    assert "Without any method" not in text, "nothing stands below the rule"
    assert (house / "reports/figures/qualitative_free.png").stat().st_size > 1000
    assert run(house, "ssimbad", "status").stdout.count("fresh\n") == len(list((house / "records").glob("*.json")))
    costs = {json.loads(path.read_text())["stage"] for path in (house / "work/cost").glob("*.json")}
    assert costs == {"codes", "pretrain"}, "what is no row costs, too"

    made = json.loads((house / "models/toy/pretrain/seed-0.json").read_text())
    assert made["setup"]["needed"]["codes"]["weights"] == "models/toy/codes/seed-0.safetensors"
    with safe_open(house / "models/toy/pretrain/seed-0.safetensors", "pt") as file:
        assert list(file.keys()) == ["mean"], "parts of other trainings are not stored once more"
    coloured = json.loads((house / "records/colorize-toy-pretrain-seed-0-free.json").read_text())
    assert "models/toy/codes/seed-0.safetensors" in coloured["inputs"], "a part is what an answer is made from"
    codes = json.loads((house / "models/toy/codes/seed-0.json").read_text())
    assert codes["validation"] < 0, "its own measure: less than no error there is not"

    curve = (house / "models/toy/codes/seed-0.csv").read_text()
    assert ",val,score,-" in curve and "psnr" not in curve, "what is not PSNR is not called so"

    record = json.loads((house / "records/pretrain-toy-seed-0.json").read_text())
    assert list(record["code"]) == ["toy_method.py"]
    with (house / "site/toy_method.py").open("a") as file:
        file.write("# changed\n")
    stale = run(house, "ssimbad", "status").stdout
    assert "codes-toy-seed-0  " in stale and "code toy_method.py changed" in stale


def test_without_the_package_its_kind_is_unknown_in_one_line(house):
    done = subprocess.run(
        [sys.executable, "-c", "from ssimbad.cli import main; main()", "status"],
        cwd=house, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "methods.toy.kind: unknown kind 'toy-latent'; known: animediffusion, " in done.stderr
