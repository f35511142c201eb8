"""One writer per stage instance, also across restarts and nodes.

Snakemake does not adopt jobs that outlive it: after a `kill -9` a naive restart starts a second writer beside the
orphan. That one waits here until the first has ended, and then finds its result, or its last state. The lock names
its holder (host, process, SLURM job) and is kept warm by a heartbeat, so that a dead holder's lock is taken over.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

import psutil
from filelock import FileLock

from ssimbad import artifacts
from ssimbad.errors import UserError, shown
from ssimbad.runtime import slurm

GLANCE = 2.0  # seconds between two looks of one who waits
HEARTBEAT = 10.0  # seconds
PATIENCE = 6 * HEARTBEAT  # a holder on another machine that has been silent for longer is dead
SKEW = 600.0  # seconds by which the clocks of two machines, or of a file server, may differ


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold `folder`/lock.json for as long as the block lasts; wait for it while another living process does.

    A process that finds that somebody else holds the lock by now (it was suspended for too long) ends at once.

    Raises:
        OSError: the file system has no locks (flock).
        UserError: another user holds it, and keeps from others who.
    """
    artifacts.make_folder(folder)
    path, me = folder / "lock.json", _me()
    _acquire(path, name, me)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, me, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join(timeout=5)
        if _read(path) == me:
            path.unlink(missing_ok=True)


def living(work: Path) -> list[str]:
    """One line per stage instance under `work` that a living process holds."""
    held_by = {path: _read(path) for path in sorted(work.glob("*/lock.json"))}
    return [_described(p.parent.name, h) for p, h in held_by.items() if h is not None and _alive(h, _age(p))]


class Holder(TypedDict):
    """Who holds a lock."""

    host: str
    machine: str
    pid: int
    started: float | None
    slurm_job_id: str | None


def _acquire(path: Path, name: str, me: Holder) -> None:
    told = None
    pulse = Pulse(path)
    while (holder := _take(path, me, pulse)) is not None:
        if holder != told:
            print(f"{_described(name, holder)}; waiting until it has ended", file=sys.stderr, flush=True)
            told = holder
        time.sleep(GLANCE)


class Pulse:
    """For how long the heart of the lock at `path` has not beaten, by this machine's own clock."""

    def __init__(self, path: Path) -> None:
        self._path, self._beat, self._since = path, None, 0.0

    def silent(self) -> float:
        """Seconds; those before the first look count only as far as no difference of clocks explains them."""
        with suppress(OSError):
            beat = self._path.stat().st_mtime_ns
            if beat != self._beat:
                self._beat, self._since = beat, time.monotonic()
        return max(time.monotonic() - self._since, _age(self._path) - SKEW)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _take(path: Path, me: Holder, pulse: Pulse) -> Holder | None:
    """Take the lock, or return who holds it."""
    # The guard makes looking and taking one act: of several that find a dead holder, the second finds the first.
    with FileLock(path.with_name("lock.guard"), fallback_to_soft=False):
        holder = _read(path)
        if holder is not None and _alive(holder, pulse.silent()):
            return holder
        if holder is None and path.exists() and not os.access(path, os.R_OK):
            gone = "where no process of its owner works any more, remove it"
            raise UserError(f"{path}: another user's lock, which you may not read; ask its owner, or {gone}")
        artifacts.write_text(path, json.dumps(me))
        return None


def _described(name: str, holder: Holder) -> str:
    job = holder["slurm_job_id"]
    where = f"process {holder['pid']} on {holder['host']}" + (f", SLURM job {job}," if job else "")
    stop = f"scancel {job}" if job else f"kill {holder['pid']}"
    return shown(f"{name}: {where} is working on it (`{stop}` would stop it; a training keeps its state)")


def _me() -> Holder:
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "slurm_job_id": slurm.job_id(),
    }


def machine() -> str:
    """Where a process number has one meaning: this boot and, on Linux, this container. Host names may be shared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> float | None:
    """When a living process began; None: there is none. On Linux in ticks since boot, which no set clock moves."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == "linux":
            return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        return process.create_time()
    except (psutil.Error, OSError):
        return None


def _read(path: Path) -> Holder | None:
    """Who holds the lock; None: nobody, or the file is no whole lock."""
    try:
        holder = artifacts.parsed_json(path)
    except (OSError, ValueError):
        return None
    # A number that no process has would be signalled to a whole group by whoever follows the advice to end it.
    forms = {"host": str, "machine": str, "pid": int, "started": float | None, "slurm_job_id": str | None}
    whole = isinstance(holder, dict) and all(k in holder and isinstance(holder[k], f) for k, f in forms.items())
    return holder if whole and 0 < holder["pid"] < 2**31 else None


def _alive(holder: Holder, silent: float) -> bool:
    if holder["machine"] == machine():
        return holder["started"] is not None and _started(holder["pid"]) == holder["started"]
    if silent < PATIENCE:
        return True
    # Silent, but perhaps suspended. A job that was requeued to another node has kept its number: that one is us.
    job = holder["slurm_job_id"]
    return bool(job) and job != slurm.job_id() and slurm.is_running(job)


def _gone(path: Path) -> bool:
    """Whether there is no such file; a file server that does not answer says neither."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def _beat(path: Path, me: Holder, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        holder = _read(path)
        if (holder not in (None, me) or _gone(path)) and not done.is_set():
            # After a stop of more than PATIENCE. Two writers would mix their results, and one who has ended may have
            # left newer ones: this process must not go on at all.
            lost = f"{path}: lost while this process stood still"
            said = _described(lost, holder) if holder else f"{lost}: another took it over and has ended"
            print(said, file=sys.stderr, flush=True)
            os._exit(1)
        with suppress(OSError):  # the next beat may reach the file server again
            os.utime(path)
