"""`ssimbad compare`: rows of this checkout, of a folder, of a zip and of a git revision, paired over the same faces."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.reporting import compare

from .test_reporting_tables import write_result

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid")
FINETUNE, PRETRAIN = "ssimbad/finetune", "ssimbad/pretrain"


def checkout(folder: Path, seeds: tuple[int, ...] = (0,), faces: str = "a1") -> Path:
    for row in ("pretrain", "finetune"):
        for seed in seeds:
            for setting in ("same", "cross-true", "cross-other"):
                write_result(folder / "reports/metrics", "ssimbad", row, seed, setting)
    artifacts.write_json(folder / "records/faces.json", {"outputs": {"data/faces/test.npy": faces}})
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(checkout(tmp_path / "here"))
    return tmp_path / "here"


def test_two_rows_of_one_checkout_are_paired_in_every_setting(here):
    text = compare.run(PRETRAIN, FINETUNE)
    assert "| ssimbad/finetune − ssimbad/pretrain | same | PSNR (dB) ↑ | 15.00 | 18.50 | +3.50 [+3.50, +3.50] |" in text
    assert "cross-true" in text and "cross-other" not in text  # a control, and no setting of the tables
    one = compare.run(PRETRAIN, FINETUNE, setting="same", metric="psnr")
    assert one.count("| ssimbad/finetune") == 1 and "One seed" in one


def test_all_rows_of_another_folder_and_of_its_zip(here, tmp_path):
    there = checkout(tmp_path / "there", seeds=(0,))
    values = there / "reports/metrics/ssimbad/finetune/seed-0/same.csv"
    values.write_text(values.read_text().replace(",1", ",2", 1))  # the first face ten dB better
    with zipfile.ZipFile(tmp_path / "there.zip", "w") as archive:
        for path in there.rglob("*"):
            archive.write(path, path.relative_to(there))
    texts = [compare.run("@", f"@{where}", metric="psnr") for where in (there, tmp_path / "there.zip")]
    for text in texts:
        assert "| ssimbad/pretrain | same | PSNR (dB) ↑ | 15.00 | 15.00 | +0.00 [+0.00, +0.00]" in text
        assert "| ssimbad/finetune | same | PSNR (dB) ↑ | 18.50 | 19.00 | +0.50" in text
    assert texts[0].splitlines()[1:] == texts[1].splitlines()[1:]


def test_several_seeds_give_an_interval_over_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(checkout(tmp_path / "seeds", seeds=(0, 1, 2)))
    assert "Student t" in compare.run(PRETRAIN, FINETUNE)


def test_a_revision_of_this_repository(here):
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "results")):
        subprocess.run((*GIT, *command), check=True)
    values = here / "reports/metrics/ssimbad/finetune/seed-0/same.csv"
    values.write_text(values.read_text().replace(",1", ",2", 1))
    text = compare.run(f"{FINETUNE}@HEAD", FINETUNE, setting="same", metric="psnr")
    assert "| 18.50 | 19.00 | +0.50" in text
    with pytest.raises(UserError, match=r"^nosuch: no revision of this repository .*neither a folder nor a zip"):
        compare.run(f"{FINETUNE}@nosuch", FINETUNE)


def test_other_faces_are_nothing_to_pair_and_unknown_ones_are_said(here, tmp_path):
    there = checkout(tmp_path / "there", faces="b2")
    with pytest.raises(UserError, match="were judged on different test faces"):
        compare.run("@", f"@{there}")
    (there / "records/faces.json").unlink()
    assert "the same test faces is not known" in compare.run("@", f"@{there}")
    lock = {"stages": {"faces": {"cmd": "x", "outs": [{"path": "data/faces/test.npy", "md5": "b2"}]}}}
    (there / "dvc.lock").write_text(json.dumps(lock))
    with pytest.raises(UserError, match="different test faces"):
        compare.run("@", f"@{there}")


@pytest.mark.parametrize(
    ("first", "second", "more", "says"),
    [
        ("ssimbad", FINETUNE, {}, "^ssimbad: expected <method>/<stage>"),
        ("", FINETUNE, {}, "expected <method>/<stage>"),
        ("a/b/c", FINETUNE, {}, "^a/b/c: expected"),
        (PRETRAIN, "edm/pretrain", {}, "^this checkout: no results of edm/pretrain"),
        (PRETRAIN, FINETUNE, {"setting": "sane"}, "^--setting sane: expected one of same"),
        (PRETRAIN, FINETUNE, {"metric": "snr"}, "^--metric snr: expected one of"),
        (PRETRAIN, FINETUNE, {"metric": "fid"}, "no setting and metric that both were measured in"),
        ("@", "@bad.zip", {}, r"^bad\.zip: no zip of"),
    ],
)
def test_wrong_arguments_are_one_line(here, first, second, more, says):
    Path("bad.zip").write_text("no zip")
    with pytest.raises((ParameterError, UserError), match=says) as caught:
        compare.run(first, second, **more)
    assert "\n" not in str(caught.value)


def test_a_broken_result_names_its_file(here):
    path = "reports/metrics/ssimbad/finetune/seed-0/same.json"
    Path(path).write_text("{}")
    with pytest.raises(UserError, match=r"same\.json is no result"):
        compare.run(PRETRAIN, FINETUNE)


@pytest.mark.parametrize("file", ["seed-0/mine.json", "seed-old/same.json", "seed-0 copy/same.json", "old/same.json"])
def test_somebodys_own_files_among_the_results_are_passed_by(here, file):
    before = compare.run(PRETRAIN, FINETUNE)
    artifacts.write_json(here / "reports/metrics/ssimbad/finetune" / file, {})
    assert compare.run(PRETRAIN, FINETUNE) == before
