"""The power is cut while a finished run is told to DVC and the logbook: nothing that was finished is lost, no damaged
byte counts for a right one, and the next `ssimbad sync` brings all up to date."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssimbad.pipeline import records

from ..cluster import ENVIRONMENT
from . import syscalls
from .conftest import ENGINES, MARKS, command, digests, names_of, repository, require_true

pytestmark = MARKS

CUTS = 24


@dataclass(frozen=True)
class Story:
    """A house before `ssimbad sync`, what that does to it, and what is there afterwards."""

    before: Path
    calls: list[syscalls.Call]
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
def story(tmp_path_factory) -> Story:
    syscalls.strace()
    folder = repository(tmp_path_factory.mktemp("power") / "house")
    command(folder, *ENGINES["snakemake"])
    forgotten(folder)
    before = folder.parent / "before"
    shutil.copytree(folder, before, symlinks=True)
    calls = syscalls.recorded(folder, ENVIRONMENT, "ssimbad", "sync")
    return Story(before, calls, digests(folder), (folder / "dvc.lock").read_bytes(), runs(folder), kept(folder))


def forgotten(folder: Path) -> None:
    """As if the finished run had been told to nobody."""
    for spool in (folder / "work/spool/imported").iterdir():
        spool.rename(folder / "work/spool" / spool.name)
    for path in [*folder.glob("mlflow.db*"), folder / "dvc.lock"]:
        path.unlink()
    for path in ("mlruns", ".dvc/cache"):
        shutil.rmtree(folder / path)


def moment(story: Story, chance: random.Random) -> int:
    """A place among the calls: anywhere, or in one half of the cases where no page of the database is written."""
    at = chance.randrange(len(story.calls) + 1)
    elsewhere = [n for n, call in enumerate(story.calls) if "mlflow.db" not in call.path.name]
    return chance.choice([at, chance.choice(elsewhere)])


def cut(story: Story, chance: random.Random) -> Path:
    """The house, its power cut at some moment of the story. In the same place: the logbook knows it."""
    folder = story.before.with_name("house")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(story.before, folder, symlinks=True)
    disk = syscalls.Disk(folder)
    for call in story.calls[: moment(story, chance)]:
        disk.happen(call)
    left = disk.left(chance)
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
def test_the_power_is_cut_while_dvc_and_the_logbook_are_told(story, number):
    folder = cut(story, random.Random(number))
    said = command(folder, "ssimbad", "sync")
    assert "Traceback" not in said.stdout + said.stderr
    assert require_true(folder, story.digests) == names_of(folder), "what was finished is lost"
    assert not damaged(folder)
    assert (folder / "dvc.lock").read_bytes() == story.lock
    assert "up to date" in command(folder, "dvc", "status").stdout
    assert runs(folder) == story.runs
    assert kept(folder) == story.kept
