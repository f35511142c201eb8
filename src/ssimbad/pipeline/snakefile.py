"""What reading the Snakefile may change: nothing, as long as another run lives that relies on it.

While it is read, Snakemake does not tell whether for a run, a dry run or a picture of the graph. So every process that
reads it takes a lock and keeps it until it ends, also by `kill -9`. One that finds it held waits while the holder only
plans; a holder that executes jobs relies on the markers, and they are left as they are.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from ssimbad.errors import UserError
from ssimbad.params import Params
from ssimbad.pipeline import records

LOCK = records.STATE / "snakemake.lock"
PATIENCE = 600.0  # seconds for which somebody else may plan
_EXECUTING = Path(".snakemake/locks")  # filled by Snakemake while it executes jobs, and left so by a `kill -9`


def reconcile(params: Params) -> None:
    """Make the markers tell the truth, or say on stderr that another run relies on them as they are.

    Raises:
        UserError: see `alone`.
    """
    if alone():
        records.reconcile(params)
    else:
        print(
            f"ssimbad: {_holder()} is executing jobs here and relies on the markers: they stay as they are, and a plan"
            " starts from them; `ssimbad status` tells what is fresh now",
            file=sys.stderr,
        )


def alone() -> bool:
    """Whether no other Snakemake executes jobs here; if so, none begins to before this process has ended.

    Raises:
        UserError: another process keeps the lock without executing anything, or the file system has no locks.
    """
    start, told = time.monotonic(), False
    while not _taken():
        if any(_EXECUTING.glob("*.lock")):
            return False
        waited = time.monotonic() - start
        if waited > PATIENCE:
            raise UserError(f"{_holder()} has been planning here for too long; wait until it has ended, or end it")
        if waited > 2 and not told:
            print(f"ssimbad: {_holder()} is planning here; waiting until it has", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.2)
    return True


def _taken() -> bool:
    try:
        lock = _lock(LOCK.resolve())
        if not lock.is_locked:
            LOCK.parent.mkdir(exist_ok=True)
            lock.acquire(blocking=False)
            LOCK.write_text(str(os.getpid()))
    except Timeout:
        return False
    except OSError as error:
        raise UserError(f"{LOCK}: {error.strerror}; Snakemake needs a folder that it can write to and lock") from None
    return True


@cache
def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _holder() -> str:
    try:
        return f"another Snakemake (process {int(LOCK.read_text())})"
    except (OSError, ValueError):
        return "another Snakemake"
