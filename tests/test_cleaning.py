"""Cleaning removes what the stages made, and finds everything else where its owner has put it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssimbad import params as parameters
from ssimbad.errors import ParameterError, UserError
from ssimbad.pipeline import cleaning, lock, snakefile
from ssimbad.pipeline.table import instances

from .conftest import ROOT, lost, miniature, plant

TARGETS = re.findall(r"^(clean-[a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
assert {"clean-results", "clean-work", "clean-env"} <= set(TARGETS)
MADE = ("data", "models", "outputs", "records", "reports", "logs", ".state", "work")


def put(path: str | Path, text: str = "") -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"this is {path}")
    return path


def pretend(tree: dict) -> set[Path]:
    """Everything that running all stages leaves behind, without running them."""
    files = [put(f"reports/tables/cost.{ending}") for ending in ("csv", "md", "tex")]
    for instance in instances(parameters.Params.model_validate(tree)):
        outputs = {file: hashlib.md5(put(file).read_bytes()).hexdigest() for file in instance.outputs.values()}
        record = put(instance.record, json.dumps({"command": instance.command, "outputs": outputs}))
        log = f"logs/{instance.stage.name}/{instance.key}.log" if instance.key else f"logs/{instance.stage.name}.log"
        files += [*map(Path, outputs), record, put(instance.marker), put(log), put(f"work/{instance.name}/lock.guard")]
        if instance.stage.expensive:
            scratch = f"work/{instance.name}/0123456789ab"
            files += [put(f"{scratch}/kept/{name}") for name in [*instance.outputs, "complete.json"]]
            files += [put(f"{scratch}/kept/{instance.name}.json"), put(f"work/cost/{instance.name}.json")]
            files += [put(f"{scratch}/state-000000000064.safetensors")]
            files += [put(f"{scratch}/.state-000000000128.safetensors.0123456789ab.tmp")]
    files += [put(".state/md5.json", "{}"), put("logs/slurm/rule_pretrain/ssimbad_0/17.log"), put("work/import.lock")]
    return {*files, put("work/spool/imported/faces-0123456789ab.jsonl")}


def foreign(house: Path) -> dict[Path, bytes]:
    """Files of somebody's own in each folder that there is, under names that look much like the stages'."""
    own = [put("data/raw/faces/01.png"), put("data/raw/faces.dvc"), put("models/own/pretrain/seed-0.safetensors")]
    own += [put("work/mine/0123456789ab/state-000000000064.safetensors"), put("work/spool/late-0123456789ab.jsonl")]
    own += [put("reports/benchmarks/card.json"), put("logs/mine/run.log"), put(".venv/notes.txt")]
    own += [put(f"{p.parent}/copy of {p.name}", p.read_text()) for p in Path("records").glob("tables.json")]
    own += [put(p / "my.txt") for p in Path("work").rglob("*") if p.is_dir()]
    return plant(house) | {house / path: path.read_bytes() for path in own}


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess:
    place = path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["make", *arguments], env=os.environ | {"PATH": place}, capture_output=True, text=True)


def clean(what: str, tree: dict, capsys) -> str:
    cleaning.run(what, parameters.Params.model_validate(tree))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_finds_every_foreign_file_again(house, tree, target):
    shutil.copy(ROOT / "Makefile", house)
    ours = pretend(tree)
    environment = {put(".venv/pyvenv.cfg"), put(".venv/bin/python"), put(".venv/lib/x.py"), put(".venv/.installed")}
    own = foreign(house)
    done = make(target)
    assert done.returncode == 0, done.stderr
    assert lost(own) == []
    gone = {p for p in ours | environment if not p.exists()}
    work = {p for p in ours if p.parts[0] == "work"}
    assert gone == {"clean-results": ours - work, "clean-work": work, "clean-env": environment}[target]
    assert "left, as yours or still needed: " in done.stdout or "stays" in done.stdout


def test_without_strangers_nothing_is_left(house, tree, capsys):
    pretend(tree)
    assert "left" not in clean("results", tree, capsys)
    assert "left" not in clean("work", tree, capsys)
    assert not [top for top in MADE if Path(top).exists()]
    assert "0 files removed" in clean("results", tree, capsys)


def test_make_removes_nothing_where_nobody_knows_what_is_whose(house, tree):
    shutil.copy(ROOT / "Makefile", house)
    ours = pretend(tree)
    done = make("clean-results", path="/usr/bin:/bin")
    assert done.returncode != 0
    assert "make install" in done.stderr
    assert all(p.exists() for p in ours)


def test_results_of_earlier_presets_go_by_their_records(house, tree, capsys):
    earlier = pretend(miniature("demo-all"))
    clean("results", tree, capsys)
    assert {p for p in earlier if p.exists()} == {p for p in earlier if p.parts[0] == "work"}
    clean("work", tree, capsys)
    assert not [p for p in earlier if p.exists()]


@pytest.mark.parametrize("source", [None, "data/raw/faces", "data/raw", "data/raw/embedded.zip"])
def test_ones_own_faces_survive_under_every_setting(house, tree, source, capsys):
    pretend(tree)
    own = [put("data/raw/faces/a/01.png"), put("data/faces/01.png"), put("data/raw/alexnet.pth")]
    tree["weights"]["alexnet"]["path"] = "data/raw/alexnet.pth"
    if source:
        tree["data"] |= {"source": "folder", "path": source, "test_list": str(put("data/raw/test.txt"))}
        own += [
            Path("data/raw/test.txt"),
            *([Path("data/raw/embedded.zip")] if source.startswith("data/raw/e") else []),
        ]
    said = clean("results", tree, capsys)
    assert all(p.exists() for p in own)
    assert ("embedded.zip (your data)" in said) == (source == "data/raw/embedded.zip")


def test_an_output_that_somebody_has_edited_is_left_and_named(house, tree, capsys):
    pretend(tree)
    edited = put("reports/tables/main.md", "with my remarks")
    assert "reports/tables/main.md (changed since)" in clean("results", tree, capsys)
    assert edited.read_text() == "with my remarks"


def test_what_a_stopped_stage_has_left_goes_too(house, tree, capsys):
    """Outputs before their record, and files that a killed process was writing."""
    pretend(tree)
    Path("records/tables.json").unlink()
    left = [
        put("models/ssimbad/pretrain/.seed-0.safetensors.0123456789ab.tmp"), put("records/.raw.json.0123456789ab.tmp"),
        put("reports/tables/main.md"),
    ]  # fmt: skip
    assert "left" not in clean("results", tree, capsys)
    assert not [p for p in left if p.exists()]


def test_weights_at_the_place_of_an_output_that_no_stage_ever_made_are_left(house, tree, capsys):
    own = put("models/ssimbad/pretrain/seed-0.safetensors")
    assert "seed-0.safetensors (without a record)" in clean("results", tree, capsys)
    assert own.exists()


def test_links_stay_and_nothing_foreign_behind_them_is_touched(house, tree, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("scratch")
    for name in ("models", "work", "data"):
        (elsewhere / name).mkdir()
        Path(name).symlink_to(elsewhere / name)
    (elsewhere / "other").mkdir()
    ours = pretend(tree)
    stranger = put(elsewhere / "other/0123456789ab/state-000000000064.safetensors")
    Path("work/pretrain-linked").symlink_to(elsewhere / "other")
    linked = Path("outputs/ssimbad/pretrain/seed-0/same.zip")
    moved = linked.rename(elsewhere / "same.zip")
    linked.symlink_to(moved)
    own = foreign(house)
    clean("results", tree, capsys)
    clean("work", tree, capsys)
    assert not [p for p in ours if p.exists()]
    assert lost(own) == []
    assert stranger.exists() and moved.exists() and not linked.is_symlink()
    assert all(Path(name).is_symlink() for name in ("models", "work", "data", "work/pretrain-linked"))


@pytest.mark.parametrize(
    "outputs", [{"../precious.txt": "md5"}, {"/etc/hostname": "md5"}, ["precious.txt"], None, {"a.txt": []}]
)
def test_a_record_that_is_none_removes_nothing(house, tree, outputs, capsys):
    precious = put("../precious.txt")
    digest = hashlib.md5(precious.read_bytes()).hexdigest()
    outputs = {name: md5 and digest for name, md5 in outputs.items()} if isinstance(outputs, dict) else outputs
    record = put("records/raw.json", json.dumps({"command": "ssimbad stage raw", "outputs": outputs}))
    clean("results", tree, capsys)
    assert record.exists() and precious.exists()


@pytest.mark.parametrize("what", ["results", "work"])
def test_nothing_is_removed_while_somebody_works(house, tree, monkeypatch, what):
    ours, params = pretend(tree), parameters.Params.model_validate(tree)
    with lock.held(Path("work/faces"), "faces"), pytest.raises(UserError, match="nothing removed: faces: process"):
        cleaning.run(what, params)
    monkeypatch.setattr(snakefile, "alone", lambda: False)
    with pytest.raises(UserError, match="nothing removed: a Snakemake run is under way"):
        cleaning.run(what, params)
    assert all(p.exists() for p in ours)


def test_cleaning_something_else_is_refused(house, tree):
    with pytest.raises(ParameterError, match="expected results or work"):
        cleaning.run("data", parameters.Params.model_validate(tree))
