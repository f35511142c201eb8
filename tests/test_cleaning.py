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

from ssimbad.errors import ParameterError, UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import cleaning, gc, lock, records, snakefile
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
            files += [put(f"{scratch}/best/000000000032--1.250.safetensors")]
            files += [put(f"{scratch}/pictures/validation-000000000032.png")]
            files += [put(f"{scratch}/.state-000000000128.safetensors.0123456789ab.tmp")]
        files += [put(f".state/written/{instance.name}.json", json.dumps(outputs))]
    costs = {str(file): hashlib.md5(file.read_bytes()).hexdigest() for file in files[:3]}
    files += [put(".state/written/results.json", json.dumps(costs))]
    files += [put(".state/md5.json", "{}"), put("logs/slurm/rule_pretrain/ssimbad_0/17.log"), put("work/import.lock")]
    return {*files, put("work/spool/imported/faces-0123456789ab.jsonl")}


def foreign(house: Path) -> dict[Path, bytes]:
    """Files of somebody's own in each folder that there is, under names that look much like the stages'."""
    own = [put("data/raw/faces/01.png"), put("data/raw/faces.dvc"), put("models/own/pretrain/seed-0.safetensors")]
    own += [put("work/mine/0123456789ab/state-000000000064.safetensors"), put("work/spool/late-0123456789ab.jsonl")]
    own += [put("reports/benchmarks/card.json"), put("logs/mine/run.log")]
    own += [
        put(f".venv/{name}") for name in ("notes.txt", "bin/mine", "bin/python.sh", "share/mine.txt", "etc/my.conf")
    ]
    own += [put(f".venv/lib/python3.11/site-packages/{name}") for name in ("mine.py", "package/__pycache__/mine.pyc")]
    own += [put(".venv/.gitignore", "mine"), put(".venv/include/mine.h"), put(".state/written/mine.json", "{}")]
    own += [put(f"{p.parent}/copy of {p.name}", p.read_text()) for p in Path("records").glob("tables.json")]
    own += [put(p / "my.txt") for p in Path("work").rglob("*") if p.is_dir()]
    return plant(house) | {house / path: path.read_bytes() for path in own}


def pretend_environment(folder: Path) -> set[Path]:
    """What venv, pip and Python leave in a virtual environment with one package."""
    site = folder / "lib/python3.11/site-packages"
    listed = ["package/a.py", "../../../bin/tool", "../../../share/man/tool.1", "package-1.dist-info/RECORD"]
    outside = ["../../../../outside.txt", "/etc/hostname", "package/missing.py"]
    files = [put(site / name) for name in listed[:3]]
    files += [put(site / listed[3], "".join(f'"{name}",sha256=x,1\n' for name in [*listed, *outside]))]
    files += [
        put(site / "package/__pycache__/a.cpython-311.pyc"),
        put(site / "package/__pycache__/a.cpython-311.opt-1.pyc"),
    ]
    made = (
        "pyvenv.cfg",
        ".installed",
        "bin/activate",
        "bin/activate.fish",
        "bin/python",
        "bin/python3",
        "bin/python3.11",
    )
    (folder / "include").mkdir(exist_ok=True)
    (folder / "lib64").symlink_to("lib")
    return {Path(os.path.normpath(f)) for f in files} | {put(folder / name) for name in made} | {folder / "lib64"}


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
    environment = pretend_environment(Path(".venv"))
    own = foreign(house)
    done = make(target)
    assert done.returncode == 0, done.stderr
    assert lost(own) == []
    gone = {p for p in ours | environment if not os.path.lexists(p)}
    work = {p for p in ours if p.parts[0] == "work"}
    assert gone == {"clean-results": ours - work, "clean-work": work, "clean-env": environment}[target]
    assert "left, as yours or still needed: " in done.stdout or "stays" in done.stdout


def test_of_a_linked_environment_only_the_link_goes(house):
    """Others use it, too."""
    shutil.copy(ROOT / "Makefile", house)
    shared = {house / p for p in pretend_environment(Path("shared"))}
    Path(".venv").symlink_to("shared")
    done = make("clean-env")
    assert done.stdout == ".venv: only this link is removed; shared stays as it is\n"
    assert not Path(".venv").is_symlink()
    assert all(os.path.lexists(p) for p in shared)


def test_an_environment_goes_whole_and_nothing_outside_with_it(house):
    """A half installed one as well, and what its packages' lists name elsewhere stays."""
    shutil.copy(ROOT / "Makefile", house)
    outside = put("outside.txt")
    for damage in (b"\xff", b'"unclosed,,\n', b""):
        pretend_environment(Path(".venv"))
        put(".venv/lib/python3.11/site-packages/half-1.dist-info/RECORD").write_bytes(damage)
        assert "half-1.dist-info/RECORD" in make("clean-env").stdout
        shutil.rmtree(".venv")
    pretend_environment(Path(".venv"))
    done = make("clean-env")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not Path(".venv").exists() and outside.exists()
    put(".venv/mine.txt")
    assert make("clean-env").stdout == ".venv: no virtual environment, nothing removed\n"
    assert Path(".venv/mine.txt").exists()


def test_without_strangers_nothing_is_left(house, tree, capsys):
    pretend(tree)
    assert "left" not in clean("results", tree, capsys)
    assert "left" not in clean("work", tree, capsys)
    assert not [top for top in MADE if Path(top).exists()]
    assert "0 files removed" in clean("results", tree, capsys)


