"""The disk fails at every write, is full, or loses in a power cut what was not synced."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ssimbad.params import tree as parameters
from ssimbad.pipeline import records, runner
from ssimbad.pipeline.table import instances

from ..conftest import make_house, miniature
from .conftest import ENGINES, MARKS, command, digests, end_all, repository, require_true

pytestmark = MARKS


class FailedError(OSError):
    """So that a fault is told from an error of another kind."""


@pytest.fixture
def smallest(tmp_path, monkeypatch) -> Iterator[parameters.Params]:
    """The miniature in this process, nothing computed yet."""
    tree = miniature()
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    monkeypatch.chdir(make_house(tmp_path / "house", tree))
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    yield parameters.load()


CALLS = ("fsync", "replace")


@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_the_disk_at_every_write_of_every_stage(smallest, tmp_path, monkeypatch, call):
    """The k-th call fails, for every k that there is; then the stage runs as if nothing had been."""
    whole = tmp_path / "whole"
    for instance in instances(smallest):
        runner.run(smallest, instance)
    shutil.copytree(Path.cwd(), whole, symlinks=True)
    right, told, tried = digests(whole), getattr(os, call), 0
    for place in ("data", "models", "outputs", "records", "reports", "work", ".state"):
        shutil.rmtree(place, ignore_errors=True)
    for instance in instances(smallest):
        for k in count():
            calls = count()

            def faulty(*given, at=k, calls=calls, **named):
                if next(calls) == at:
                    raise FailedError(5, "Input/output error")
                return told(*given, **named)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, faulty)
                try:
                    runner.run(smallest, instance)
                except OSError as error:
                    assert "Input/output error" in str(error)
            if next(calls) <= k:
                break  # it has fewer calls
            tried += 1
            with records.hashes() as hashed:
                if records.stale(instance, smallest, hashed) is None:
                    for file in instance.outputs.values():
                        assert records.md5(Path(file)) == right[file]
            assert not [p for p in Path().rglob(".*.tmp") if ".snakemake" not in p.parts]
        runner.run(smallest, instance)
    assert digests(Path.cwd()) == right and tried > 50


class PowerCut:
    """Keeps account of what would be lost: names whose change was not synced, at random and in any order, since a file
    system may write folders in any order. Bytes have to be synced before their file gets its name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._synced: set[tuple[int, int]] = set()
        self._renamed: list[tuple[Path, bytes | None, bool]] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            about = os.fstat(descriptor)
            self._synced.add((about.st_ino, about.st_size))

        def renamed(source, target) -> None:
            about, target = Path(source).stat(), Path(target).absolute()
            earlier = target.read_bytes() if target.is_file() else None
            self._renamed.append((target, earlier, (about.st_ino, about.st_size) in self._synced))
            replace(source, target)

        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", renamed)

    def happen(self, chance: random.Random) -> int:
        """Lose what may be lost; returns how many files that were."""
        lost = 0
        assert all(synced for *_, synced in self._renamed), "a file gets its name before its bytes are on the disk"
        for target, earlier, _ in reversed(self._renamed):
            if target.exists() and chance.random() < 0.5:
                target.unlink() if earlier is None else target.write_bytes(earlier)
                lost += 1
        return lost


@pytest.mark.parametrize("number", range(12))
def test_a_power_cut_loses_names_and_never_the_truth(smallest, tmp_path, monkeypatch, number):
    """After some of the stages the last of them is as if its changes had reached the disk in part."""
    chance = random.Random(number)
    table = instances(smallest)
    for instance in table:
        runner.run(smallest, instance)
    right, lost = digests(Path.cwd()), 0
    for place in ("data", "models", "outputs", "records", "reports", "work", ".state"):
        shutil.rmtree(place, ignore_errors=True)
    for at in sorted(chance.sample(range(len(table)), 4)):
        with monkeypatch.context() as patch:
            cut = PowerCut(patch)
            for instance in table[: at + 1]:
                runner.run(smallest, instance)
        lost += cut.happen(chance)
        for name, reason in records.survey(smallest).items():
            if reason is None:
                (instance,) = (i for i in table if i.name == name)
                for file in instance.outputs.values():
                    assert records.md5(Path(file)) == right[file], f"{name} counts as fresh with another {file}"
    for instance in table:
        runner.run(smallest, instance)
    assert digests(Path.cwd()) == right and lost


def _mounted(folder: Path, megabytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)), capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a small file system ({done.stderr.strip()})")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95])
def test_a_full_disk_loses_nothing_and_says_so(tmp_path, wanted, share):
    """A file system that holds this share of what the pipeline writes; then it is made larger."""
    place = tmp_path / "small"
    _mounted(place, 2000)
    try:
        folder = repository(place / "house")
        start = shutil.disk_usage(place).used
        command(folder, *ENGINES["snakemake"])
        whole = shutil.disk_usage(place).used - start
        for what in ("results", "work"):
            command(folder, "ssimbad", "clean", what)
        size = shutil.disk_usage(place).used + int(share * whole)
        command(place, "mount", "-o", f"remount,size={size}", str(place))
        done = command(folder, *ENGINES["snakemake"], check=False)
        # Where it ends well, the logbook alone was too much, which waits for the next run.
        assert done.returncode or digests(folder) == wanted
        said = done.stdout + done.stderr + "".join(p.read_text() for p in (folder / "logs").rglob("*.log"))
        assert "No space left on device" in said or "disk is full" in said
        command(place, "mount", "-o", "remount,size=2000m", str(place))
        end_all(folder)
        require_true(folder, wanted)
        command(folder, "snakemake", "--unlock", "all")
        command(folder, *ENGINES["snakemake"])
        assert digests(folder) == wanted
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)
