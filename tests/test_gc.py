"""What nothing needs is collected; what is fresh, pinned or somebody's own is found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ssimbad.errors import ParameterError, UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import gc, lock, records
from ssimbad.pipeline.records import Basis
from ssimbad.pipeline.runner import WORK
from ssimbad.pipeline.table import Instance, instances

from .conftest import lost, miniature, plant

DAY = 86400
NAME = "pretrain-ssimbad-seed-0"


def put(path: str | Path, text: str = "", days: float = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"this is {path}")
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def result(fingerprint: str, days: float = 0, instance: str = NAME) -> set[Path]:
    """A kept result with a state beside it, as of so many days ago."""
    put(f"work/{instance}/lock.guard")
    names = ("kept/weights", "kept/complete.json", "kept/libraries.json", "state-000000000064.safetensors")
    return {put(f"work/{instance}/{fingerprint}/{name}", days=days) for name in names}


def there(files: set[Path]) -> bool:
    """Whether all are, or none."""
    found = {file.exists() for file in files}
    assert len(found) == 1
    return found.pop()


def of(tree: dict, name: str = NAME) -> Instance:
    return next(i for i in instances(parameters.Params.model_validate(tree)) if i.name == name)


def bring(tree: dict) -> Basis:
    """Its inputs; returns what the instance would be made from now."""
    instance = of(tree)
    for file in instance.files:
        put(file)
    with records.hashes() as hashed:
        return records.made_from(instance, parameters.Params.model_validate(tree), hashed)


def collect(tree: dict, **how) -> None:
    gc.run(parameters.Params.model_validate(tree), **how)


def git(*words: str) -> None:
    who = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.invalid"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    subprocess.run(("git", *words), check=True, capture_output=True, env=os.environ | who)


def locked(path: str) -> str:
    """A dvc.lock that names a file's digest."""
    md5 = hashlib.md5(Path(path).read_bytes()).hexdigest()
    return yaml.safe_dump({"schema": "2.0", "stages": {NAME: {"cmd": "x", "outs": [{"path": "w", "md5": md5}]}}})


def test_of_other_parameters_the_newest_results_stay(house, tree):
    bring(tree)
    kept = {days: result(f"{days:012x}", days) for days in (1, 2, 3, 40)}
    gone = result("0" * 12, 5, "pretrain-of-another-preset-seed-0")  # the only one of a stage that is no more
    own = plant(house) | {
        house / p: p.read_bytes() for p in (put(f"work/{NAME}/{2:012x}/kept/my.txt"), put("work/a/b"))
    }
    collect(tree, keep=2, dry=True)
    assert all(map(there, kept.values()))
    collect(tree, keep=2)
    assert [days for days, files in kept.items() if there(files)] == [1, 2] and there(gone)
    collect(tree, keep=0)
    assert not any(map(there, [*kept.values(), gone])) and lost(own) == []
    assert not (WORK / NAME / f"{40:012x}").exists()


def test_what_killed_processes_were_writing_is_collected(house, tree, capsys):
    """Of what is needed too, beside outputs and records; nothing of another form, and nothing that may be written just
    now: a stage may have begun since it was looked."""
    asked = records.fingerprint(bring(tree))
    whole = result(asked, 9)
    output = next(iter(of(tree).outputs.values()))
    scratch, (place, name) = f"work/{NAME}/{asked}", os.path.split(output)
    begun = [f"{scratch}/.state-000000000128.safetensors", f"{scratch}/kept/.weights", f"{place}/.{name}"]
    begun += [f"records/.{NAME}.json", f"work/{NAME}/{'f' * 12}/kept/.weights"]  # the last of other parameters
    half = {put(f"{name}.0123456789ab.tmp") for name in begun}
    own = {put(f"work/{NAME}/{asked}/kept/.my.0123.tmp"), put("records/.notes.tmp")}
    young = {put(f"{name}.ba9876543210.tmp") for name in begun}
    for path in half | own:
        os.utime(path, (time.time() - 3700,) * 2)
    collect(tree, keep=0, dry=True)
    assert there(half)
    collect(tree, keep=0)
    assert not there(half) and there(whole) and there(own) and there(young)
    assert "gc: what killed processes left half-written: 4 files" in capsys.readouterr().out


def test_what_is_fresh_or_would_be_stays_however_old(house, tree):
    now = bring(tree)
    then = now | {"params": now["params"] | {"training": {"batch": 9}}}
    put(of(tree).record, json.dumps(then | {"libraries": {}, "outputs": {}}))
    asked, recorded, other = (result(print_, 900) for print_ in (*map(records.fingerprint, (now, then)), "f" * 12))
    collect(tree, keep=0)
    assert there(asked) and there(recorded) and not there(other)


def test_while_inputs_are_missing_nobody_knows_what_the_parameters_ask_for(house, tree, capsys):
    asked = result(records.fingerprint(bring(tree)), 9)
    newer = result("f" * 12, 1)
    gone = result("0" * 12, 1, "pretrain-of-another-preset-seed-0")
    Path(of(tree).files[0]).rename("elsewhere")
    collect(tree, keep=0)
    assert there(asked) and there(newer) and not there(gone)
    assert f"left alone, as inputs are missing and nobody can tell which is needed: {NAME}\n" in capsys.readouterr().out
    Path("elsewhere").rename(of(tree).files[0])
    collect(tree, keep=0)
    assert there(asked) and not there(newer)


