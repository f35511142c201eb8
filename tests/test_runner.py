"""The content records and the runner: what is fresh, restored, kept, logged."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from ssimbad import cli
from ssimbad.errors import UserError
from ssimbad.pipeline import code, records, runner, table
from ssimbad.pipeline.table import instances
from ssimbad.tracking import spool

from .conftest import write_params
from .toy import bring, computed, load, toy_version


def test_a_fresh_stage_is_left_alone(toy, tree):
    assert set(records.survey(load(tree)).values()) != {None}
    p = bring(tree)
    assert records.survey(p) == {"cheap": None, "dear": None}
    bring(tree)
    assert computed() == 1


def test_reasons_are_told(toy, tree):
    p = bring(tree)
    (toy / "raw.txt").write_text("other")
    assert records.survey(p)["cheap"] == "input raw.txt changed"
    assert records.survey(p)["dear"] == "upstream cheap is not fresh"
    (toy / "raw.txt").write_text("face")
    (toy / "weights.txt").write_text("tampered")
    assert records.survey(p) == {"cheap": None, "dear": "output weights.txt changed"}
    (toy / "weights.txt").unlink()
    assert records.survey(p)["dear"] == "output weights.txt is missing"


FILES = ["raw.txt", "code.py", "copy.txt", "weights.txt", "records/cheap.json", "records/dear.json"]


@pytest.mark.parametrize("name", FILES)
def test_what_goes_away_while_it_is_looked_at_is_missing(toy, tree, monkeypatch, name):
    """An engine that begins a stage anew takes its files away, at any moment of another command's survey."""
    p, look = bring(tree), Path.stat
    content = Path(name).read_bytes()
    for moment in range(1, 99):
        left = moment

        def stat(path, **how):
            nonlocal left
            found = look(path, **how)
            if path == Path(name):
                left -= 1
                if left == 0:
                    path.unlink()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", stat)
            found = records.survey(p)
        if left > 0:
            break
        assert not Path(name).exists()
        assert any(reason and name in reason for reason in found.values()), (moment, found)
        Path(name).write_bytes(content)
    assert moment > 1
    assert not any(records.survey(p).values())


def test_a_file_servers_word_for_what_has_gone_is_as_good(toy, tree, monkeypatch):
    """While a file is open, another machine may delete it."""
    p, digest = bring(tree), hashlib.file_digest

    def read(file, name):
        if file.name == "weights.txt":
            raise OSError(errno.ESTALE, "Stale file handle")
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", read)
    assert records.survey(p) == {"cheap": None, "dear": "weights.txt is missing"}


def test_a_changed_parameter_is_named(toy, tree):
    bring(tree)
    tree["colorize"]["seed"] = 7
    assert records.survey(load(tree))["dear"] == "parameter colorize.seed changed"


def test_a_comment_retrains_nothing(toy, tree):
    p = bring(tree)
    (toy / "code.py").write_text("# second\n")
    assert records.survey(p) == {"cheap": "code code.py changed", "dear": "upstream cheap is not fresh"}
    bring(tree)
    assert records.survey(p) == {"cheap": None, "dear": None}
    assert computed() == 1


def test_going_back_restores_instead_of_computing(toy, tree):
    bring(tree)
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face7"
    tree["colorize"]["seed"] = 0
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert computed() == 2


def test_a_damaged_kept_result_is_computed_again(toy, tree, capsys):
    bring(tree)
    (kept,) = Path("work/dear").glob("*/kept/weights")
    kept.write_text("")
    Path("weights.txt").unlink()
    bring(tree)
    assert "the kept result is damaged; dear is computed again" in capsys.readouterr().err
    assert Path("weights.txt").read_text() == kept.read_text() != ""
    assert computed() == 2


def test_a_restored_result_comes_with_its_own_cost(toy, tree):
    def seconds():
        return json.loads(Path("work/cost/dear.json").read_text())["seconds"]

    bring(tree)
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert seconds() == 7
    tree["colorize"]["seed"] = 0
    bring(tree)
    assert seconds() == 0
    next(path for path in Path("work/dear").glob("*/kept/dear.json") if '"seconds": 7' in path.read_text()).unlink()
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert not Path("work/cost/dear.json").exists(), "better none than another result's"


def test_a_measurement_names_the_fingerprint_of_its_result(toy, tree):
    for seed in (0, 7):
        tree["colorize"]["seed"] = seed
        bring(tree)
        measured = json.loads(Path("work/cost/dear.json").read_text())
        assert (Path("work/dear") / measured["fingerprint"] / "kept/weights").read_text() == f"face{seed}"


