"""The whole pipeline is killed at random moments, or sleeps, under each engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ..cluster import ENVIRONMENT
from .conftest import ENGINES, LONGEST, MARKS, command, digests, end_all, names_of, repository, require_true

pytestmark = MARKS

KILLS = int(os.environ.get("FAULTS", "100"))


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
        if self.kept == names_of(self.folder):
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
        end_all(self.folder)
        names = require_true(self.folder, self.wanted)
        assert self.kept <= names, f"lost: {sorted(self.kept - names)}"
        self.kept = names

    def finish(self) -> None:
        self._unlock()
        command(self.folder, *ENGINES[self.engine])
        assert digests(self.folder) == self.wanted
        assert require_true(self.folder, self.wanted) == names_of(self.folder)

    def _unlock(self) -> None:
        if self.engine == "snakemake":
            command(self.folder, "snakemake", "--unlock", "all")


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
