"""What reading the Snakefile may change: nothing, as long as another run lives that relies on it.

While it is read, Snakemake does not tell whether for a run, a dry run or a picture of the graph. So every process that
reads it takes one lock and, once it executes jobs, a second, and has them until it ends, also by `kill -9`. Who finds
the first one taken waits while the other only plans; of one that executes jobs the markers are left as they are.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from ssimbad.errors import UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, lock, records
from ssimbad.pipeline.runner import WORK

READING, EXECUTING = records.STATE / "reading.lock", records.STATE / "executing.lock"
PATIENCE = 600.0  # seconds for which somebody else may plan


def reconcile(params: Params) -> None:
    """Make the markers tell the truth, or say on stderr that another run relies on them as they are.

    Raises:
        UserError: the package that runs is not this checkout's; see also `alone`.
    """
    code.require_own()
    if alone():
        records.reconcile(params)
    else:
        print(
            f"ssimbad: {_other()} executes jobs here and relies on the markers: they stay as they are, and a plan"
            " starts from them; `ssimbad status` tells what is fresh now",
            file=sys.stderr,
        )


def require_idle(what: str) -> None:
    """Begin only where nobody works, and see that no Snakemake begins to before this process has ended.

    Args:
        what: has not been done, for the message: "nothing removed".

    Raises:
        UserError: a stage or a Snakemake run is under way; see also `alone`.
    """
    if busy := lock.living(WORK):
        raise UserError(f"{what}: {busy[0]}")
    if not alone():
        raise UserError(f"{what}: a Snakemake run is under way here; wait until it has ended")


def calm() -> None:
    """Let Snakemake's scheduler look again after a while only where its rate limit has held something back.

    By itself it arranges for another look after every look, and one more whenever a job ends: after a hundred jobs it
    looks a hundred times a second, and solves an integer program each time that a job waits for cores. One process that
    schedules 233 jobs had spent twelve minutes of a processor on it by the hundredth.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    def look_again(scheduler: JobScheduler, delay: int) -> None:
        limiter = scheduler.job_rate_limiter
        limited = limiter is not None and delay == limiter.timespan
        if limited and limiter.get_free_jobs() > 0:
            return
        waiting = getattr(scheduler, "_look_again", None)
        if not (waiting and waiting.is_alive()):
            vars(scheduler)["_look_again"] = timer = threading.Timer(delay, scheduler._open_jobs.release)
            timer.start()

    JobScheduler._schedule_reevalutation = look_again  # ty: ignore[invalid-assignment] a function becomes a method


def begin() -> None:
    """Say, until this process ends, that it does not only plan, but executes jobs."""
    _lock(EXECUTING.resolve()).acquire()


def alone() -> bool:
    """Whether no other Snakemake executes jobs here; if so, none begins to before this process has ended.

    Raises:
        UserError: another process plans and does not end, or the file system has no locks.
    """
    start, told = time.monotonic(), False
    while not _taken(_lock(READING.resolve())):
        if not _free(EXECUTING):
            return False
        waited = time.monotonic() - start
        if waited > PATIENCE:
            raise UserError(f"{_other()} has been planning here for too long; wait until it has ended, or end it")
        if waited > 2 and not told:
            print(f"ssimbad: {_other()} is planning here; waiting until it has", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.2)
    READING.write_text(str(os.getpid()))
    return True


def _taken(lock: FileLock) -> bool:
    try:
        Path(lock.lock_file).parent.mkdir(exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        raise UserError(
            f"{records.STATE}: {error.strerror}; Snakemake needs to write to this folder and to lock files in it"
        ) from None
    return True


def _free(path: Path) -> bool:
    lock = FileLock(path, fallback_to_soft=False)
    taken = _taken(lock)
    lock.release(force=True)
    return taken


@cache
def _lock(path: Path) -> FileLock:
    """The same object for as long as the process lives, since the lock goes with it."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _other() -> str:
    try:
        return f"another Snakemake (process {int(READING.read_text())})"
    except (OSError, ValueError):  # it has just begun, or ended
        return "another Snakemake"
