"""What several share: two checkouts one cache and one remote, two users a checkout, a lock or a cache."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssimbad.pipeline import lock, records

from ..cluster import ENVIRONMENT
from ..conftest import ROOT
from .conftest import ENGINES, LONGEST, MARKS, START, command, digests, end_all, repository, require_true, says

pytestmark = MARKS


def checkouts(folder: Path, names: tuple[str, ...] = ("one", "two")) -> list[Path]:
    """Of one project, each with its own git and DVC, on one cache and one remote."""
    made = [repository(folder / names[0])]
    for name in names[1:]:
        shutil.copytree(made[0], folder / name, symlinks=True)
        made.append(folder / name)
    for checkout in made:
        command(checkout, "dvc", "config", "--local", "cache.dir", str(folder / "cache"))
        command(checkout, "dvc", "remote", "add", "--local", "-q", "-d", "store", str(folder / "remote"))
    return made


def require_whole(place: Path) -> int:
    """Assert that a cache or remote has no half-written object and no temporary file; returns how many there are."""
    objects = [path for path in place.rglob("*") if path.is_file() and "runs" not in path.parts]
    for path in objects:
        assert f"{path.parent.name}{path.stem}" == records.md5(path), path
    return len(objects)


def test_two_checkouts_run_dvc_at_once_on_one_cache_and_remote(begun, tmp_path, wanted):
    one, two = checkouts(tmp_path)
    for words in (ENGINES["dvc"], ("dvc", "push", "-q")):
        running = [begun(checkout, "log", *words) for checkout in (one, two)]
        for checkout, run in zip((one, two), running, strict=True):
            assert run.wait(2 * START) == 0, (checkout / "log").read_text()
    for checkout in (one, two):
        assert digests(checkout) == wanted
        assert "up to date" in command(checkout, "dvc", "status").stdout
    assert require_whole(tmp_path / "cache") >= len(set(wanted.values())) <= require_whole(tmp_path / "remote")
    _require_pulled(tmp_path, one, wanted)


def _require_pulled(folder: Path, source: Path, wanted: dict[str, str]) -> None:
    """Assert that a third checkout, with an empty cache, gets everything from the remote."""
    third = repository(folder / "third")
    shutil.copy(source / "dvc.lock", third)
    command(third, "dvc", "remote", "add", "-q", "-d", "store", str(folder / "remote"))
    command(third, "dvc", "pull", "-q")
    assert digests(third) == wanted


def test_two_checkouts_sync_at_once_into_one_empty_cache(begun, tmp_path, wanted):
    one, two = checkouts(tmp_path)
    command(one, *ENGINES["snakemake"])
    shutil.rmtree(two)
    shutil.copytree(one, two, symlinks=True)
    shutil.rmtree(tmp_path / "cache")
    for checkout in (one, two):
        (checkout / "dvc.lock").unlink()
    running = [begun(checkout, "log", "ssimbad", "sync") for checkout in (one, two)]
    for checkout, run in zip((one, two), running, strict=True):
        assert run.wait(START) == 0 and says(checkout, "log", "new -> dvc.lock"), (checkout / "log").read_text()
        assert "up to date" in command(checkout, "dvc", "status").stdout
    assert (one / "dvc.lock").read_bytes() == (two / "dvc.lock").read_bytes()
    assert require_whole(tmp_path / "cache") >= len(set(wanted.values()))
    assert digests(one) == digests(two) == wanted


@pytest.mark.parametrize("number", range(5))
def test_one_of_two_checkouts_on_one_cache_is_killed(begun, tmp_path, wanted, number):
    """At a random moment; the other ends well, and so does this one when it is started again."""
    one, two = checkouts(tmp_path)
    moment = random.Random(f"checkouts {number}").uniform(5, LONGEST)  # two at once take longer
    killed, other = (begun(checkout, "log", *ENGINES["dvc"]) for checkout in (one, two))
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(moment)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    end_all(one)
    assert other.wait(2 * START) == 0, (two / "log").read_text()
    require_true(one, wanted)
    command(one, *ENGINES["dvc"])
    assert digests(one) == digests(two) == wanted
    objects = [path for path in (tmp_path / "cache/files/md5").rglob("*") if path.is_file()]
    for path in objects:  # what the killed one had begun has another name
        assert len(path.stem) != 30 or f"{path.parent.name}{path.stem}" == records.md5(path)


FIRST, SECOND, TEAM = 54321, 54322, 54320
"""Numbers of two users and their group; that they have no names does not matter."""


@dataclass
class User:
    """Somebody at this machine's shell."""

    number: int
    umask: int
    home: Path

    def run(self, folder: Path, *words: str) -> subprocess.CompletedProcess:
        """`ssimbad …` or `dvc …`, by this environment's own Python."""
        start = {"ssimbad": ("-c", "from ssimbad.cli import main; main()"), "dvc": ("-m", "dvc")}
        program = (sys.executable, *start[words[0]], *words[1:])
        who = ("setpriv", "--reuid", str(self.number), "--regid", str(TEAM), "--clear-groups")
        return subprocess.run(
            (*who, *program), cwd=folder, env=self.environment, umask=self.umask, capture_output=True, text=True
        )

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.home), "USER": f"u{self.number}", "LOGNAME": f"u{self.number}", "TMPDIR": "/tmp"}
        own |= {"DVC_SITE_CACHE_DIR": str(self.home / "site"), "DVC_GLOBAL_CONFIG_DIR": str(self.home / "config")}
        # A repository of another user is read by git only where that is said.
        own |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        return {**ENVIRONMENT, **own, "PYTHONDONTWRITEBYTECODE": "1"}

    def own(self, folder: Path) -> None:
        """Make a folder this user's, as this umask would have made it, and what is made in it the group's."""
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                os.chown(path, self.number, TEAM)
                path.chmod((0o2777 if path.is_dir() else 0o666) & ~self.umask)


