"""Names with shell characters and markup: refused in one line, or data through both engines and on every page."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from ssimbad.errors import ParameterError
from ssimbad.params import tree as parameters

from .cluster import ENVIRONMENT
from .conftest import ROOT, make_folder_house, own_source, write_params

# Whoever runs one of these finds a file `hacked` where he works.
REFUSED = (
    "a;touch hacked", "$(touch hacked)", "`touch hacked`", "a b", "../a", "{seed}", "a'b", 'a"b', "a|touch hacked",
    "-n", "a\nb", "a\n", "<b>", "", "A", "a_b", "a&b", "*", "a>b", "%0a", "ä", "a" * 61,
)  # fmt: skip
LABEL = """<img src=x onerror="hacked=1"> $(touch hacked) `touch hacked` & ' " {x} {{ 7*7 }} {% raw"""
FOLDER = """a b;$(touch hacked)&'"`touch hacked`<img src=x>|*[x]?#%20~"""
PICTURES = (
    "$(touch hacked).png",
    "`touch hacked`.png",
    "a;touch hacked.png",
    '<img src=x onerror="hacked=1">.png',
    "-n.png",
)
PRESET = "demo; touch hacked"


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_is_not_called_so(tree, name):
    tree["methods"][name] = tree["methods"].pop("ssimbad")
    with pytest.raises(ParameterError, match=r"^params\.yaml: methods") as refused:
        parameters.parse(yaml.safe_dump(tree))
    assert "\n" not in str(refused.value)


def run(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


class Elements(HTMLParser):
    """Those that a browser would make: what a script's or another element's text holds is none."""

    def __init__(self) -> None:
        super().__init__()
        self.hostile: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if any(name == "onerror" or (name, value) == ("src", "x") for name, value in attributes):
            self.hostile.append(tag)


def handled(page: str) -> list[str]:
    """Elements of a page that come from one of these names."""
    elements = Elements()
    elements.feed(page)
    return elements.hostile


def test_an_element_is_found():
    assert handled(LABEL) == ["img"] and not handled(f"<script>const a = {LABEL!r};</script>")


def hacked(folder: Path) -> list[Path]:
    return list(folder.rglob("hacked*"))


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A repository whose source, pictures, label and preset have such names; one row."""
    folder = own_source(make_folder_house(tmp_path / "house"))
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    shutil.move(folder / "data/raw/faces", folder / "data/raw" / FOLDER)
    tree["data"]["path"], tree["preset"] = f"data/raw/{FOLDER}", PRESET
    for number, name in enumerate(PICTURES):
        (folder / "data/raw" / FOLDER / f"{number:02d}.png").rename(folder / "data/raw" / FOLDER / name)
    method = tree["methods"]["ssimbad"]
    method["label"] = LABEL
    del method["finetune"], method["colour"]["finetune"]
    write_params(folder, tree)
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    run(folder, "ssimbad", "dvc-yaml")
    return folder


@pytest.mark.engines
def test_through_both_engines_they_are_data(hostile, tmp_path):
    run(hostile, "snakemake", "--cores", "2", "all")
    assert "up to date" in run(hostile, "dvc", "status")
    run(hostile, "dvc", "repro", "-q")
    assert "Nothing to be done" in run(hostile, "snakemake", "-n", "all")
    manifest = (hostile / "data/faces/manifest.csv").read_text()
    found = [name for name in PICTURES if name.replace('"', '""') in manifest]
    assert len(found) >= len(PICTURES) - 2  # so many more faces are there than are wanted
    run(hostile, "snakemake", "--cores", "1", "models/$(touch hacked)/pretrain/seed-0.safetensors", code=1)
    run(hostile, "ssimbad", "stage", "pretrain", "method=$(touch hacked)", "seed=0", code=2)
    run(hostile, "ssimbad", "results")
    run(hostile, "snakemake", "--report", "report.html", "all")
    for page in ("report.html", "reports/index.html"):
        text = (hostile / page).read_text()
        assert not handled(text)
    assert "onerror" in (hostile / "reports/tables/main.md").read_text()
    assert not hacked(tmp_path)


@pytest.mark.engines
@pytest.mark.parametrize("command", ["snakemake --cores 1 all", "dvc repro -q", "ssimbad dvc-yaml"])
def test_before_an_engine_runs_a_name_is_refused(hostile, tmp_path, command):
    tree = yaml.safe_load((hostile / "params.yaml").read_text())
    tree["methods"]["$(touch hacked)"] = tree["methods"].pop("ssimbad")
    write_params(hostile, tree)
    before = {path for path in hostile.rglob("*") if not {".snakemake", ".dvc"} & set(path.parts)}
    done = subprocess.run(command.split(), cwd=hostile, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode and "methods" in done.stderr and "Traceback" not in done.stderr, done.stderr
    after = {path for path in hostile.rglob("*") if not {".snakemake", ".dvc", "__pycache__"} & set(path.parts)}
    assert not hacked(tmp_path) and after <= before
