"""Locks, signals and time limits: work that survives being killed, and never two writers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from ssimbad.errors import ParameterError
from ssimbad.pipeline import lock
from ssimbad.runtime import interrupt

from .waiting import until

HOLD = "import sys, time\nfrom pathlib import Path\nfrom ssimbad.pipeline import lock\n"


def holder(folder: Path) -> subprocess.Popen:
    code = HOLD + f"with lock.held(Path({str(folder)!r}), 'x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_waits_until_the_first_has_ended(tmp_path):
    first = holder(tmp_path)
    code = HOLD + f"with lock.held(Path({str(tmp_path)!r}), 'x'):\n    print('held', flush=True)\n"
    second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = second.stderr.readline()
    assert said.startswith(f"x: process {first.pid} on ")
    assert f"`kill {first.pid}`" in said
    time.sleep(2 * lock.GLANCE)
    assert second.poll() is None
    first.kill()
    first.wait()
    assert second.communicate(timeout=30) == ("held\n", "")
    assert not (tmp_path / "lock.json").exists()


def test_one_who_waits_can_be_asked_to_stop(tmp_path):
    first = holder(tmp_path)
    code = (
        "from ssimbad.runtime import interrupt\ninterrupt.install()\n"
        + HOLD
        + f"with lock.held(Path({str(tmp_path)!r}), 'x'):\n    pass\n"
    )
    second = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    second.stderr.readline()
    second.terminate()
    assert second.wait(timeout=30) == 128 + signal.SIGTERM
    assert lock.living(tmp_path.parent)[0].startswith(f"{tmp_path.name}: process {first.pid}")
    first.kill()
    first.wait()
    assert lock.living(tmp_path.parent) == []


def test_of_many_writers_one_writes_at_a_time_and_all_get_their_turn(tmp_path):
    dead = holder(tmp_path)
    dead.kill()
    dead.wait()
    code = HOLD + (
        f"folder = Path({str(tmp_path)!r})\n"
        "lock.GLANCE = 0.1\n"
        "with lock.held(folder, 'x'):\n"
        "    writing = folder / 'writing'\n"
        "    writing.touch(exist_ok=False)\n"
        "    time.sleep(0.3)\n"
        "    writing.unlink()\n"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [r.communicate(timeout=60)[1] for r in racers]
    assert [r.returncode for r in racers] == [0] * 6, said


ELSEWHERE = {"host": "elsewhere", "machine": "elsewhere", "pid": 1, "started": 0.0, "slurm_job_id": None}


def elsewhere(folder: Path, silent: float = 0.0, **facts: str) -> Path:
    """The lock of a process on another host, whose heart has not beaten for `silent` seconds."""
    path = folder / "lock.json"
    path.write_text(json.dumps(ELSEWHERE | facts))
    then = time.time() - silent
    os.utime(path, (then, then))
    return path


def squeue_says(folder: Path, monkeypatch, answer: str, code: int = 0) -> None:
    stream = ">&2" if code else ""
    (folder / "squeue").write_text(f"#!/bin/sh\necho {answer} {stream}\nexit {code}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_holder_on_another_host_is_believed_as_long_as_its_heart_beats(tmp_path):
    work = tmp_path / "work/x"
    work.mkdir(parents=True)
    elsewhere(work)
    assert "process 1 on elsewhere" in lock.living(work.parent)[0]
    elsewhere(work, silent=lock.PATIENCE + 1)
    assert lock.living(work.parent) == []


def test_a_holder_may_be_on_a_host_of_any_name(tmp_path):
    work = tmp_path / "work/x"
    work.mkdir(parents=True)
    elsewhere(work, host="\x1b[31m\nssimbad: error")
    assert r"process 1 on \x1b[31m\nssimbad: error" in lock.living(work.parent)[0]


def test_a_silent_job_is_believed_as_long_as_slurm_has_it(tmp_path, monkeypatch):
    work = tmp_path / "work/x"
    work.mkdir(parents=True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    elsewhere(work, silent=lock.PATIENCE + 1, slurm_job_id="4711")
    squeue_says(tmp_path, monkeypatch, "SUSPENDED")
    assert "scancel 4711" in lock.living(work.parent)[0]
    squeue_says(tmp_path, monkeypatch, "STOPPED")
    assert len(lock.living(work.parent)) == 1
    squeue_says(tmp_path, monkeypatch, "slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert len(lock.living(work.parent)) == 1, "no answer is no death"
    squeue_says(tmp_path, monkeypatch, "slurm_load_jobs error: Invalid job id specified", code=1)
    assert lock.living(work.parent) == []
    squeue_says(tmp_path, monkeypatch, "FAILED")
    assert lock.living(work.parent) == []


def test_a_process_number_means_nothing_in_another_container(tmp_path):
    """Same host name, no such process here, and a beating heart."""
    work = tmp_path / "work/x"
    work.mkdir(parents=True)
    elsewhere(work, host=lock.socket.gethostname(), machine="another container", pid=2**22 + 1)
    assert len(lock.living(work.parent)) == 1


def test_a_process_with_the_number_of_a_dead_holder_is_not_the_holder(tmp_path):
    work = tmp_path / "work/x"
    work.mkdir(parents=True)
    with lock.held(work, "x"):
        me = json.loads((work / "lock.json").read_text())
    (work / "lock.json").write_text(json.dumps(me))
    assert len(lock.living(work.parent)) == 1
    (work / "lock.json").write_text(json.dumps(me | {"started": me["started"] - 100}))
    assert lock.living(work.parent) == []


@pytest.mark.parametrize("ended", [False, True], ids=["the second works", "the second has ended"])
def test_one_who_stood_still_and_lost_the_lock_ends_at_once(tmp_path, monkeypatch, ended):
    """A holder elsewhere is believed by its heart; stopped for too long it is followed, and must not wake to write."""
    work = tmp_path / "work/x"
    code = HOLD + (
        "lock.HEARTBEAT = 0.2\nlock.machine = lambda: 'elsewhere'\n"
        f"with lock.held(Path({str(work)!r}), 'x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert first.stdout.readline() == "held\n"
    monkeypatch.setattr(lock, "PATIENCE", 2.0)
    monkeypatch.setattr(lock, "GLANCE", 0.1)
    time.sleep(4)
    assert f"process {first.pid} on " in lock.living(work.parent)[0]
    first.send_signal(signal.SIGSTOP)
    try:
        with lock.held(work, "x"):
            if not ended:
                first.send_signal(signal.SIGCONT)
                assert first.wait(timeout=30) == 1
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=30) == 1
    finally:
        first.kill()
    who = "another took it over and has ended" if ended else f"process {os.getpid()} on "
    assert f"lost while this process stood still: {who}" in first.stderr.read()


def test_a_heart_that_misses_a_beat_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    beats = []

    def utime(path):
        beats.append(path)
        if len(beats) == 1:
            raise OSError(116, "Stale file handle")

    monkeypatch.setattr(lock.os, "utime", utime)
    with lock.held(tmp_path, "x"):
        until(lambda: len(beats) > 3, 60, "beats after the missed one")


def test_clocks_of_two_machines_may_differ(tmp_path, monkeypatch):
    """A file server whose clock is minutes behind makes every beat look old; it beats all the same."""
    path = elsewhere(tmp_path, silent=lock.SKEW / 2)
    pulse = lock.Pulse(path)
    assert pulse.silent() < 1
    later = time.monotonic() + 100
    monkeypatch.setattr(lock.time, "monotonic", lambda: later)
    assert 90 < pulse.silent() < 110
    elsewhere(tmp_path, silent=lock.SKEW / 3)
    assert pulse.silent() < 1, "another beat"
    elsewhere(tmp_path, silent=lock.SKEW + 1000)
    assert pulse.silent() > 900, "no clock is that wrong"


def test_a_job_requeued_to_another_node_does_not_wait_for_itself(tmp_path, monkeypatch):
    """It has kept its number, so SLURM says of the dead holder that it is running."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    squeue_says(tmp_path, monkeypatch, "RUNNING")
    elsewhere(tmp_path, silent=lock.SKEW + lock.PATIENCE + 1, slurm_job_id="4711")
    with lock.held(tmp_path, "x"):
        assert json.loads((tmp_path / "lock.json").read_text())["host"] != "elsewhere"


