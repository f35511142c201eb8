"""The power is cut while a finished run is told to DVC and the logbook, or while a training writes its states: nothing
that was finished is lost, no damaged byte counts for a right one, and the same command brings all to its end."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssimbad.pipeline import records

from ..cluster import ENVIRONMENT
from ..test_kills import COMMAND as TRAINING
from ..test_kills import STATE, weights
from . import syscalls
from .conftest import ENGINES, MARKS, command, digests, names_of, repository, require_true

pytestmark = MARKS

CUTS = 24


@dataclass(frozen=True)
class Story:
    """A house before a command, and what that does to it."""

    before: Path
    calls: list[syscalls.Call]
    after: dict[Path, str]
    """The md5s of all its files afterwards."""


def files(folder: Path) -> dict[Path, str]:
    return {path: records.md5(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@dataclass(frozen=True)
class Telling(Story):
    """Of `ssimbad sync`; and what is there afterwards."""

    digests: dict[str, str]
    lock: bytes
    runs: dict[str, str]
    kept: list[tuple[str, str]]


def runs(folder: Path) -> dict[str, str]:
    """{spool: status} of the logbook; each spool is a run of its own."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as book:
        assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        asked = "SELECT t.value, r.status FROM tags t JOIN runs r USING (run_uuid) WHERE t.key = 'spool_id'"
        found = book.execute(asked).fetchall()
    assert len(found) == len(dict(found)), "a spool was imported twice"
    return dict(found)


def kept(folder: Path) -> list[tuple[str, str]]:
    """(name, md5) of what the logbook keeps of all its runs."""
    files = [path for path in (folder / "mlruns").rglob("*") if path.is_file()]
    named = [(str(Path(*path.relative_to(folder).parts[2:])), records.md5(path)) for path in files]
    return sorted((name, digest) for name, digest in named if ".artifact.uploading" not in name)


def damaged(folder: Path) -> list[str]:
    """Objects of DVC's cache that are not what their names say."""
    objects = [path for path in (folder / ".dvc/cache/files/md5").glob("??/*") if len(path.name) == 30]
    return [str(path) for path in objects if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name]


@pytest.fixture(scope="module")
def telling(tmp_path_factory) -> Telling:
    syscalls.strace()
    folder = repository(tmp_path_factory.mktemp("power") / "house")
    command(folder, *ENGINES["snakemake"])
    forgotten(folder)
    before = folder.parent / "before"
    shutil.copytree(folder, before, symlinks=True)
    calls = syscalls.recorded(folder, ENVIRONMENT, "ssimbad", "sync")
    after = files(folder)
    return Telling(
        before, calls, after, digests(folder), (folder / "dvc.lock").read_bytes(), runs(folder), kept(folder)
    )


def forgotten(folder: Path) -> None:
    """As if the finished run had been told to nobody."""
    for spool in (folder / "work/spool/imported").iterdir():
        spool.rename(folder / "work/spool" / spool.name)
    for path in [*folder.glob("mlflow.db*"), folder / "dvc.lock"]:
        path.unlink()
    for path in ("mlruns", ".dvc/cache"):
        shutil.rmtree(folder / path)


@dataclass(frozen=True)
class Training(Story):
    """Of one that writes a state every few images; and what it makes."""

    weights: dict[str, bytes]


@pytest.fixture(scope="module")
def training(untrained, tmp_path_factory) -> Training:
    syscalls.strace()
    before = tmp_path_factory.mktemp("power") / "before"
    folder = before.with_name("house")
    for place in (before, folder):
        shutil.copytree(untrained, place, symlinks=True)
    calls = syscalls.recorded(folder, ENVIRONMENT, *TRAINING)
    return Training(before, calls, files(folder), weights(folder))


def moment(story: Story, chance: random.Random, likely: Callable[[str], bool]) -> int:
    """A place among the calls: anywhere, or in one half of the cases at a file of a likely name."""
    at = chance.randrange(len(story.calls) + 1)
    there = [n for n, call in enumerate(story.calls) if likely(call.path.name)]
    return chance.choice([at, chance.choice(there)])


def happened(story: Story, at: int | None = None) -> syscalls.Disk:
    """The house before the command, in the same place (the logbook knows it), and the first calls of it on the disk."""
    folder = story.before.with_name("house")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(story.before, folder, symlinks=True)
    disk = syscalls.Disk(folder)
    for call in story.calls[:at]:
        disk.happen(call)
    return disk


@pytest.mark.parametrize("which", ["telling", "training"])
def test_where_no_power_is_cut_the_model_says_what_is_there(request, which):
    story: Story = request.getfixturevalue(which)
    said = {path: hashlib.md5(data).hexdigest() for path, data in happened(story).all().items()}
    assert said == story.after


def cut(story: Story, at: int, chance: random.Random) -> Path:
    """The house, its power cut before that call."""
    folder = story.before.with_name("house")
    left = happened(story, at).left(chance)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path not in left:
            path.unlink()
    for path, data in left.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.unlink(missing_ok=True)  # it may be read-only
            path.write_bytes(data)
            if "cache" in path.parts and chance.random() < 0.5:
                path.chmod(0o444)  # what DVC takes for whole
    return folder


@pytest.mark.parametrize("number", range(CUTS), ids=lambda n: f"{n:02d}")
def test_the_power_is_cut_while_dvc_and_the_logbook_are_told(telling, number):
    story, chance = telling, random.Random(number)
    at = moment(story, chance, lambda name: "mlflow.db" not in name)  # most calls write its pages
    folder = cut(story, at, chance)
    said = command(folder, "ssimbad", "sync")
    assert "Traceback" not in said.stdout + said.stderr
    assert require_true(folder, story.digests) == names_of(folder), "what was finished is lost"
    assert not damaged(folder)
    assert (folder / "dvc.lock").read_bytes() == story.lock
    assert "up to date" in command(folder, "dvc", "status").stdout
    assert runs(folder) == story.runs
    assert kept(folder) == story.kept


@pytest.mark.parametrize("number", range(CUTS), ids=lambda n: f"{n:02d}")
def test_the_power_is_cut_while_a_training_writes_its_states(training, number):
    """It goes on from the newest state, or from the one before where that had not reached the disk."""
    chance = random.Random(number)
    at = moment(training, chance, lambda name: "state-" in name)
    folder = cut(training, at, chance)
    named = [str(call.other) for call in training.calls[:at] if call.kind == "rename"]
    states = [int(found[1]) for name in named if (found := re.search(r"/state-(\d+)\.safetensors$", name))]
    done = command(folder, *TRAINING)
    assert "Traceback" not in done.stdout + done.stderr
    assert weights(folder) == training.weights
    resumed = [int(images) for images in re.findall(r"resumed at (\d+) of", done.stdout)] or [0]
    finished = "images ->" not in done.stdout
    assert finished or resumed[0] >= max(states, default=0) - STATE
