"""One writer per stage instance, also across restarts and nodes.

Snakemake does not adopt jobs that outlive it: after a `kill -9` a naive restart starts a second writer beside the
orphan. That one waits here until the first has ended, and then finds its result, or its last state. The lock names
its holder (host, process, SLURM job) and is kept warm by a heartbeat, so that a dead holder's lock is taken over.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from ssimbad import artifacts

GLANCE = 2.0  # seconds between two looks of one who waits
HEARTBEAT = 10.0  # seconds
PATIENCE = 6 * HEARTBEAT  # a holder on another host that has been silent for longer is dead


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold `folder`/lock.json for as long as the block lasts; wait for it while another living process does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock.json"
    _acquire(path, name)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join(timeout=5)
        if _read(path) == _me():
            path.unlink(missing_ok=True)


def living(work: Path) -> list[str]:
    """One line per stage instance under `work` that a living process holds."""
    held_by = {path: _read(path) for path in sorted(work.glob("*/lock.json"))}
    return [_described(p.parent.name, h) for p, h in held_by.items() if h is not None and _alive(p, h)]


def _acquire(path: Path, name: str) -> None:
    told = None
    while (holder := _take(path)) is not None:
        if holder != told:
            print(f"{_described(name, holder)}; waiting until it has ended", file=sys.stderr, flush=True)
            told = holder
        time.sleep(GLANCE)


def _take(path: Path) -> dict[str, Any] | None:
    """Take the lock, or return who holds it."""
    # The guard makes looking and taking one act: of several that find a dead holder, the second finds the first.
    with FileLock(path.with_name("lock.guard")):
        holder = _read(path)
        if holder is not None and _alive(path, holder):
            return holder
        artifacts.write_text(path, json.dumps(_me()))
        return None


def _described(name: str, holder: dict[str, Any]) -> str:
    job = holder["slurm_job_id"]
    where = f"process {holder['pid']} on {holder['host']}" + (f", SLURM job {job}," if job else "")
    stop = f"scancel {job}" if job else f"kill {holder['pid']}"
    return f"{name}: {where} is working on it (`{stop}` would stop it; a training keeps its state)"


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _alive(path: Path, holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        try:
            process = psutil.Process(holder["pid"])
            same = abs(process.create_time() - holder["started"]) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
    try:
        if time.time() - path.stat().st_mtime < PATIENCE:
            return True
    except OSError:
        return False
    # Silent, but perhaps suspended. A job that was requeued to another node has kept its number: that one is us.
    job = holder["slurm_job_id"]
    return bool(job) and job != os.environ.get("SLURM_JOB_ID") and _in_slurm(job)


def _in_slurm(job: str) -> bool:
    """Whether SLURM says that the job is running; False when it cannot be asked."""
    if not shutil.which("squeue"):
        return False
    command = ["squeue", "-h", "-j", job, "-o", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return any(state in done.stdout for state in ("RUNNING", "COMPLETING", "SUSPENDED"))


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            os.utime(path)
        except OSError:
            return
