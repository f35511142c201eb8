"""The campaign of faults: what its rooms share. Nothing that was finished is lost, nothing counts as fresh that is not,
and in the end every byte is that of a run without faults.

`make test-faults`; one fault by `-k`, such as `-k "killed and dvc-017"`. FAULTS=20 makes twenty of each kind instead of
a hundred, FAULTS_SLEEP=300 a sleep of five minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import psutil
import pytest

from ssimbad.params import tree as parameters
from ssimbad.pipeline import records
from ssimbad.pipeline.table import instances

from ..cluster import ENVIRONMENT
from ..conftest import ROOT, make_folder_house, own_source
from ..test_kills import house as training_house

MARKS = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]

FAULTS = int(os.environ.get("FAULTS", "100"))
SLEEP = float(os.environ.get("FAULTS_SLEEP", "150"))
"""Seconds; the heart of a lock is believed to be dead after 60."""
START = 900.0
"""Seconds until something has begun, on a busy machine."""
LONGEST = 45.0
"""Seconds after which a kill comes at the latest: about what the whole miniature takes."""
ENGINES = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "all"),
    "dvc": ("dvc", "repro", "-q"),
}

UNLOCKING = {"snakemake": ("snakemake", "--unlock", "all"), "dvc": ("ssimbad", "sync")}
"""What the documentation names where an engine refuses to work after a kill."""


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


def names_of(folder: Path) -> set[str]:
    return {i.name for i in instances(parameters.load(folder / "params.yaml"))}


def repository(folder: Path) -> Path:
    """A house under git and DVC."""
    made = own_source(make_folder_house(folder))
    command(made, "git", "init", "-q", "-b", "main")
    command(made, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", made / ".dvc/config")
    command(made, "ssimbad", "dvc-yaml")
    return made


def end_all(folder: Path) -> None:
    """Kill what an engine has started in groups of their own, as a machine that is switched off does."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.pid != os.getpid():
                process.kill()
                process.wait(30)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue


@pytest.fixture(scope="package")
def wanted(tmp_path_factory) -> dict[str, str]:
    """What a run without faults makes."""
    folder = repository(tmp_path_factory.mktemp("whole") / "house")
    command(folder, *ENGINES["snakemake"])
    return digests(folder)


@pytest.fixture(scope="package")
def untrained(tmp_path_factory) -> Path:
    """A house in which a training can begin."""
    return training_house(tmp_path_factory.mktemp("training") / "house")


Begin = Callable[..., subprocess.Popen]


@pytest.fixture
def begun() -> Iterator[Begin]:
    """Starts a command in a folder, in a session of its own, whose words go into a file of this name."""
    running = []

    def begin(folder: Path, name: str, *words: str) -> subprocess.Popen:
        with (folder / name).open("w") as log:
            run = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log)
        running.append(run)
        return run

    yield begin
    for run in running:
        if run.poll() is None:  # of a test that failed
            os.killpg(run.pid, signal.SIGKILL)


def family(pid: int) -> list[psutil.Process]:
    """A process, and all that it has started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def says(folder: Path, name: str, words: str) -> bool:
    return words in (folder / name).read_text()


Harm = Callable[[tuple[str, ...], Path, TextIO], bool]
TRIES = 20
"""Of a harm that comes too late, when the engine has done all that there was to do."""


@dataclass
class Campaign:
    """A house, what a run without faults makes of it, and what has been finished in it so far."""

    engine: str
    folder: Path
    wanted: dict[str, str]
    kept: set[str] = field(default_factory=set)
    """Instances that were fresh after the last fault."""

    def attack(self, name: str, harm: Harm) -> None:
        """Start the engine, let it be harmed, and see what is there afterwards; until it was harmed in truth.

        Args:
            harm: given the command and where its words go, runs it until it has ended, one way or another; returns
                whether anything befell it.
        """
        for _ in range(TRIES):
            if self.kept == names_of(self.folder):
                for what in ("results", "work"):
                    command(self.folder, "ssimbad", "clean", what)
                self.kept = set()
            self._unlock()
            with (self.folder.parent / f"{self.engine}-{name}.log").open("w") as log:
                harmed = harm(ENGINES[self.engine], self.folder, log)
            end_all(self.folder)
            names = require_true(self.folder, self.wanted)
            assert self.kept <= names, f"lost: {sorted(self.kept - names)}"
            self.kept = names
            if harmed:
                return
        raise AssertionError(f"{name}: nothing befell {self.engine} in {TRIES} runs")

    def finish(self) -> None:
        self._unlock()
        command(self.folder, *ENGINES[self.engine])
        assert digests(self.folder) == self.wanted
        assert require_true(self.folder, self.wanted) == names_of(self.folder)

    def _unlock(self) -> None:
        command(self.folder, *UNLOCKING[self.engine])


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory, wanted) -> Callable[[str], Campaign]:
    """The campaign of an engine, one for all faults of a file."""
    made: dict[str, Campaign] = {}

    def of(engine: str) -> Campaign:
        if engine not in made:
            made[engine] = Campaign(engine, repository(tmp_path_factory.mktemp(engine) / "house"), wanted)
        return made[engine]

    return of