@pytest.fixture
def users() -> Iterator[tuple[Path, Callable[[int, int], User]]]:
    """A place that all can reach, and users by number and umask."""
    if os.geteuid():
        pytest.skip("needs root, to be two other users")
    place = Path(tempfile.mkdtemp(prefix="users-", dir="/tmp"))
    place.chmod(0o755)

    def of(number: int, umask: int) -> User:
        home = place / f"home-{number}"
        home.mkdir(exist_ok=True, mode=0o700)
        os.chown(home, number, TEAM)
        return User(number, umask, home)

    try:
        tried = of(FIRST, 0o022).run(place, "ssimbad", "--help")
        if tried.returncode:
            pytest.skip(f"another user cannot run this Python ({tried.stderr.strip().splitlines()[-1:]})")
        yield place, of
    finally:
        shutil.rmtree(place)


def house_of(place: Path) -> Path:
    """A house whose package other users can read, too."""
    return repository(place / "house")


def require_line(done: subprocess.CompletedProcess) -> str:
    """Assert that it failed in one line, which names a file; returns that."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("ssimbad: ")]
    assert done.returncode not in (0, -9) and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    assert lines and re.search(r"/|\.\w+", lines[-1]), done.stderr
    return lines[-1]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=lambda u: f"{u:03o}")
def test_two_users_of_one_checkout(users, untrained, umask):
    """With 002 both work in it in turn; with 022 or 077 the second is told in a line what he may not, and the first
    goes on as if nobody had tried."""
    place, user = users
    folder, first, second = house_of(place), user(FIRST, umask), user(SECOND, 0o002)
    first.own(folder)
    assert first.run(folder, "ssimbad", "stage", "faces").returncode == 0
    before = digests(folder)
    tried = second.run(folder, "ssimbad", "stage", "sketches")
    if umask == 0o002:
        assert tried.returncode == 0, tried.stderr
        assert "up to date" in second.run(folder, "ssimbad", "stage", "faces").stdout
    else:
        assert re.search("ermission denied|may not|not readable", require_line(tried)), tried.stderr
        assert digests(folder) == before
    for stage in ("faces", "sketches"):
        done = first.run(folder, "ssimbad", "stage", stage)
        assert done.returncode == 0, done.stderr
    there = digests(folder)
    assert len(there) > len(before) and there == digests(untrained)
    synced = [first.run(folder, "ssimbad", "sync"), second.run(folder, "ssimbad", "sync")]
    assert synced[0].returncode == 0, synced[0].stderr
    if umask == 0o002:
        assert synced[1].returncode == 0, synced[1].stderr
    else:
        require_line(synced[1])
    assert digests(folder) == there
    assert first.run(folder, "ssimbad", "sync").returncode == 0


def test_a_lock_that_may_not_be_read_is_no_free_one(users):
    """Of a user with umask 077, in a folder that the other may write to."""
    place, user = users
    first, second, work = user(FIRST, 0o077), user(SECOND, 0o002), place / "work/x"
    work.mkdir(parents=True)
    code = (
        f"import sys, time; from pathlib import Path; from ssimbad.pipeline import lock\n"
        f"with lock.held(Path({str(work)!r}), 'x'):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[1]))"
    )
    second.own(place / "work")

    def hold(who: User, seconds: int) -> subprocess.Popen:
        words = ("setpriv", "--reuid", str(who.number), "--regid", str(TEAM), "--clear-groups")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        program = (*words, sys.executable, "-c", code, str(seconds))
        environment = who.environment | {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.Popen(program, env=environment, umask=who.umask, **pipes)

    assert hold(second, 0).communicate()[0] == "held\n"  # makes the guard
    holder = hold(first, 3600)
    try:
        assert holder.stdout.readline() == "held\n"
        said, error = hold(second, 0).communicate(timeout=START)
        assert said == "" and "lock.json" in error.splitlines()[-1] and "may not" in error.splitlines()[-1]
        time.sleep(2 * lock.HEARTBEAT)
        assert holder.poll() is None
    finally:
        holder.kill()


@pytest.mark.parametrize("shared", [True, False], ids=["group", "own"])
def test_two_users_of_one_cache(users, untrained, shared):
    """One has umask 077. With `cache.shared group` the other gets his results from the cache, and adds to it; without
    it he is told what he may not read or write."""
    place, user = users
    first, second = user(FIRST, 0o077), user(SECOND, 0o022)
    one, two = checkouts(place)
    cache = place / "cache"
    cache.mkdir(exist_ok=True)
    os.chown(cache, FIRST, TEAM)
    cache.chmod(0o2775)
    for checkout, who in ((one, first), (two, second)):
        if shared:
            command(checkout, "dvc", "config", "--local", "cache.shared", "group")
        who.own(checkout)
    for stage in ("faces", "sketches"):
        assert first.run(one, "ssimbad", "stage", stage).returncode == 0
    synced = first.run(one, "ssimbad", "sync")
    assert synced.returncode == 0 and "new -> dvc.lock" in synced.stdout, synced.stderr
    shutil.copy(one / "dvc.lock", two)  # as git brings it
    os.chown(two / "dvc.lock", SECOND, TEAM)
    there = digests(one)
    brought = second.run(two, "dvc", "checkout", "data/sketches/test.npy")
    if shared:
        assert brought.returncode == 0, brought.stderr
        assert digests(two) == {file: there[file] for file in digests(two)} != {}
    else:
        assert brought.returncode != 0 and "Traceback" not in brought.stderr, brought.stderr
    for stage in ("faces", "sketches", "references"):
        assert second.run(two, "ssimbad", "stage", stage).returncode == 0
    synced = second.run(two, "ssimbad", "sync")
    if shared:
        assert synced.returncode == 0 and "new -> dvc.lock" in synced.stdout, synced.stderr
        assert first.run(one, "ssimbad", "stage", "references").returncode == 0
        assert first.run(one, "ssimbad", "sync").returncode == 0
        assert digests(one) == digests(two)
    else:
        assert "dvc commit failed" in require_line(synced)
    assert there == digests(untrained) and digests(two).items() >= there.items() <= digests(one).items()
