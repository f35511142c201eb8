"""What SLURM says of this job and of others: the one place that asks it."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime

END_TIME = "SLURM_JOB_END_TIME"
TASK = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
"""Which task of its step a process is, how many there are, and its number on the node."""
_SECONDS = 30  # for one answer
# What squeue says of a job that does not run; every other word is life.
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "REVOKED", "SPECIAL_EXIT", "TIMEOUT",
}  # fmt: skip


def job_id() -> str | None:
    """The number of the job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> str:
    """How often this job was requeued."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def nodes() -> str:
    """The nodes of this step, or of this job, in SLURM's short form; empty where it says nothing."""
    return os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or ""


def first_node() -> str | None:
    """The first of `nodes`; None: nobody knows."""
    try:
        found = _asked("scontrol", "show", "hostnames", nodes()).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found[0] if found else None


def is_running(job: str) -> bool:
    """Whether a job is running as far as one knows: no where there is no SLURM, yes while it does not answer."""
    if not shutil.which("squeue"):
        return False
    try:
        done = _asked("squeue", "-h", "-j", job, "-o", "%T")
    except subprocess.TimeoutExpired:
        return True
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return bool(set(done.stdout.split()) - _ENDED)


def end_of(job: str) -> float | None:
    """When a job will be killed (seconds since 1970); None: it has no limit.

    Raises:
        LookupError: SLURM does not say; with what it said instead.
    """
    try:
        done = _asked("squeue", "-h", "-j", job, "-o", "%e")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LookupError(str(error)) from None
    said = done.stdout.strip() or done.stderr.strip()
    if said in ("N/A", "NONE"):
        return None
    try:
        return datetime.fromisoformat(said).timestamp()
    except ValueError:
        raise LookupError(said) from None


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