def test_names_of_any_bytes_are_told_in_the_one_line(house, tree):
    pretend(tree)
    for name in (b"\xff", b"a\nssimbad: error", b"\x1b[31m"):
        Path(os.fsdecode(b"reports/" + name)).touch()
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    program = (sys.executable, "-c", "from ssimbad.cli import main; main()", "clean", "results")
    done = subprocess.run(program, env=strict, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith(r"reports/\x1b[31m, reports/a\nssimbad: error, reports/\udcff" + "\n")


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
    """Outputs before their record, known by the stage's notes, and files that a killed process was writing."""
    pretend(tree)
    Path("records/tables.json").unlink()
    left = [
        put("models/ssimbad/pretrain/.seed-0.safetensors.0123456789ab.tmp"), put("records/.raw.json.0123456789ab.tmp"),
        put(".state/written/.raw.json.0123456789ab.tmp"), Path("reports/tables/main.md"),
    ]  # fmt: skip
    assert "left" not in clean("results", tree, capsys)
    assert not [p for p in left if p.exists()]


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_text(""), lambda p: p.write_text("[" * 100_000)])
@pytest.mark.parametrize("notes", [True, False])
def test_without_its_record_a_file_of_other_origin_stays_at_an_outputs_place(house, tree, damage, notes, capsys):
    """Also where the stage has run, now or ever."""
    pretend(tree)
    damage(Path("records/tables.json"))
    if not notes:
        damage(Path(".state/written/tables.json"))
    own = put("reports/tables/main.md", "with my remarks"), put("reports/tables/cost.md", "my cost")
    said = clean("results", tree, capsys)
    assert f"reports/tables/main.md ({'changed since' if notes else 'without a record'})" in said
    assert "reports/tables/cost.md (changed since)" in said
    assert [p.read_text() for p in own] == ["with my remarks", "my cost"]
    others = put("models/ssimbad/finetune/seed-0.safetensors", "a colleague's"), put("reports/tables/cost.csv", "mine")
    assert "finetune/seed-0.safetensors (without a record)" in clean("results", tree, capsys)
    assert [p.read_text() for p in (*own, *others)] == ["with my remarks", "my cost", "a colleague's", "mine"]


@pytest.mark.parametrize("notes", [{"../precious.txt": None}, {"/etc/hostname": "md5"}, ["precious.txt"], {"a": 1}])
def test_notes_that_are_none_remove_nothing(house, tree, notes, capsys):
    precious = put("../precious.txt")
    digest = hashlib.md5(precious.read_bytes()).hexdigest()
    notes = {name: md5 or digest for name, md5 in notes.items()} if isinstance(notes, dict) else notes
    put(".state/written/other.json", json.dumps(notes))
    clean("results", tree, capsys)
    assert precious.exists()


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


@pytest.mark.parametrize("name", ["x" * 5000, "\0", "a\0b", "x/" * 3000, "\ud800"])
def test_names_that_no_file_can_have_stop_no_cleaning(house, tree, name, capsys):
    output = put("data/raw/a.zip")
    outputs = {str(output): hashlib.md5(output.read_bytes()).hexdigest(), name: "0" * 32}
    put("records/raw.json", json.dumps({"command": "ssimbad stage raw", "outputs": outputs}))
    put(records.MEMO, json.dumps({name: [1, 2, 3, 4, 5, "x"]}))
    gc.run(parameters.Params.model_validate(tree))
    capsys.readouterr()
    assert name not in json.loads(records.MEMO.read_text())
    clean("results", tree, capsys)
    assert not output.exists()


def pretend_verify(name: str) -> set[Path]:
    """What a verification of a stage leaves when it is killed."""
    folder = f"work/{name}"
    names = ("data/sketches/train.npy", "data/sketches/.val.npy.0123456789ab.tmp", "cost/sketches.json", "lock.guard")
    return {put(f"{folder}/{n}") for n in (*names, "lock.json", "scratch/state-000000000064.safetensors")}


def test_what_a_killed_verification_has_left_goes(house, tree, capsys):
    ours = pretend_verify("verify-sketches-0123456789ab")
    own = [put("work/verify-sketches-0123456789ab/data/mine.npy"), put("work/verify-mine/data/sketches/train.npy")]
    said = clean("work", tree, capsys)
    assert not [p for p in ours if p.exists()]
    assert all(p.exists() for p in own)
    assert said.endswith(f"left, as yours or still needed: work/verify-mine/ (1 files), {own[0]}\n")


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


@pytest.mark.parametrize("what", ["results", "work"])
def test_the_folders_of_data_and_reports_say_what_will_stand_in_them_before_and_after(house, tree, capsys, what):
    """In git, and whatever is cleaned."""
    pretend(tree)
    for readme in ("data/README.md", "reports/README.md"):
        shutil.copy(ROOT / readme, house / readme)
    said = clean(what, tree, capsys)
    assert "README" not in said
    for readme in ("data/README.md", "reports/README.md"):
        assert (house / readme).read_bytes() == (ROOT / readme).read_bytes()
        ignored = subprocess.run(["git", "check-ignore", "-q", readme], cwd=ROOT)
        assert ignored.returncode != 0


def test_the_readmes_of_data_and_reports_name_every_folder_that_stages_write_there(house, tree):
    files = [Path(f) for i in instances(parameters.Params.model_validate(tree)) for f in i.outputs.values()]
    for top in ("data", "reports"):
        text = (ROOT / top / "README.md").read_text()
        folders = {f.parts[1] for f in files if f.parts[0] == top}
        assert folders
        assert not [folder for folder in folders if f"`{folder}/" not in text]
