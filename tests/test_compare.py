"""`ssimbad compare`: rows of this checkout, of a folder, of a zip and of a git revision, paired over the same faces."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.reporting import compare

from .conftest import peak
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


ROW = "reports/metrics/ssimbad/finetune/seed-0"
DEEP = "[" * 100_000
KINDS = (None, True, 5, -1, 1.5, "", "x", "\0", "\ud800", [], [1], {}, {"a": 1}, 10**400)


def zipped(here: Path, changed: dict[str, str | bytes]) -> str:
    """The results of this checkout as somebody sends them, with other contents of some files."""
    with zipfile.ZipFile("r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(here.rglob("*")):
            name = path.relative_to(here).as_posix()
            if path.is_file() and name not in changed and path.suffix != ".zip":
                archive.write(path, name)
        for name, content in changed.items():
            archive.writestr(name, content)
    return "@r.zip"


def judged(here: Path, changed: dict[str, str | bytes], named: str | None = None) -> None:
    """A zip with these files is refused in one line that names the one, or gives a table."""
    where = zipped(here, changed)
    if named is None:
        assert "PSNR" in compare.run("@", where)
        return
    with pytest.raises(UserError, match=rf"^r\.zip: {named}") as caught:
        compare.run("@", where)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_zip_as_it_was_sent_is_compared(here):
    judged(here, {})
    told = json.loads((here / f"{ROW}/same.json").read_text())
    told["metrics"]["psnr"] |= {"value": 18, "scales": 3}
    judged(here, {f"{ROW}/same.json": json.dumps(told), "dvc.lock": "", "records/faces.json": "{}"})


@pytest.mark.parametrize("text", ["", "x", DEEP, "[]", "5", "null", '{"a": 1}', "{", b"\xff\xfe\0", "9" * 5_000])
@pytest.mark.parametrize("file", [f"{ROW}/same.json", f"{ROW}/same.csv", "records/faces.json"])
def test_a_file_of_a_zip_that_is_something_else_is_named(here, file, text):
    faces = file == "records/faces.json"
    judged(here, {file: text}, None if faces and text == '{"a": 1}' else file.replace("csv", "json"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_of_a_zip_that_holds_more_than_it_says_takes_no_more_memory(here, method):
    size, said = 2**26, 100
    zipped(here, {f"{ROW}/same.json": ""})
    with zipfile.ZipFile("r.zip") as there, zipfile.ZipFile("s.zip", "w", method) as archive:
        for name in there.namelist():
            archive.writestr(name, bytes(size) if name == f"{ROW}/same.json" else there.read(name))
    data = Path("s.zip").read_bytes().replace(size.to_bytes(4, "little"), said.to_bytes(4, "little"))
    Path("s.zip").write_bytes(data)
    with peak() as used, pytest.raises(UserError, match=r"^s\.zip: .* cannot be read"):
        compare.run("@", "@s.zip")
    assert used() < 2**25


@pytest.mark.parametrize("key", ["method", "stage", "seed", "setting", "n", "size", "metrics"])
def test_a_result_with_a_value_of_any_other_kind_is_named(here, key):
    told = json.loads((here / f"{ROW}/same.json").read_text())
    for value in KINDS:
        good = (key in ("n", "size") and value in (5, 10**400) and value is not True) or (key, value) == ("metrics", {})
        judged(here, {f"{ROW}/same.json": json.dumps(told | {key: value})}, None if good else f"{ROW}/same.json")
    del told[key]
    judged(here, {f"{ROW}/same.json": json.dumps(told)}, f"{ROW}/same.json")


@pytest.mark.parametrize("key", ["value", "ci_low", "ci_high", "n", "reason"])
def test_an_entry_with_a_value_of_any_other_kind_is_named(here, key):
    told = json.loads((here / f"{ROW}/same.json").read_text())
    for value in KINDS:
        if value is None or (isinstance(value, str) if key == "reason" else type(value) in (int, float)):
            continue
        changed = told | {"metrics": {"psnr": told["metrics"]["psnr"] | {key: value}}}
        judged(here, {f"{ROW}/same.json": json.dumps(changed)}, f"{ROW}/same.json")


@pytest.mark.parametrize(
    "table",
    [
        *("id,psnr\na,x\n", "id,psnr\na,inf\n", "id,psnr\na,-inf\n", "id,psnr\na,1e999\n", "id,psnr\na,1\na,2\n"),
        *("id,psnr\n", "psnr\n1\n", "id,psnr\na,1\nb,2,3\n", 'id,psnr\n"a,1\n', "\0"),
        *("id,psnr\na," + "9" * 400 + "\n", "id,psnr\na,1+2j\n", "id,psnr\na,2001-01-01\n"),
    ],
)
def test_a_table_of_something_else_than_numbers_is_named(here, table):
    judged(here, {f"{ROW}/same.csv": table}, f"{ROW}/same.json is no result of the stage evaluate .its .csv: ")


@pytest.mark.parametrize(
    "lock",
    [
        *("[" * 5_000, "a: " + "{a: " * 3_000, "stages: 5", "stages: {a: 5}", "stages: {a: {outs: 5}}", "5", "[]"),
        *("stages: {a: {outs: [5]}}", "stages: {a: {outs: [{md5: a}]}}", "stages: {a: {outs: [{path: [1]}]}}"),
        *("a: !!bool maybe", "a: 2001-99-99", "a: 1\na: 2", "a: \0", b"\xff\xfe", "stages: {a: {outs: [{path: 5}]}}"),
    ],
)
def test_a_dvc_lock_that_is_none_is_named(here, lock):
    judged(here, {"records/faces.json": "{}", "dvc.lock": lock}, "dvc.lock is none that was written by a run")


def test_a_result_that_tells_of_another_place_is_named(here):
    judged(here, {f"{ROW}/same.json": (here / f"{ROW}/cross-true.json").read_text()}, f"{ROW}/same.json is no result")


def test_what_unfolds_to_more_than_any_result_is_not_unfolded(here):
    judged(
        here, {f"{ROW}/same.csv": bytes(1 << 29)}, f"{ROW}/same.csv cannot be read .no plain file of at most 256 MiB"
    )


def test_a_pipe_among_the_results_of_a_folder_is_named(here, tmp_path):
    there = checkout(tmp_path / "there")
    (there / f"{ROW}/same.csv").unlink()
    os.mkfifo(there / f"{ROW}/same.csv")
    with pytest.raises(UserError, match=r"same\.csv cannot be read \(no plain file"):
        compare.run("@", f"@{there}")