def test_what_a_branch_or_tag_names_stays(house, tree):
    bring(tree)
    workspace, branch, tag, commit, free = (result(f"{n:012x}", n) for n in range(1, 6))
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    for n, name in ((4, None), (3, "tag"), (2, "branch")):  # of the first only history knows
        put("dvc.lock", locked(f"work/{NAME}/{n:012x}/kept/weights"))
        git("add", "dvc.lock")
        git("commit", "-q", "-m", "x")
        if name:
            git(name, f"a-{name}")
    git("rm", "-q", "dvc.lock")
    git("commit", "-q", "-m", "none")
    put("dvc.lock", locked(f"work/{NAME}/{1:012x}/kept/weights"))
    collect(tree, keep=0)
    assert there(workspace) and there(branch) and there(tag) and not there(commit) and not there(free)


def tagged() -> set[Path]:
    """A kept result that only a tag names, in a repository of one's own."""
    bring(miniature())
    files = result("5" * 12, 900)
    git("init", "-q", "-b", "main")
    put("dvc.lock", locked(f"work/{NAME}/{'5' * 12}/kept/weights"))
    git("add", "dvc.lock")
    git("commit", "-q", "-m", "x")
    git("tag", "a-tag")
    git("rm", "-q", "dvc.lock")
    git("commit", "-q", "-m", "none")
    return files


def object_of(name: str) -> Path:
    digest = subprocess.run(("git", "rev-parse", name), check=True, capture_output=True, text=True).stdout.strip()
    return Path(".git/objects", digest[:2], digest[2:])


