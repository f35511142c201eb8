"""The whole pipeline is killed at random moments, or sleeps, under each engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

from ..cluster import ENVIRONMENT
from ..waiting import until
from .conftest import ENGINES, FAULTS, LONGEST, MARKS, START, digests, family, repository

pytestmark = MARKS


@pytest.mark.parametrize("number", range(FAULTS), ids=lambda n: f"{n:03d}")
@pytest.mark.parametrize("engine", ENGINES)
def test_killed(campaigns, engine, number):
    chance = random.Random(f"{engine} {number}")

    def kill(words, folder, log) -> bool:
        run = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log)
        try:
            assert run.wait(timeout=chance.uniform(0.5, LONGEST)) == 0, "the engine refused to work"
            return False
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            return True

    campaigns(engine).attack("kill", kill)


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_to_the_end(campaigns, engine):
    campaigns(engine).finish()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sleep_of_a_minute_changes_nothing(tmp_path, wanted, begun, engine):
    """SIGSTOP of the engine and all its jobs, as of a machine that is suspended; twice, while a stage works."""
    folder = repository(tmp_path / "house")
    run = begun(folder, "log", *ENGINES[engine])
    for begins, seconds in (("faces", 60), ("pretrain", 5)):
        until(lambda begins=begins: at_work(run.pid, begins) or run.poll() is not None, START, "a stage at work")
        group = family(run.pid)
        assert len(group) > 1, "nothing was there to stop"
        for process in group:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(seconds)
        assert run.poll() is None and psutil.Process(run.pid).status() == psutil.STATUS_STOPPED
        for process in reversed(group):
            with suppress(psutil.NoSuchProcess):
                process.resume()
    assert run.wait(timeout=START) == 0, (folder / "log").read_text()
    assert digests(folder) == wanted


def at_work(engine: int, stage: str) -> bool:
    """Whether a process of the engine's computes a stage."""
    with suppress(psutil.NoSuchProcess):
        return any({"stage", stage} <= set(process.cmdline()) for process in family(engine))
    return False
