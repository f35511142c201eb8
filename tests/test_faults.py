"""The campaign of faults: kills at random moments of the whole pipeline under each engine, errors of the disk at every
write, a full disk, a power cut, a long sleep. Nothing that was finished is lost, nothing counts as fresh that is not,
and in the end every byte is that of a run without faults.

`make test-faults`; one fault by `-k`, such as `-k "killed and dvc-017"`. FAULTS=20 makes twenty kills instead of a
hundred.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
import pytest

from ssimbad.params import tree as parameters
from ssimbad.pipeline import records, runner
from ssimbad.pipeline.table import instances

from .cluster import ENVIRONMENT
from .conftest import ROOT, make_folder_house, make_house, miniature, own_source

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("FAULTS", "100"))
LONGEST = 45.0
"""Seconds after which a kill comes at the latest: about what the whole miniature takes."""
ENGINES = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "all"),
    "dvc": ("dvc", "repro", "-q"),
}


def command(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)
    assert not check or done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def digests(folder: Path) -> dict[str, str]:
    """{output: md5} of what is there."""
    table = instances(parameters.load(folder / "params.yaml"))
    files = [file for instance in table for file in instance.outputs.values()]
    return {file: records.md5(folder / file) for file in files if (folder / file).is_file()}


def fresh(folder: Path) -> set[str]:
    """Instances that count as fresh, by the house's own word."""
    said = command(folder, "ssimbad", "status", check=False).stdout
    table = instances(parameters.load(folder / "params.yaml"))
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    return {i.name for i in table if "fresh" in lines.get(i.name, "") and "not fresh" not in lines.get(i.name, "")}


def require_true(folder: Path, wanted: dict[str, str]) -> set[str]:
    """Assert that whatever counts as fresh is what a run without faults makes; return its names."""
    there, names = digests(folder), fresh(folder)
    for instance in instances(parameters.load(folder / "params.yaml")):
        if instance.name in names:
            for file in instance.outputs.values():
                assert there.get(file) == wanted[file], f"{instance.name} counts as fresh with another {file}"
    return names


