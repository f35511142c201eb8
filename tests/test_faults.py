"""The campaign of faults: kills at random moments of the whole pipeline under each engine, errors of the disk at every
write, a full disk, a power cut, a long sleep, two checkouts on one cache, two users. Nothing that was finished is lost,
nothing counts as fresh that is not, and in the end every byte is that of a run without faults.

`make test-faults`; one fault by `-k`, such as `-k "killed and dvc-017"`. FAULTS=20 makes twenty kills instead of a
hundred, FAULTS_SLEEP=300 a sleep of five minutes.
"""

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
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
import pytest

from ssimbad.params import tree as parameters
from ssimbad.pipeline import lock, records, runner
from ssimbad.pipeline.table import instances

from .cluster import ENVIRONMENT, until
from .conftest import ROOT, make_folder_house, make_house, miniature, own_source
from .test_kills import COMMAND as TRAINING
from .test_kills import house as training_house
from .test_kills import newest, weights

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("FAULTS", "100"))
SLEEP = float(os.environ.get("FAULTS_SLEEP", "150"))
"""Seconds; the heart of a lock is believed to be dead after 60."""
START = 900.0
"""Seconds until something has begun, on a busy machine."""
LONGEST = 45.0
"""Seconds after which a kill comes at the latest: about what the whole miniature takes."""
ENGINES = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "all"),
    "dvc": ("dvc", "repro", "-q"),
}


def command(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)
    assert not check or done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def digests(folder: Path) -> dict[str, str]:
    """{output: md5} of what is there."""
    table = instances(parameters.load(folder / "params.yaml"))
    files = [file for instance in table for file in instance.outputs.values()]
    return {file: records.md5(folder / file) for file in files if (folder / file).is_file()}


def fresh(folder: Path) -> set[str]:
    """Instances that count as fresh, by the house's own word."""
    said = command(folder, "ssimbad", "status", check=False).stdout
    table = instances(parameters.load(folder / "params.yaml"))
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    return {i.name for i in table if "fresh" in lines.get(i.name, "") and "not fresh" not in lines.get(i.name, "")}


def require_true(folder: Path, wanted: dict[str, str]) -> set[str]:
    """Assert that whatever counts as fresh is what a run without faults makes; return its names."""
    there, names = digests(folder), fresh(folder)
    for instance in instances(parameters.load(folder / "params.yaml")):
        if instance.name in names:
            for file in instance.outputs.values():
                assert there.get(file) == wanted[file], f"{instance.name} counts as fresh with another {file}"
    return names