def test_what_somebody_has_put_among_the_states_stays(toy, tree):
    p = bring(tree)
    (kept,) = Path("work/dear").glob("*/kept")
    own = [kept.parent / "notes.txt", kept.parent / "mine/x.txt", kept / "remarks.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    state = kept.parent / "state-000000000064.safetensors"
    state.touch()
    runner.run(p, table.instances(p)[1], force=True)
    assert [path.read_text() for path in own] == ["mine"] * 3
    assert not state.exists()


def logbook(name):
    """What the newest spool of an instance says: its start, and all tags of the run."""
    path = max(spool.ROOT.glob(f"{name}-*.jsonl"), key=lambda p: p.stat().st_mtime_ns)
    events = spool.read(path)
    assert events[-1]["event"] == "end"
    later = [event["values"] for event in events if event["event"] == "tags"]
    return events[0], {key: value for tags in [events[0]["tags"], *later] for key, value in tags.items()}


def test_the_logbook_has_the_md5_of_all_that_went_in_and_came_out(toy, tree):
    bring(tree)
    for name in ("cheap", "dear"):
        start, tags = logbook(name)
        record = json.loads(Path(f"records/{name}.json").read_text())
        assert start["inputs"] == record["inputs"]
        told = {key.removeprefix("output_md5/"): value for key, value in tags.items() if key.startswith("output_md5/")}
        assert told == record["outputs"]
        assert "restored" not in tags


def test_the_logbook_tells_a_restored_result_from_a_computed_one(toy, tree):
    bring(tree)
    Path("weights.txt").unlink()
    bring(tree)
    start, tags = logbook("dear")
    assert tags["restored"] == "true"
    assert tags["output_md5/weights.txt"] == json.loads(Path("records/dear.json").read_text())["outputs"]["weights.txt"]
    assert start["inputs"] == json.loads(Path("records/dear.json").read_text())["inputs"]
    assert computed() == 1


def test_a_lost_output_is_restored(toy, tree):
    bring(tree)
    (toy / "weights.txt").unlink()
    (toy / "records/dear.json").unlink()
    bring(tree)
    assert computed() == 1


def test_a_raised_version_computes_anew(toy, tree):
    bring(tree)
    toy_version["dear"] = 2
    assert records.survey(load(tree))["dear"] == "stage version changed"
    bring(tree)
    assert computed() == 2


def test_records_hold_no_times_and_are_the_same_twice(toy, tree):
    bring(tree)
    first = (toy / "records/dear.json").read_bytes()
    p = load(tree)
    runner.run(p, table.instances(p)[1], force=True)
    assert (toy / "records/dear.json").read_bytes() == first
    assert set(json.loads(first)) == {"command", "params", "inputs", "version", "libraries", "outputs"}


@pytest.fixture
def library(monkeypatch):
    """{name: version} of what the toys are made with, to be changed at will."""
    versions = {"torch": "2.13.0", "numpy": "2.4.6"}
    monkeypatch.setattr(code, "libraries", lambda files: tuple(versions))
    monkeypatch.setattr(records, "installed", versions.get)
    return versions


def told(capsys) -> dict[str, str]:
    """What `ssimbad status` says of each instance."""
    capsys.readouterr()
    cli.status()
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_another_library_is_told_and_makes_nothing_stale(toy, tree, library, capsys):
    p = bring(tree)
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}
    before = {f: f.read_bytes() for f in Path("records").iterdir()}
    library["torch"] = "2.14.1"
    assert records.survey(p) == {"cheap": None, "dear": None}
    assert told(capsys)["dear"] == "fresh, made with torch 2.13.0, now 2.14.1"
    bring(tree)
    assert {f: f.read_bytes() for f in Path("records").iterdir()} == before
    assert computed() == 1
    (toy / "raw.txt").write_text("other")
    assert told(capsys)["cheap"] == "input raw.txt changed"
    bring(tree)
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}


def test_a_restored_result_keeps_the_libraries_that_made_it(toy, tree, library, capsys):
    bring(tree)
    library |= {"torch": "2.14.1", "numpy": "2.5.0"}
    for seed in (7, 0):
        tree["colorize"]["seed"] = seed
        write_params(toy, tree)
        bring(tree)
        assert ("made with" in told(capsys)["dear"]) == (seed == 0)
    assert computed() == 2
    assert told(capsys)["dear"] == "fresh, made with numpy 2.4.6, now 2.5.0; torch 2.13.0, now 2.14.1"


def test_what_was_recorded_or_kept_before_libraries_were_is_read(toy, tree, library, capsys):
    bring(tree)
    for file in Path("records").iterdir():
        record = json.loads(file.read_text())
        del record["libraries"]
        file.write_text(json.dumps(record))
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}
    for kept in Path("work").rglob("libraries.json"):
        kept.unlink()
    (toy / "weights.txt").unlink()
    bring(tree)
    assert computed() == 1
    assert told(capsys)["dear"] == "fresh"


@pytest.mark.parametrize("text", ["", "[]", "3", '{"params": 1}', '{"outputs": []}', "\xff", "[" * 100_000])
def test_a_record_that_is_none_says_so(toy, tree, text):
    p = bring(tree)
    Path("records/dear.json").write_text(text, encoding="latin-1")
    assert records.survey(p)["dear"] == "record records/dear.json is unreadable"
    bring(tree)
    assert records.survey(p)["dear"] is None


def test_every_library_behind_a_stage_has_a_version(tree):
    for instance in instances(load(tree)):
        found = records.libraries(instance)
        names = code.libraries(code.closure(instance.stage.run))
        assert len(found) >= 1 + len(names), instance.name
        assert {"python", "numpy", "pillow"} <= found.keys()
    assert {"torch", "safetensors", "scipy"} <= found.keys() | records.libraries(
        next(i for i in instances(load(tree)) if i.stage.name == "pretrain")
    ).keys()


def test_markers_tell_the_truth(toy, tree):
    p = bring(tree)
    records.reconcile(p)
    assert {m.name for m in Path(".state").glob("*.ok")} == {"cheap.ok", "dear.ok"}
    (toy / "raw.txt").write_text("other")
    records.reconcile(p)
    assert not list(Path(".state").glob("*.ok"))


def test_a_missing_input_is_named(toy, tree):
    (toy / "raw.txt").unlink()
    with pytest.raises(UserError, match=r"input raw\.txt is missing"):
        bring(tree)