def repository(folder: Path) -> Path:
    """A house under git and DVC."""
    made = own_source(make_folder_house(folder))
    command(made, "git", "init", "-q", "-b", "main")
    command(made, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", made / ".dvc/config")
    command(made, "ssimbad", "dvc-yaml")
    return made


@dataclass
class Campaign:
    """One house in which an engine is started and killed again and again."""

    engine: str
    folder: Path
    wanted: dict[str, str]
    kept: set[str] = field(default_factory=set)
    """Instances that were fresh after the last kill."""
    rounds: int = 0

    def kill(self, number: int) -> None:
        if self.kept == _names(self.folder):
            for what in ("results", "work"):
                command(self.folder, "ssimbad", "clean", what)
            self.kept, self.rounds = set(), self.rounds + 1
        self._unlock()
        moment = random.Random(f"{self.engine} {number}").uniform(0.5, LONGEST)
        with (self.folder.parent / f"{self.engine}.log").open("w") as log:
            run = subprocess.Popen(
                ENGINES[self.engine], cwd=self.folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log
            )
        try:
            run.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        _end_all(self.folder)
        names = require_true(self.folder, self.wanted)
        assert self.kept <= names, f"lost: {sorted(self.kept - names)}"
        self.kept = names

    def finish(self) -> None:
        self._unlock()
        command(self.folder, *ENGINES[self.engine])
        assert digests(self.folder) == self.wanted
        assert require_true(self.folder, self.wanted) == _names(self.folder)

    def _unlock(self) -> None:
        if self.engine == "snakemake":
            command(self.folder, "snakemake", "--unlock", "all")


def _names(folder: Path) -> set[str]:
    return {i.name for i in instances(parameters.load(folder / "params.yaml"))}


def _end_all(folder: Path) -> None:
    """Kill what an engine has started in groups of their own, as a machine that is switched off does."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.pid != os.getpid():
                process.kill()
                process.wait(30)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> dict[str, str]:
    """What a run without faults makes."""
    folder = repository(tmp_path_factory.mktemp("whole") / "house")
    command(folder, *ENGINES["snakemake"])
    return digests(folder)


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory, wanted) -> Callable[[str], Campaign]:
    made: dict[str, Campaign] = {}

    def of(engine: str) -> Campaign:
        if engine not in made:
            made[engine] = Campaign(engine, repository(tmp_path_factory.mktemp(engine) / "house"), wanted)
        return made[engine]

    return of


@pytest.mark.parametrize("number", range(KILLS), ids=lambda n: f"{n:03d}")
@pytest.mark.parametrize("engine", ENGINES)
def test_killed(campaigns, engine, number):
    campaigns(engine).kill(number)


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_to_the_end(campaigns, engine):
    campaigns(engine).finish()


def test_a_sleep_of_a_minute_changes_nothing(tmp_path, wanted):
    """SIGSTOP of the engine and all its jobs, as of a machine that is suspended."""
    folder = repository(tmp_path / "house")
    run = subprocess.Popen(ENGINES["snakemake"], cwd=folder, env=ENVIRONMENT, start_new_session=True)
    for pause in (8, 20):
        time.sleep(pause)
        group = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        for process in group:
            process.suspend()
        time.sleep(60 if pause == 8 else 5)
        for process in group:
            process.resume()
    assert run.wait(timeout=900) == 0
    assert digests(folder) == wanted


class FailedError(OSError):
    """So that a fault is told from an error of another kind."""


@pytest.fixture
def smallest(tmp_path, monkeypatch) -> Iterator[parameters.Params]:
    """The miniature in this process, nothing computed yet."""
    tree = miniature()
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    monkeypatch.chdir(make_house(tmp_path / "house", tree))
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    yield parameters.load()


CALLS = ("fsync", "replace")


@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_the_disk_at_every_write_of_every_stage(smallest, tmp_path, monkeypatch, call):
    """The k-th call fails, for every k that there is; then the stage runs as if nothing had been."""
    whole = tmp_path / "whole"
    for instance in instances(smallest):
        runner.run(smallest, instance)
    shutil.copytree(Path.cwd(), whole, symlinks=True)
    right, told, tried = digests(whole), getattr(os, call), 0
    for place in ("data", "models", "outputs", "records", "reports", "work", ".state"):
        shutil.rmtree(place, ignore_errors=True)
    for instance in instances(smallest):
        for k in count():
            calls = count()

            def faulty(*given, at=k, calls=calls, **named):
                if next(calls) == at:
                    raise FailedError(5, "Input/output error")
                return told(*given, **named)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, faulty)
                try:
                    runner.run(smallest, instance)
                except OSError as error:
                    assert "Input/output error" in str(error)
            if next(calls) <= k:
                break  # it has fewer calls
            tried += 1
            with records.hashes() as hashed:
                if records.stale(instance, smallest, hashed) is None:
                    for file in instance.outputs.values():
                        assert records.md5(Path(file)) == right[file]
            assert not [p for p in Path().rglob(".*.tmp") if ".snakemake" not in p.parts]
        runner.run(smallest, instance)
    assert digests(Path.cwd()) == right and tried > 50


class PowerCut:
    """Keeps account of what would be lost: names whose change was not synced, at random and in any order, since a file
    system may write folders in any order. Bytes have to be synced before their file gets its name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._synced: set[tuple[int, int]] = set()
        self._renamed: list[tuple[Path, bytes | None, bool]] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            about = os.fstat(descriptor)
            self._synced.add((about.st_ino, about.st_size))

        def renamed(source, target) -> None:
            about, target = Path(source).stat(), Path(target).absolute()
            earlier = target.read_bytes() if target.is_file() else None
            self._renamed.append((target, earlier, (about.st_ino, about.st_size) in self._synced))
            replace(source, target)

        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", renamed)

    def happen(self, chance: random.Random) -> int:
        """Lose what may be lost; returns how many files that were."""
        lost = 0
        assert all(synced for *_, synced in self._renamed), "a file gets its name before its bytes are on the disk"
        for target, earlier, _ in reversed(self._renamed):
            if target.exists() and chance.random() < 0.5:
                target.unlink() if earlier is None else target.write_bytes(earlier)
                lost += 1
        return lost


@pytest.mark.parametrize("number", range(12))
def test_a_power_cut_loses_names_and_never_the_truth(smallest, tmp_path, monkeypatch, number):
    """After some of the stages the last of them is as if its changes had reached the disk in part."""
    chance = random.Random(number)
    table = instances(smallest)
    for instance in table:
        runner.run(smallest, instance)
    right, lost = digests(Path.cwd()), 0
    for place in ("data", "models", "outputs", "records", "reports", "work", ".state"):
        shutil.rmtree(place, ignore_errors=True)
    for at in sorted(chance.sample(range(len(table)), 4)):
        with monkeypatch.context() as patch:
            cut = PowerCut(patch)
            for instance in table[: at + 1]:
                runner.run(smallest, instance)
        lost += cut.happen(chance)
        for name, reason in records.survey(smallest).items():
            if reason is None:
                (instance,) = (i for i in table if i.name == name)
                for file in instance.outputs.values():
                    assert records.md5(Path(file)) == right[file], f"{name} counts as fresh with another {file}"
    for instance in table:
        runner.run(smallest, instance)
    assert digests(Path.cwd()) == right and lost


def _mounted(folder: Path, megabytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)), capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a small file system ({done.stderr.strip()})")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95])
def test_a_full_disk_loses_nothing_and_says_so(tmp_path, wanted, share):
    """A file system that holds this share of what the pipeline writes; then it is made larger."""
    place = tmp_path / "small"
    _mounted(place, 2000)
    try:
        folder = repository(place / "house")
        start = shutil.disk_usage(place).used
        command(folder, *ENGINES["snakemake"])
        whole = shutil.disk_usage(place).used - start
        for what in ("results", "work"):
            command(folder, "ssimbad", "clean", what)
        size = shutil.disk_usage(place).used + int(share * whole)
        command(place, "mount", "-o", f"remount,size={size}", str(place))
        done = command(folder, *ENGINES["snakemake"], check=False)
        assert done.returncode != 0
        said = done.stdout + done.stderr + "".join(p.read_text() for p in (folder / "logs").rglob("*.log"))
        assert "No space left on device" in said or "disk is full" in said
        command(place, "mount", "-o", "remount,size=2000m", str(place))
        _end_all(folder)
        require_true(folder, wanted)
        command(folder, "snakemake", "--unlock", "all")
        command(folder, *ENGINES["snakemake"])
        assert digests(folder) == wanted
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)
