"""Inputs, outputs and code that somebody replaces while a stage runs, and what then is not kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.files import Seen
from ssimbad.pipeline import cleaning, code, records, runner, table
from ssimbad.tracking import spool

from .toy import bring, computed, load, meddle, toy_version

# Ways in which an input is another one while a stage reads it, and each the other way round.


def anew(path, text):
    """As a stage or an engine does it."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def in_place(path, text):
    """Same length, same times."""
    times = path.stat()
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def moved(path, text):
    """The file itself comes back: its content, its inode and the time of its last write have never changed."""
    aside = path.with_name("aside")
    if aside.exists():
        aside.replace(path)
    else:
        path.replace(aside)
        path.write_text(text)


def bent(path, text):
    """A link leads elsewhere for a while."""
    for name, content in (("face", "face"), ("scar", "scar")):
        Path(name).write_text(content) if not Path(name).exists() else None
    path.unlink()
    path.symlink_to(text)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("change", [anew, in_place, moved, bent])
@pytest.mark.parametrize("stage", ["cheap", "dear"])
def test_nothing_is_kept_of_a_replaced_input(toy, tree, stage, change, back):
    """Neither a record nor a result or state that the true input would be given later."""
    path = toy / {"cheap": "raw.txt", "dear": "copy.txt"}[stage]
    if change is bent:
        bent(toy / "raw.txt", "face")
    p = load(tree)
    cheap, dear = table.instances(p)
    if stage == "dear":
        runner.run(p, cheap)
    if change is bent:
        bent(path, "face")
    meddle["before"] = lambda: change(path, "scar")
    if back:
        meddle["after"] = lambda: change(path, "face")
    with pytest.raises(UserError, match="an input changed while the stage ran; run the same command again"):
        runner.run(p, {"cheap": cheap, "dear": dear}[stage])
    assert records.survey(p)[stage] is not None
    assert not [f for f in Path("work/dear").rglob("*") if f.name in ("state.txt", "complete.json")]
    events = [spool.read(file) for file in Path("work/spool").glob(f"{stage}-*.jsonl")]
    assert [told[-1]["status"] for told in events] == ["FAILED"]
    meddle.clear()
    if not back:
        change(path, "face")
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert set(records.survey(p).values()) == {None}


@pytest.mark.parametrize("restored", [False, True])
def test_an_input_that_is_gone_or_a_raised_version_leaves_nothing_either(toy, tree, restored):
    p = bring(tree)
    cheap, dear = table.instances(p)
    if not restored:
        shutil.rmtree("work")
    (toy / "records/dear.json").unlink()
    before = records.made_from(dear, p, records.Hashes())
    for change in (lambda: (toy / "copy.txt").unlink(), lambda: toy_version.update(dear=2)):
        meddle["end"] = change
        with pytest.raises(UserError):
            runner.run(p, dear, force=True)
        assert not (toy / "records/dear.json").exists()
        kept = toy / "work/dear" / records.fingerprint(before) / "kept/weights"
        assert kept.exists() == restored, "what was kept before is as good as it was"
        toy_version["dear"] = 1
        runner.run(p, cheap)


def test_a_state_that_was_confirmed_outlives_a_later_change(toy, tree):
    """Hours of a training are not lost because somebody touches a file at its end."""
    p = load(tree)
    cheap, dear = table.instances(p)
    runner.run(p, cheap)
    meddle.update({"confirmed": True, "end": (toy / "copy.txt").touch})
    with pytest.raises(UserError, match=r"copy\.txt was touched"):
        runner.run(p, dear)
    (state,) = Path("work/dear").rglob("state.txt")
    assert not list(state.parent.glob("kept/complete.json"))
    state.write_text("from the state: face")
    meddle.clear()
    runner.run(p, dear)
    assert (toy / "weights.txt").read_text() == "from the state: face0"


@pytest.mark.parametrize("change", [anew, in_place, moved])
def test_no_state_is_saved_of_a_replaced_input_even_if_the_process_is_killed_then(toy, tree, change):
    p = load(tree)
    cheap, dear = table.instances(p)
    runner.run(p, cheap)
    meddle.update(
        {
            "confirmed": True,
            "before": lambda: change(toy / "copy.txt", "scar"),
            "after": lambda: change(toy / "copy.txt", "face"),
        }
    )
    with pytest.raises(UserError, match=r"copy\.txt was touched"):
        runner.run(p, dear)
    assert not list(Path("work/dear").rglob("state.txt"))


def gone(path, text):
    path.unlink()


