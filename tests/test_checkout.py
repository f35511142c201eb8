"""The code that runs is the checkout's own, or nothing is done: its records name the files in ./src."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssimbad import cli
from ssimbad.errors import UserError
from ssimbad.params import tree as params
from ssimbad.pipeline import code, records, runner, sync, table

from .conftest import ROOT, make_house, own_source

BIN = Path(sys.executable).parent


@pytest.fixture
def second(house) -> Path:
    """A second clone, in which the package of the first one runs."""
    return own_source(house)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.mark.parametrize(
    "command",
    [
        lambda: cli.stage("raw"),
        lambda: cli.stage("raw", force=True),
        cli.status,
        cli.sync,
        cli.dvc_yaml,
        lambda: cli.preset("paper"),
        lambda: cli.versions(confirm=False),
        lambda: cli.versions(confirm=True),
        lambda: records.reconcile(params.load()),
    ],
)
def test_another_checkouts_package_does_nothing_here(second, command):
    before = contents(second)
    with pytest.raises(UserError) as caught:
        command()
    assert str(caught.value).startswith(f"src/ssimbad: not the package that runs, which is {ROOT / 'src/ssimbad'}; run")
    assert "`make install`" in str(caught.value) and "`PYTHONPATH=src`" in str(caught.value)
    assert contents(second) == before


def test_a_folder_without_source_is_no_checkout(house):
    (house / "src").unlink()
    with pytest.raises(UserError, match="not the package that runs"):
        records.survey(params.load())


def ask(folder: Path, path: str, *command: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": path, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_snakemake_says_it_in_one_line(second):
    done = ask(second, str(ROOT / "src"), "snakemake", "--cores", "1", "-n", "all")
    assert done.returncode == 1
    assert "ssimbad: src/ssimbad: not the package that runs" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (second / ".state").exists()


def test_with_its_own_package_on_the_path_the_second_clone_works(second):
    file = second / "src/ssimbad/faces/raw.py"
    file.write_text(file.read_text() + "\nprint('the code of this clone')\n")
    done = ask(second, "src", "ssimbad", "stage", "raw")
    assert done.returncode == 0, done.stderr
    assert "the code of this clone" in done.stdout
    assert ask(second, str(ROOT / "src"), "ssimbad", "status").returncode == 1
    assert "raw " in ask(second, "src", "ssimbad", "status").stdout.splitlines()[0]


def test_the_colour_command_needs_no_checkout(tmp_path):
    words = ("--sketch", "s.png", "--reference", "r.png", "--weights", "w.safetensors", "--out", "o.png")
    done = ask(tmp_path, str(ROOT / "src"), "ssimbad", "colorize", *words)
    assert done.returncode != 0
    assert "src/ssimbad" not in done.stderr and "Traceback" not in done.stderr
    assert ".png" in done.stderr or "w.safetensors" in done.stderr


def test_a_link_to_the_package_is_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(make_house(tmp_path / "house"))
    code.require_own()


def test_every_gate_asks(second, tree):
    """Whatever computes, and whatever calls something fresh."""
    p = params.load()
    for gate in (
        lambda: runner.run(p, table.instances(p)[0]),
        lambda: records.survey(p),
        lambda: sync.run(p) if (second / ".dvc").mkdir() is None else None,
    ):
        with pytest.raises(UserError, match="not the package that runs"):
            gate()
