"""Stopping in time: SIGTERM and the job's time limit become a flag that a training looks at between two steps."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from types import FrameType

from ssimbad.errors import ParameterError
from ssimbad.runtime import slurm

EXIT = 75  # "temporary failure": run the same command again and it goes on
MARGIN = 60.0  # seconds before the time limit in which a state is written
_flag = {"graceful": False, "asked": False}


def install() -> None:
    """Let SIGTERM end this process in order: at the next step in a training, at once (exit 143) elsewhere."""
    signal.signal(signal.SIGTERM, _on_term)


def _on_term(number: int, frame: FrameType | None) -> None:
    if _flag["graceful"]:
        _flag["asked"] = True
    else:
        sys.exit(128 + number)


class Watch:
    """Between `with` and its end, SIGTERM only sets a flag; `due` says whether to stop now."""

    def __init__(self) -> None:
        self._deadline = deadline()

    def __enter__(self) -> Watch:
        _flag["graceful"] = True
        return self

    def __exit__(self, *exc: object) -> None:
        _flag["graceful"] = False

    @property
    def due(self) -> str | None:
        """Why to stop, or None."""
        if _flag["asked"]:
            return "asked to stop (SIGTERM)"
        if self._deadline is not None and time.time() > self._deadline - MARGIN:
            return "the time limit is near"
        return None


def deadline() -> float | None:
    """When this job will be killed (seconds since 1970), from `SSIMBAD_DEADLINE` or from SLURM; None: not known.

    Raises:
        ParameterError: the variable is no number.
    """
    for name in ("SSIMBAD_DEADLINE", slurm.END_TIME):
        if given := os.environ.get(name):
            return _seconds(name, given)
    job = slurm.job_id()
    try:
        return slurm.end_of(job) if job else None
    except LookupError as error:
        line = f"SLURM job {job}: time limit not known (squeue: {error}); only SIGTERM will stop this training in time"
        print(line, file=sys.stderr, flush=True)
        return None


def _seconds(name: str, given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ParameterError(f"{name}={given}: expected seconds since 1970, as `date +%s -d '10 hours'` prints them")
    return seconds