@pytest.mark.parametrize("change", [anew, in_place, gone])
@pytest.mark.parametrize("stage", ["cheap", "dear"])
def test_a_replaced_output_is_not_what_the_stage_made(toy, tree, stage, change):
    """No record of it, nothing of it kept, and the logbook says that the stage has failed."""
    path = toy / {"cheap": "copy.txt", "dear": "weights.txt"}[stage]
    p = bring(tree)
    shutil.rmtree("work")
    for record in Path("records").iterdir():
        record.unlink()
    meddle["written"] = lambda: change(path, "scars")
    instance = {i.name: i for i in table.instances(p)}[stage]
    with pytest.raises(UserError, match=rf"^{stage}: an output changed while the stage ran; .*\({path.name} is not"):
        runner.run(p, instance, force=True)
    assert records.survey(p)[stage] == f"output {path.name if change is gone else instance.record} is missing"
    assert not list(Path("work").rglob("complete.json"))
    events = [spool.read(file) for file in Path("work/spool").glob(f"{stage}-*.jsonl")]
    assert [told[-1]["status"] for told in events] == ["FAILED"]
    meddle.clear()
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert set(records.survey(p).values()) == {None}


@pytest.mark.parametrize("change", [anew, in_place, gone])
def test_what_replaces_an_output_while_it_is_kept_is_not_kept(toy, tree, monkeypatch, change):
    copy = artifacts.copy

    def kept(source, target):
        change(source, "scars")
        copy(source, target)

    monkeypatch.setattr(artifacts, "copy", kept)
    with pytest.raises((UserError, FileNotFoundError), match=r"weights\.txt"):
        bring(tree)
    assert not list(Path("work").rglob("complete.json"))
    assert not Path("records/dear.json").exists()


@pytest.mark.parametrize("change", [anew, in_place, gone])
def test_what_replaces_a_restored_output_is_not_recorded(toy, tree, monkeypatch, change):
    p = bring(tree)
    Path("records/dear.json").unlink()
    opened = spool.opened

    def told(*arguments):
        change(toy / "weights.txt", "scars")
        return opened(*arguments)

    monkeypatch.setattr(spool, "opened", told)
    with pytest.raises(UserError, match="dear: an output changed while the stage ran"):
        runner.run(p, table.instances(p)[1])
    assert computed() == 1
    assert not Path("records/dear.json").exists()


def test_what_replaces_a_kept_result_while_it_is_restored_is_not_restored(toy, tree, monkeypatch, capsys):
    bring(tree)
    (toy / "weights.txt").unlink()
    copyfile = shutil.copyfile

    def swapped(source, target):
        if "kept" in source.parts:
            anew(source, "scars")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", swapped)
    bring(tree)
    assert "the kept result is damaged; dear is computed again" in capsys.readouterr().err
    assert (toy / "weights.txt").read_text() == "face0"
    assert computed() == 2


def test_an_output_that_a_stage_does_not_write_is_not_the_one_that_was_there(toy, tree, monkeypatch):
    """It may be anybody's."""
    p = bring(tree)
    monkeypatch.setattr(artifacts, "write_text", lambda path, text: None)
    with pytest.raises(RuntimeError, match=r"cheap ended without writing \['copy\.txt'\]"):
        runner.run(p, table.instances(p)[0], force=True)


def test_what_a_stage_wrote_is_known_before_its_record(toy, tree):
    """Also what stood there from earlier runs; of damaged notes nothing is known."""
    notes = Path(".state/written/dear.json")
    p = load(tree)
    for text, other in (("", {}), ('{"other.txt": "1"}', {"other.txt": "1"}), ("[" * 100_000, {}), ('{"a": 1}', {})):
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(text)
        seen = []
        meddle["written"] = lambda seen=seen: seen.append(notes.read_text())
        for instance in table.instances(p):
            runner.run(p, instance, force=True)
        assert json.loads(seen[-1]) == {"weights.txt": records.md5(toy / "weights.txt")} | other
    for record in Path("records").iterdir():
        record.unlink()
    (toy / "copy.txt").write_text("mine")
    cleaning.run("results", p)
    assert not (toy / "weights.txt").exists()
    assert (toy / "copy.txt").read_text() == "mine"


def test_code_that_changes_while_a_cheap_stage_runs_is_not_what_made_it(toy, tree):
    code_file = toy / "code.py"
    meddle.update({"before": lambda: anew(code_file, "# later"), "after": lambda: anew(code_file, "# first\n")})
    with pytest.raises(UserError, match=r"code\.py was touched"):
        bring(tree)
    assert not (toy / "records/cheap.json").exists()


def test_code_that_was_edited_while_a_process_waited_is_not_run(toy, tree, monkeypatch):
    file = toy / "loaded.py"
    file.write_text("old = 1\n")
    monkeypatch.setattr(code, "AT_START", Seen([str(file)]))
    bring(tree)
    file.write_text("new = 2\n")
    bring(tree)  # nothing to compute
    tree["colorize"]["seed"] = 7
    with pytest.raises(UserError, match=r"loaded\.py: changed after this command had started; run it again"):
        bring(tree)
    assert computed() == 1
