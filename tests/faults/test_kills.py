"""The whole pipeline is killed at random moments, or sleeps, under each engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from ..cluster import ENVIRONMENT
from .conftest import ENGINES, FAULTS, LONGEST, MARKS, digests, repository

pytestmark = MARKS


@pytest.mark.parametrize("number", range(FAULTS), ids=lambda n: f"{n:03d}")
@pytest.mark.parametrize("engine", ENGINES)
def test_killed(campaigns, engine, number):
    moment = random.Random(f"{engine} {number}").uniform(0.5, LONGEST)

    def kill(words, folder, log):
        run = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log)
        try:
            assert run.wait(timeout=moment) == 0, "nothing was killed: the engine refused to work"
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()

    campaigns(engine).attack("kill", kill)


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