def of_another_user(monkeypatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def without_git(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def cut_off_worktree(_) -> None:
    """Of a worktree `.git` is a file; the repository behind it is gone."""
    Path(".git").rename("moved")
    Path(".git").write_text("gitdir: /nowhere/.git/worktrees/x\n")


NO_ANSWER = {
    "another user's": of_another_user,
    "no git": without_git,
    "a worktree of what is gone": cut_off_worktree,
    "no dvc.lock": lambda _: object_of("a-tag:dvc.lock").unlink(),
    "no tree": lambda _: object_of("a-tag^{tree}").unlink(),
    "no commit": lambda _: object_of("a-tag").unlink(),
    "a tag cut off": lambda _: Path(".git/refs/tags/a-tag").write_bytes(b""),
    "no head": lambda _: Path(".git/HEAD").unlink(),
}


@pytest.mark.parametrize("how", NO_ANSWER)
def test_where_git_does_not_answer_nothing_is_removed(house, tree, monkeypatch, how):
    files = tagged() | {put("logs/slurm/rule_raw/17.log", days=99)}
    NO_ANSWER[how](monkeypatch)
    with pytest.raises(UserError, match="nothing removed") as caught:
        collect(tree, keep=0)
    assert there(files) and "\n" not in str(caught.value)


def test_what_git_has_is_asked_in_worktrees_and_below_a_larger_repository_too(house, tree, monkeypatch):
    bring(tree)
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "before there was this folder")
    git("tag", "-a", "-m", "empty", "empty")
    put("unlike", "a blob that somebody has given a name")
    git("tag", "blob", subprocess.run(("git", "hash-object", "-w", "unlike"), stdout=-1, text=True).stdout.strip())
    inner = house / "inner"
    put(inner / "dvc.lock", locked(next(str(file) for file in result("1" * 12) if file.name == "weights")))
    git("add", "inner")
    git("commit", "-q", "-m", "x")
    git("worktree", "add", "-q", "--detach", "beside")
    for place in (inner, house / "beside/inner"):
        for name in ("src", "workflow", "params.yaml", *{Path(file).parts[0] for file in of(tree).files}):
            (place / name).symlink_to(house / name)
        (place / "dvc.lock").unlink()
        monkeypatch.chdir(place)
        pinned, free = result("1" * 12, 900), result("2" * 12, 900)
        collect(tree, keep=0)
        assert there(pinned) and not there(free)


UNREADABLE = {
    "no YAML": b"stages: [",
    "no md5": b"stages: {a: {outs: [{path: x}]}}",
    "an md5 that is none": b"stages: {a: {outs: [{path: x, md5: [1]}]}}",
    "a number": b"stages: 3",
    "no UTF-8": b"stages: {a: \xff}",
    "no date": b"stages: {a: 2001-99-99}",
    "no bool": b"stages: !!bool maybe",
    "too deep": b"[" * 3000 + b"]" * 3000,
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_a_lock_that_cannot_be_read_pins_everything(house, tree, text):
    files = result("0" * 12, 900)
    Path("dvc.lock").write_bytes(text)
    with pytest.raises(UserError, match=r"dvc\.lock: cannot be read .*nothing removed"):
        collect(tree, keep=0)
    assert there(files)


def test_old_logs_go_and_what_is_none_stays(house, tree):
    old = {put("logs/slurm/rule_raw/17.log", days=31)}
    new = {put("logs/slurm/rule_raw/18.log", days=29), put("logs/slurm/mine.log", days=99)}
    Path("logs/slurm/rule_raw/19.log").mkdir()
    collect(tree)
    assert not there(old) and there(new)


IMPORTED = Path("work/spool/imported")


def imported() -> set[Path]:
    """Spools of long ago that an import has just moved to where they are."""
    IMPORTED.mkdir(parents=True, exist_ok=True)
    names = ("faces-0123456789ab.jsonl", "faces-0123456789ab.1.jsonl")
    return {put(f"work/spool/{name}", days=99).rename(IMPORTED / name) for name in names}


def test_spools_go_when_they_have_been_in_the_logbook_for_long(house, tree, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put("mlflow.db")
    old = imported()
    own = {put(IMPORTED / "notes.txt", days=99), put(IMPORTED / "mine.jsonl", days=99)}
    own |= {put("work/spool/raw-0123456789ac.jsonl", days=99)}
    (IMPORTED / "raw-0123456789ac.jsonl").mkdir()
    now = time.time()
    for days, stay in ((0, True), (29.9, True), (30.1, False)):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * DAY)
        collect(tree)
        assert there(old) is stay and there(own)


@pytest.mark.parametrize("left", ["nothing", "an empty file", "a folder"])
def test_where_the_logbook_is_not_there_its_spools_stay(house, tree, left, capsys, monkeypatch):
    """They are the only copy of what was in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spools = imported()
    if left == "a folder":
        Path("mlflow.db").mkdir()
    elif left != "nothing":
        Path("mlflow.db").touch()
    collect(tree, days=0)
    assert there(spools)
    assert capsys.readouterr().out.count("gc: imported spools left alone: the logbook sqlite:///") == 1


def test_digests_of_files_that_are_gone_are_forgotten(house, tree):
    with records.hashes() as hashed:
        stays = hashed.md5(str(put("data/a")))
        hashed.md5(str(put("data/b")))
    Path("data/b").unlink()
    collect(tree)
    known = json.loads(Path(".state/md5.json").read_text())
    assert "data/b" not in known and known["data/a"][-1] == stays


def test_nothing_is_collected_while_somebody_works(house, tree):
    files = result("0" * 12, 900)
    with lock.held(WORK / "tables", "tables"), pytest.raises(UserError, match="nothing removed"):
        collect(tree, keep=0)
    for how in ({"keep": -1}, {"days": -0.5}, {"days": float("nan")}):
        with pytest.raises(ParameterError, match=f"--{next(iter(how))} .*0 or more"):
            collect(tree, **how)
    assert there(files)


def dvc(*words: str) -> str:
    return subprocess.run(("dvc", *words), check=True, capture_output=True, text=True).stdout


def remembered() -> set[Path]:
    return {path for path in Path(".dvc/cache/runs").glob("*/*/*") if len(path.name) == 64}


@pytest.fixture
def cached(house) -> Path:
    """A stage of DVC's that has run on three inputs; the first is tagged, the third is there. Returns a file of one's
    own beside what DVC remembers."""
    git("init", "-q", "-b", "main")
    dvc("init", "-q")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"x": {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]}}}))
    for text in "123":
        Path("a").write_text(text)
        dvc("repro", "-q")
        git("add", "-A")
        git("commit", "-q", "-m", text)
        git("tag", text)
    git("tag", "-d", "2")
    return put(".dvc/cache/runs/ab/note.d/mine")


@pytest.mark.engines
def test_dvc_forgets_the_runs_whose_files_nothing_names(cached, tree, capsys):
    collect(tree, cache=True, dry=True)
    assert len(remembered()) == 3
    (damaged,) = [path for path in remembered() if path.read_text().count(hashlib.md5(b"2").hexdigest())]
    damaged.write_bytes(b"stages: [")
    collect(tree, cache=True)
    assert len(remembered()) == 2 and damaged not in remembered() and cached.exists()
    said = capsys.readouterr().out
    assert "gc: DVC's cache: Removed 1 objects from repo cache." in said
    assert "gc: runs that DVC remembers, of other files: 1 (" in said
    assert "up to date" in dvc("status")
    git("checkout", "-q", "1")
    dvc("checkout", "-q")
    assert Path("b").read_text() == "1" and "up to date" in dvc("status")
    objects = {path.parent.name + path.name for path in Path(".dvc/cache/files/md5").glob("??/*")}
    assert objects == {hashlib.md5(text).hexdigest() for text in (b"1", b"3")}


@pytest.mark.engines
def test_a_cache_that_others_may_share_is_left_alone(cached, tree, tmp_path):
    dvc("config", "cache.dir", str(tmp_path / "elsewhere"))
    shutil.move(".dvc/cache", tmp_path / "elsewhere")
    files = result("5" * 12, 900)
    with pytest.raises(UserError, match="lies outside of this checkout and may serve others; nothing removed"):
        collect(tree, cache=True, keep=0)
    assert there(files) and len([path for path in (tmp_path / "elsewhere/runs").glob("*/*/*")]) == 4
