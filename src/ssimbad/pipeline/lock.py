"""One writer per stage instance, also across restarts and nodes.

Snakemake does not adopt jobs that outlive it: after a `kill -9` a naive restart would start a second writer beside the
orphan. The lock names its holder (host, process, SLURM job) and is kept warm by a heartbeat, so that a dead holder's
lock is taken over and a living one's is respected.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from ssimbad import artifacts
from ssimbad.errors import UserError

HEARTBEAT = 10.0  # seconds
PATIENCE = 6 * HEARTBEAT  # a holder on another host that has been silent for longer is dead


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold `folder`/lock.json for as long as the block lasts.

    Raises:
        UserError: another living process holds it; the message names it and what to do.
    """
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


def _acquire(path: Path, name: str) -> None:
    # The guard makes looking and taking one act: of several that find a dead holder, the second finds the first.
    with FileLock(path.with_name("lock.guard"), timeout=HEARTBEAT):
        holder = _read(path)
        if holder is not None and _alive(path, holder):
            raise UserError(_refusal(name, holder))
        artifacts.write_text(path, json.dumps(_me()))


def _refusal(name: str, holder: dict[str, Any]) -> str:
    job = f", SLURM job {holder['slurm_job_id']}" if holder["slurm_job_id"] else ""
    stop = (
        f"scancel {holder['slurm_job_id']}" if holder["slurm_job_id"] else f"kill {holder['pid']} on {holder['host']}"
    )
    return (
        f"{name}: process {holder['pid']} on {holder['host']}{job} is working on it; "
        f"wait until it has ended (its result will be used) or stop it with `{stop}`, then run the same command again"
    )


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
    if holder["slurm_job_id"] and (state := _slurm_state(holder["slurm_job_id"])) is not None:
        return state
    try:
        return time.time() - path.stat().st_mtime < PATIENCE
    except OSError:
        return False


def _slurm_state(job: str) -> bool | None:
    """Whether SLURM still has the job; None when it cannot be asked."""
    if not shutil.which("squeue"):
        return None
    done = subprocess.run(
        ["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None
    return any(state in done.stdout for state in ("RUNNING", "COMPLETING", "SUSPENDED"))


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            os.utime(path)
        except OSError:
            return