@pytest.mark.parametrize("text", ['{"host": ', "{}", "[]", "1", "", "[" * 100_000])
def test_half_a_lock_is_no_lock(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    assert lock.living(tmp_path.parent) == []
    with lock.held(tmp_path, "x"):
        pass


NO_HOLDERS = [
    *(("pid", pid) for pid in ("x", -5, 0, 2**40, None, 1.5)),
    *(("started", "x"), ("machine", []), ("host", 1), ("slurm_job_id", 4711), ("slurm_job_id", [])),
]


@pytest.mark.parametrize(("key", "value"), NO_HOLDERS)
@pytest.mark.parametrize("machine", ["here", "elsewhere"])
def test_a_lock_that_names_no_process_is_no_lock(tmp_path, key, value, machine):
    place = {"machine": lock.machine() if machine == "here" else machine}
    (tmp_path / "lock.json").write_text(json.dumps(ELSEWHERE | place | {key: value}))
    assert lock.living(tmp_path.parent) == []
    with lock.held(tmp_path, "x"):
        pass


def test_sigterm_is_a_flag_in_a_training_and_an_end_elsewhere():
    code = (
        "import os, signal\nfrom ssimbad.runtime import interrupt\ninterrupt.install()\n"
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


@pytest.mark.parametrize("given", ["tomorrow", "2026-11-22", " ", "nan", "inf"])
def test_a_time_limit_that_is_no_time_is_one_line(monkeypatch, given):
    monkeypatch.setenv("SSIMBAD_DEADLINE", given)
    with pytest.raises(ParameterError, match=f"SSIMBAD_DEADLINE={given}: expected seconds since 1970"):
        interrupt.deadline()


def test_the_time_limit_is_asked_of_slurm(tmp_path, monkeypatch, capsys):
    for name in ("SSIMBAD_DEADLINE", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    squeue_says(tmp_path, monkeypatch, "2026-11-22T10:00:00")
    assert interrupt.deadline() == datetime(2026, 11, 22, 10).timestamp()
    squeue_says(tmp_path, monkeypatch, "NONE")
    assert interrupt.deadline() is None
    assert capsys.readouterr().err == ""
    squeue_says(tmp_path, monkeypatch, "Unable to contact slurm controller", code=1)
    assert interrupt.deadline() is None
    assert "SLURM job 4711: time limit not known (squeue: Unable to contact" in capsys.readouterr().err