def repository(folder: Path) -> Path:
    """A house under git and DVC."""
    made = own_source(make_folder_house(folder))
    command(made, "git", "init", "-q", "-b", "main")
    command(made, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", made / ".dvc/config")
    command(made, "ssimbad", "dvc-yaml")
    return made


@dataclass
class Campaign:
    """One house in which an engine is started and killed again and again."""

    engine: str
    folder: Path
    wanted: dict[str, str]
    kept: set[str] = field(default_factory=set)
    """Instances that were fresh after the last kill."""
    rounds: int = 0

    def kill(self, number: int) -> None:
        if self.kept == _names(self.folder):
            for what in ("results", "work"):
                command(self.folder, "ssimbad", "clean", what)
            self.kept, self.rounds = set(), self.rounds + 1
        self._unlock()
        moment = random.Random(f"{self.engine} {number}").uniform(0.5, LONGEST)
        with (self.folder.parent / f"{self.engine}.log").open("w") as log:
            run = subprocess.Popen(
                ENGINES[self.engine], cwd=self.folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log
            )
        try:
            run.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        _end_all(self.folder)
        names = require_true(self.folder, self.wanted)
        assert self.kept <= names, f"lost: {sorted(self.kept - names)}"
        self.kept = names

    def finish(self) -> None:
        self._unlock()
        command(self.folder, *ENGINES[self.engine])
        assert digests(self.folder) == self.wanted
        assert require_true(self.folder, self.wanted) == _names(self.folder)

    def _unlock(self) -> None:
        if self.engine == "snakemake":
            command(self.folder, "snakemake", "--unlock", "all")


def _names(folder: Path) -> set[str]:
    return {i.name for i in instances(parameters.load(folder / "params.yaml"))}


def _end_all(folder: Path) -> None:
    """Kill what an engine has started in groups of their own, as a machine that is switched off does."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.pid != os.getpid():
                process.kill()
                process.wait(30)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> dict[str, str]:
    """What a run without faults makes."""
    folder = repository(tmp_path_factory.mktemp("whole") / "house")
    command(folder, *ENGINES["snakemake"])
    return digests(folder)


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory, wanted) -> Callable[[str], Campaign]:
    made: dict[str, Campaign] = {}

    def of(engine: str) -> Campaign:
        if engine not in made:
            made[engine] = Campaign(engine, repository(tmp_path_factory.mktemp(engine) / "house"), wanted)
        return made[engine]

    return of


@pytest.mark.parametrize("number", range(KILLS), ids=lambda n: f"{n:03d}")
@pytest.mark.parametrize("engine", ENGINES)
def test_killed(campaigns, engine, number):
    campaigns(engine).kill(number)


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_to_the_end(campaigns, engine):
    campaigns(engine).finish()


def test_a_sleep_of_a_minute_changes_nothing(tmp_path, wanted):
    """SIGSTOP of the engine and all its jobs, as of a machine that is suspended."""
    folder = repository(tmp_path / "house")
    run = subprocess.Popen(ENGINES["snakemake"], cwd=folder, env=ENVIRONMENT, start_new_session=True)
    for pause in (8, 20):
        time.sleep(pause)
        group = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        for process in group:
            process.suspend()
        time.sleep(60 if pause == 8 else 5)
        for process in group:
            process.resume()
    assert run.wait(timeout=900) == 0
    assert digests(folder) == wanted


MADE = "records/pretrain-ssimbad-seed-0.json"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A house in which a training can begin."""
    return training_house(tmp_path_factory.mktemp("training") / "house")


@pytest.fixture(scope="module")
def uninterrupted(untrained, tmp_path_factory) -> dict[str, bytes]:
    """The weights of a training without faults."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "house"
    shutil.copytree(untrained, folder, symlinks=True)
    command(folder, *TRAINING)
    return weights(folder)


Begin = Callable[..., subprocess.Popen]


@pytest.fixture
def begun() -> Iterator[Begin]:
    """Starts a command in a folder, in a session of its own, whose words go into a file of this name."""
    running = []

    def begin(folder: Path, name: str, *words: str) -> subprocess.Popen:
        with (folder / name).open("w") as log:
            run = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=log, stderr=log)
        running.append(run)
        return run

    yield begin
    for run in running:
        if run.poll() is None:  # of a test that failed
            os.killpg(run.pid, signal.SIGKILL)


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def says(folder: Path, name: str, words: str) -> bool:
    return words in (folder / name).read_text()


def test_a_training_that_sleeps_for_minutes_is_waited_for(begun, untrained, uninterrupted, tmp_path):
    """SIGSTOP; beside it the same command again. The lock is held by a process that lives, however still."""
    folder = tmp_path / "house"
    shutil.copytree(untrained, folder, symlinks=True)
    first = begun(folder, "first", *TRAINING)
    until(lambda: newest(folder) >= 64, START, "states of the first")
    asleep = family(first.pid)
    for process in asleep:
        process.suspend()
    saved, second = newest(folder), begun(folder, "second", *TRAINING)
    try:
        until(lambda: says(folder, "second", "waiting until it has ended"), START, "the second waits")
        time.sleep(SLEEP)
        assert second.poll() is None and newest(folder) == saved and not (folder / MADE).exists()
    finally:
        for process in asleep:
            process.resume()
    assert first.wait(START) == second.wait(START) == 0
    assert says(folder, "second", "up to date") and not says(folder, "second", "resumed")
    assert weights(folder) == uninterrupted


def test_a_training_that_sleeps_in_another_container_is_followed_and_ends(begun, untrained, uninterrupted, tmp_path):
    """There no process can be asked: after a minute without a heartbeat the second goes on, and the first, awake
    again, writes nothing more."""
    container = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run((*container, "true"), capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes (unshare)")
    folder = tmp_path / "house"
    shutil.copytree(untrained, folder, symlinks=True)
    first = begun(folder, "first", *container, *TRAINING)
    until(lambda: newest(folder) >= 64, START, "states of the first")
    asleep = family(first.pid)
    for process in asleep:
        process.suspend()
    saved, second = newest(folder), begun(folder, "second", *TRAINING)
    try:
        assert second.wait(2 * START) == 0
        assert says(folder, "second", f"resumed at {saved} of")
        made = weights(folder)
    finally:
        for process in asleep:
            process.resume()
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
    assert digests(folder) == wanted and require_true(folder, wanted) == _names(folder)


def _waits(folder: Path) -> bool:
    """Whether a second process stands at the training, after its lock was looked at."""
    logs = [folder / "again.log", *(folder / "logs").rglob("*pretrain*"), *(folder / "logs/pretrain").rglob("*.log")]
    return any("waiting until it has ended" in log.read_text() for log in logs if log.is_file())


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
    moment = random.Random(f"checkouts {number}").uniform(5, 2 * LONGEST)
    killed, other = (begun(checkout, "log", *ENGINES["dvc"]) for checkout in (one, two))
    try:
        killed.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    _end_all(one)
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
        assert done.returncode != 0
        said = done.stdout + done.stderr + "".join(p.read_text() for p in (folder / "logs").rglob("*.log"))
        assert "No space left on device" in said or "disk is full" in said
        command(place, "mount", "-o", "remount,size=2000m", str(place))
        _end_all(folder)
        require_true(folder, wanted)
        command(folder, "snakemake", "--unlock", "all")
        command(folder, *ENGINES["snakemake"])
        assert digests(folder) == wanted
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)
