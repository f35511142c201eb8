"""Wherever the checkout lies and whatever the shell has set: the right answer, or one line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ssimbad.errors import ParameterError, UserError
from ssimbad.params import tree as params
from ssimbad.pipeline import runner
from ssimbad.runtime import devices
from ssimbad.tracking import spool

from .conftest import ROOT, draw_faces, make_folder_house, make_house, miniature
from .test_end_to_end import run

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid")


def ran(folder: Path, *command: str, code: int = 0, **environment: str) -> str:
    done = run(folder, *command, DVC_NO_ANALYTICS="1", **environment)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("name", ["SSIMBAD_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("given", ["abc", "0", "-2", "1.5", ",2", "²"])
def test_a_number_of_cores_that_is_none_is_one_line(house, monkeypatch, name, given):
    monkeypatch.delenv("SSIMBAD_THREADS", raising=False)
    monkeypatch.setenv(name, given)
    loaded = params.load()
    with pytest.raises(ParameterError, match=f"{name}={given}: expected a number of cores"):
        runner.run(loaded, runner.find(loaded, "raw", {}))
    assert not Path("data").exists()


@pytest.mark.parametrize("given", ["2", "2,1", " 2 , 4,1"])
def test_of_a_list_of_cores_the_first_counts(house, monkeypatch, given):
    """OpenMP's list has one number per level of nesting."""
    monkeypatch.delenv("SSIMBAD_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    loaded = params.load()
    job = runner.job_of(runner.find(loaded, "raw", {}), Path("work"))
    assert job.threads == 2


@pytest.mark.parametrize(
    "given", ["meta", "cpu,meta", "mps", "hpu", "xla:1", "cuda:99", "", "cpu,,cpu", "cpu:" + "9" * 30, "x"]
)
def test_a_device_on_which_nothing_can_be_computed_is_one_line(monkeypatch, given):
    monkeypatch.setenv("SSIMBAD_DEVICE", given)
    with pytest.raises(UserError, match=r"^SSIMBAD_DEVICE=.*: not usable \(.+\); use cpu, cuda or auto$"):
        devices.visible()


def committed(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run([*GIT, *arguments], cwd=folder, check=True)
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def test_an_archive_inside_another_repository_claims_no_revision(tmp_path, monkeypatch):
    committed(tmp_path)
    (tmp_path / "archive").mkdir()
    monkeypatch.chdir(tmp_path / "archive")
    assert "git_revision" not in spool.origin()


def test_a_worktree_names_its_revision(tmp_path, monkeypatch):
    revision = committed(tmp_path / "main")
    subprocess.run(["git", "worktree", "add", "-q", str(tmp_path / "other")], cwd=tmp_path / "main", check=True)
    monkeypatch.chdir(tmp_path / "other")
    assert spool.origin()["git_revision"] == revision
    assert spool.origin()["git_dirty"] == "false"


@pytest.mark.engines
def test_a_worktree_with_an_odd_name_odd_images_and_a_narrow_umask(tmp_path):
    """Both engines and the logbook find the same files."""
    tree = miniature()
    tree["data"] |= {"source": "folder", "path": "data/raw/it's $HOME *[a]? täst"}
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    main = make_house(tmp_path / "main", tree)
    shutil.copytree(ROOT / ".dvc", main / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    revision = committed(main)
    house = tmp_path / 'it\'s a "täst" 100% #1 & a:b $HOME'
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(house)], cwd=main, check=True)
    draw_faces(house / tree["data"]["path"], 26)
    ran(house, "ssimbad", "dvc-yaml")
    ran(house, "bash", "-c", "umask 077; snakemake --cores 1 faces")
    assert ran(house, "ssimbad", "status").splitlines()[0].split() == ["faces", "fresh"]
    assert "Nothing to be done" in ran(house, "snakemake", "--cores", "1", "-n", "faces")
    assert "up to date" in ran(house, "dvc", "status", "faces")
    (path,) = (house / "work/spool/imported").glob("faces-*.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["tags"]["git_revision"] == revision
    assert (house / "mlflow.db").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["main", house.name])


@pytest.fixture
def archive(tmp_path) -> Path:
    """A downloaded checkout without .git, with faces."""
    house = make_folder_house(tmp_path / "house")
    shutil.copytree(ROOT / ".dvc", house / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    ran(house, "ssimbad", "dvc-yaml")
    return house


@pytest.mark.engines
def test_without_git_dvc_is_left_out_until_it_is_told_to_do_without(archive):
    said = ran(archive, "snakemake", "--cores", "1", "faces")
    assert "ssimbad: nothing told to DVC" in said
    assert not (archive / "dvc.lock").exists()
    ran(archive, "dvc", "config", "--local", "core.no_scm", "true")
    assert "1 of them new -> dvc.lock" in ran(archive, "ssimbad", "sync")
    assert "up to date" in ran(archive, "dvc", "status", "faces")


@pytest.mark.engines
def test_a_home_that_cannot_be_written_is_not_needed(archive):
    committed(archive)
    nowhere = {"HOME": "/dev/null/nowhere"}
    ran(archive, "ssimbad", "stage", "faces", **nowhere)
    assert "faces" in ran(archive, "ssimbad", "status", **nowhere)
    assert "Nothing to be done" in ran(archive, "snakemake", "--cores", "1", "-n", "faces", **nowhere)
    ran(archive, "snakemake", "--cores", "1", "sketches", "-n", **nowhere)
    # DVC cannot even look for its settings in a home below a file; in one that is only empty it can.
    said = ran(archive, "ssimbad", "sync", code=1, **nowhere).splitlines()
    assert said[-1].startswith("ssimbad: dvc commit failed") and said[-1].endswith("mend that and run `ssimbad sync`")
    assert "1 of them new" in ran(archive, "env", "-u", "HOME", "ssimbad", "sync")
    assert "up to date" in ran(archive, "env", "-u", "HOME", "dvc", "status", "faces")
