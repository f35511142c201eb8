"""Locks, signals and time limits: work that survives being killed, and never two writers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssimbad import interrupt
from ssimbad.errors import UserError
from ssimbad.pipeline import lock

HOLD = "import sys, time\nfrom pathlib import Path\nfrom ssimbad.pipeline import lock\n"


def holder(folder: Path) -> subprocess.Popen:
    code = HOLD + f"with lock.held(Path({str(folder)!r}), 'x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    first = holder(tmp_path)
    with (
        pytest.raises(UserError, match=f"process {first.pid} on .* is working on it") as caught,
        lock.held(tmp_path, "x"),
    ):
        pass
    assert f"kill {first.pid}" in str(caught.value)
    first.kill()
    first.wait()
    with lock.held(tmp_path, "x"):
        assert (tmp_path / "lock.json").exists()
    assert not (tmp_path / "lock.json").exists()


def test_of_many_that_find_a_dead_lock_one_wins_at_a_time(tmp_path):
    dead = holder(tmp_path)
    dead.kill()
    dead.wait()
    code = HOLD + (
        "from ssimbad.errors import UserError\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "try:\n"
        "    with lock.held(folder, 'x'):\n"
        "        writing = folder / 'writing'\n"
        "        writing.touch(exist_ok=False)\n"
        "        time.sleep(0.3)\n"
        "        writing.unlink()\n"
        "        print('wrote')\n"
        "except UserError:\n"
        "    print('refused')\n"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = [r.communicate(timeout=60)[0].strip() for r in racers]
    assert all(r.returncode == 0 for r in racers)
    assert "wrote" in answers


def test_a_holder_on_another_host_is_believed_as_long_as_its_heart_beats(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "slurm_job_id": None}))
    with pytest.raises(UserError, match="on elsewhere"), lock.held(tmp_path, "x"):
        pass
    silent = time.time() - lock.PATIENCE - 1
    os.utime(path, (silent, silent))
    with lock.held(tmp_path, "x"):
        pass


def test_a_job_of_slurm_is_named(tmp_path):
    (tmp_path / "lock.json").write_text(
        json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "slurm_job_id": "4711"})
    )
    with pytest.raises(UserError, match="scancel 4711"), lock.held(tmp_path, "x"):
        pass


def test_half_a_lock_is_no_lock(tmp_path):
    (tmp_path / "lock.json").write_text('{"host": ')
    with lock.held(tmp_path, "x"):
        pass


def test_sigterm_is_a_flag_in_a_training_and_an_end_elsewhere():
    code = (
        "import os, signal\nfrom ssimbad import interrupt\ninterrupt.install()\n"
        "with interrupt.Watch() as watch:\n"
        "    assert watch.due is None\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(watch.due, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "asked to stop (SIGTERM)\n"
    assert done.returncode == 128 + signal.SIGTERM


def test_the_time_limit_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SSIMBAD_DEADLINE", str(time.time() + interrupt.MARGIN + 1000))
    with interrupt.Watch() as watch:
        assert watch.due is None
    monkeypatch.setenv("SSIMBAD_DEADLINE", str(time.time() + interrupt.MARGIN - 1))
    with interrupt.Watch() as watch:
        assert watch.due == "the time limit is near"
    monkeypatch.delenv("SSIMBAD_DEADLINE")
    assert interrupt.deadline() is None
