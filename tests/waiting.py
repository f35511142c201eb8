"""Waiting for what another process or thread does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float, what: str, process: subprocess.Popen | None = None) -> None:
    """Come back once the condition holds; it fails when that is not in time, or the process has ended before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended with {process.returncode} before: {what}"
        assert time.monotonic() < end, f"not within {seconds} seconds: {what}"
        time.sleep(0.05)
