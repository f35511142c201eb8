"""The cores granted to this process, and how they are used: by threads of ours, each of which computes with one.

A library that shares one operation among cores (OpenMP, BLAS) lets each wait for the others at the end of it, hundreds
of times a second, and long where another process has one of these cores; its last bits depend on their number, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ssimbad.errors import ParameterError

GRANTED = "SSIMBAD_THREADS"
_SHOWN = 40
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def granted() -> int:
    """What the engine says, but no more than the machine has; else the cores on which this process may run.

    Raises:
        ParameterError: the variable that says so holds no number.
    """
    machine = os.cpu_count() or 1
    for name in (GRANTED, "OMP_NUM_THREADS"):
        if given := os.environ.get(name):
            first = given.split(",")[0].strip()  # OpenMP takes a list: one number per level of nesting
            digits = first.lstrip("0")
            if not (digits.isascii() and digits.isdecimal()):
                shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
                raise ParameterError(f"{name}={shown}: expected a number of cores, 1 or more")
            # Each core is given a thread, and pictures or networks of its own: without a limit a slip of the pen takes
            # all memory. Nine digits, since Python reads no number of thousands.
            return min(int(digits[:9]), machine)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine


def claim() -> None:
    """Keep the grant for this process and its children, and one thread for each library, before any is loaded."""
    os.environ[GRANTED] = str(granted())
    os.environ.update(dict.fromkeys(_LIBRARIES, "1"))


def one() -> None:
    """The calling thread's torch operations use one core from now on, whatever the process was started with."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@contextmanager
def alone() -> Iterator[None]:
    """`one`, for as long as the block lasts."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    one()
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
