"""Whoever reads the Snakefile, for whatever purpose, changes nothing that another run relies on."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from ssimbad.errors import UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import snakefile

HOLD = """
from ssimbad.pipeline import snakefile
print(snakefile.alone(), flush=True)
if input() == "execute":
    snakefile.begin()
    print("so it does", flush=True)
    input()
"""


class Other:
    """Another process that has read the Snakefile in this folder."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "True\n"
        self.pid = self._process.pid

    def execute(self) -> None:
        """Begin to execute jobs."""
        self._process.stdin.write("execute\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "so it does\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def other(house):
    process = Other()
    yield process
    process.kill()


def plan(folder: Path) -> None:
    """What `snakemake --summary` does: read the Snakefile and build the graph."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api, contextlib.redirect_stdout(io.StringIO()):
        flow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=folder / "Snakefile", workdir=folder)
        flow.dag(DAGSettings()).summary()


def marked(folder: Path) -> set[str]:
    return {p.name for p in (folder / ".state").glob("*.ok")}


def test_a_plan_leaves_the_markers_of_a_run_that_lives(house, other, capfd):
    """Here of a run whose results this plan's parameters would call stale; a dead run's it corrects."""
    for name in ("raw", "faces", "sketches"):
        (house / f".state/{name}.ok").touch()
    other.execute()
    plan(house)
    assert marked(house) == {"raw.ok", "faces.ok", "sketches.ok"}
    assert f"another Snakemake (process {other.pid}) executes jobs here" in capfd.readouterr().err
    other.kill()
    plan(house)
    assert marked(house) == set()
    assert "another Snakemake" not in capfd.readouterr().err


def test_a_run_waits_until_a_plan_has_been_made(house, other, monkeypatch, capsys):
    looks = []

    def glance(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            other.kill()

    monkeypatch.setattr(snakefile.time, "sleep", glance)
    monkeypatch.setattr(snakefile.time, "monotonic", lambda: float(10 * len(looks)))
    (house / ".state/faces.ok").touch()
    snakefile.reconcile(parameters.load())
    assert marked(house) == set()
    assert len(looks) >= 3
    assert capsys.readouterr().err.count("is planning here; waiting") == 1


def test_who_plans_for_ever_is_named(other, monkeypatch):
    monkeypatch.setattr(snakefile, "PATIENCE", -1.0)
    with pytest.raises(UserError, match=rf"another Snakemake \(process {other.pid}\) has been planning here"):
        snakefile.alone()


def test_a_folder_that_cannot_be_locked_is_one_line(house):
    (house / ".state").write_text("no folder")
    with pytest.raises(UserError, match=r"^\.state: .*Snakemake needs to write to this folder"):
        snakefile.alone()


class Scheduler:
    """As much of Snakemake's as looks again."""

    def __init__(self, free: int | None, timespan: float = 0.05) -> None:
        self.job_rate_limiter = None
        if free is not None:
            self.job_rate_limiter = SimpleNamespace(timespan=timespan, get_free_jobs=lambda: free)
        self._open_jobs = threading.Semaphore(0)

    def looks(self) -> int:
        """How often it is woken within a fifth of a second."""
        time.sleep(0.2)
        count = 0
        while self._open_jobs.acquire(blocking=False):
            count += 1
        return count


def test_the_scheduler_looks_again_only_for_what_its_rate_has_held_back(monkeypatch):
    original = JobScheduler._schedule_reevalutation  # gone with an update of Snakemake, it is to be looked at anew
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", original)
    snakefile.calm()
    look_again = JobScheduler._schedule_reevalutation
    assert look_again is not original
    for free, wanted in ((100, 0), (1, 0), (0, 1), (None, 1)):
        scheduler = Scheduler(free)
        for _ in range(5):
            look_again(scheduler, 0.05)
        assert scheduler.looks() == wanted, free
        look_again(scheduler, 0.05)
        assert scheduler.looks() == wanted  # and once more, when asked once more
    waiting_for_input = Scheduler(100)
    look_again(waiting_for_input, 0.1)
    assert waiting_for_input.looks() == 1
