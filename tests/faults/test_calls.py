"""The disk refuses a call at a random moment of the whole pipeline, under each engine: whatever process makes it, and
whatever library, SQLite, safetensors and DVC among them."""

from __future__ import annotations

import random
import re
import subprocess

import pytest

from ..cluster import ENVIRONMENT
from . import syscalls
from .conftest import ENGINES, FAULTS, MARKS

pytestmark = MARKS

REFUSALS = [
    ("write", "EIO"), ("write", "ENOSPC"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("sendfile", "ENOSPC"),
    ("fsync,fdatasync,syncfs", "EIO"), ("rename,renameat,renameat2", "EIO"), ("unlink,unlinkat", "EIO"),
    ("ftruncate", "EIO"), ("mkdir,mkdirat", "ENOSPC"), ("link,linkat,symlink", "EIO"),
    ("chmod,fchmod,fchmodat", "EPERM"),
]  # fmt: skip
ELSEWHERE = re.compile(r"<(?!/)|</(?:dev|proc)/")
"""Of what is open: pipes, sockets, terminals; not files on the disk."""
LATEST = 3000
"""Of the calls of one kind in one thread, about as many as the busiest makes."""


@pytest.mark.parametrize("number", range(FAULTS), ids=lambda n: f"{n:03d}")
@pytest.mark.parametrize("engine", ENGINES)
def test_refused(campaigns, tmp_path, engine, number):
    """The k-th call of every thread that makes so many fails, once."""
    chance = random.Random(f"{engine} {number}")
    calls, error = REFUSALS[number % len(REFUSALS)]
    traced = (syscalls.strace(), "-f", "--seccomp-bpf", "-qq", "-y", "-e", f"trace={calls}")
    told = tmp_path / "calls.log"

    def refuse(words, folder, log) -> bool:
        k = int(LATEST ** chance.random())
        refusing = (*traced, "-o", str(told), "-e", f"inject={calls}:error={error}:when={k}", *words)
        subprocess.run(
            refusing, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True, timeout=900
        )
        refused = [line for line in told.read_text(errors="replace").splitlines() if "(INJECTED)" in line]
        return any(not ELSEWHERE.search(line) and log.name not in line for line in refused)

    campaigns(engine).attack("refused", refuse)


@pytest.mark.parametrize("engine", ENGINES)
def test_refused_to_the_end(campaigns, engine):
    campaigns(engine).finish()
