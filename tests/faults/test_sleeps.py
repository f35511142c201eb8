"""A training sleeps while it is started a second time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ..test_kills import COMMAND as TRAINING
from ..test_kills import newest, weights
from ..waiting import until
from .conftest import (
    ENGINES,
    MARKS,
    SLEEP,
    START,
    Begin,
    command,
    digests,
    family,
    names_of,
    repository,
    require_true,
    says,
)

pytestmark = MARKS

MADE = "records/pretrain-ssimbad-seed-0.json"


@pytest.fixture(scope="module")
def uninterrupted(untrained, tmp_path_factory) -> dict[str, bytes]:
    """The weights of a training without faults."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "house"
    shutil.copytree(untrained, folder, symlinks=True)
    command(folder, *TRAINING)
    return weights(folder)


@contextmanager
def asleep(
    begun: Begin, untrained: Path, folder: Path, *around: str
) -> Iterator[tuple[Path, subprocess.Popen, subprocess.Popen, int]]:
    """A house, a training in it that sleeps as long as the block lasts, the same command beside it, and the images of
    the newest state when it fell asleep.

    Args:
        around: words before the first command.
    """
    shutil.copytree(untrained, folder, symlinks=True)
    first = begun(folder, "first", *around, *TRAINING)
    until(lambda: newest(folder) >= 64, START, "states of the first")
    sleepers = family(first.pid)
    for process in sleepers:
        process.suspend()
    try:
        saved = newest(folder)
        yield folder, first, begun(folder, "second", *TRAINING), saved
    finally:
        for process in sleepers:
            process.resume()


def test_a_training_that_sleeps_for_minutes_is_waited_for(begun, untrained, uninterrupted, tmp_path):
    """SIGSTOP; beside it the same command again. The lock is held by a process that lives, however still."""
    with asleep(begun, untrained, tmp_path / "house") as (folder, first, second, saved):
        until(lambda: says(folder, "second", "waiting until it has ended"), START, "the second waits")
        time.sleep(SLEEP)
        assert second.poll() is None and newest(folder) == saved and not (folder / MADE).exists()
    assert first.wait(START) == second.wait(START) == 0
    assert says(folder, "second", "up to date") and not says(folder, "second", "resumed")
    assert weights(folder) == uninterrupted


def test_a_training_that_sleeps_in_another_container_is_followed_and_ends(begun, untrained, uninterrupted, tmp_path):
    """There no process can be asked: after a minute without a heartbeat the second goes on, and the first, awake
    again, writes nothing more."""
    container = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run((*container, "true"), capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes (unshare)")
    with asleep(begun, untrained, tmp_path / "house", *container) as (folder, first, second, saved):
        assert second.wait(2 * START) == 0
        assert says(folder, "second", f"resumed at {saved} of")
        made = weights(folder)
    assert first.wait(START) != 0 and says(folder, "first", "lost while this process stood still")
    assert weights(folder) == made == uninterrupted


def stage_of(folder: Path, stage: str) -> psutil.Process | None:
    """The process in this folder that computes a stage."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = Path(process.cwd()) == folder and "python" in Path(words[0]).name
            if mine and words[-4:-2] == ["stage", stage]:
                return process
        except (psutil.Error, FileNotFoundError, IndexError):
            continue
    return None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_killed_while_its_training_sleeps_and_started_again(begun, tmp_path, wanted, engine):
    """The orphan is asleep with the lock; the new engine's job waits for it and finds it done."""
    folder = repository(tmp_path / "house")
    first = begun(folder, "first.log", *ENGINES[engine])
    held = folder / "work/pretrain-ssimbad-seed-0/lock.json"
    until(lambda: held.exists() or first.poll() is not None, START, "the training")
    orphan = stage_of(folder, "pretrain")
    orphan.suspend()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    if engine == "snakemake":
        command(folder, "snakemake", "--unlock", "all")
    again = begun(folder, "again.log", *ENGINES[engine])
    try:
        until(lambda: again.poll() is not None or _waits(folder), START, "the new job")
        time.sleep(SLEEP)
        assert again.poll() is None, (folder / "again.log").read_text()
    finally:
        orphan.resume()
    assert again.wait(START) == 0, (folder / "again.log").read_text()
    assert digests(folder) == wanted and require_true(folder, wanted) == names_of(folder)


def _waits(folder: Path) -> bool:
    """Whether a second process stands at the training, after its lock was looked at."""
    logs = [folder / "again.log", *(folder / "logs").rglob("*pretrain*"), *(folder / "logs/pretrain").rglob("*.log")]
    return any("waiting until it has ended" in log.read_text() for log in logs if log.is_file())
