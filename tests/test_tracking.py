"""The logbook: spools that nothing can block, imports that can be repeated, and a true end for every run."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ssimbad.errors import UserError, masked
from ssimbad.job import Job
from ssimbad.pipeline import sync
from ssimbad.tracking import live, spool, store, system, ui


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty logbook; its tables take seconds to make, so they are made once."""
    folder = tmp_path_factory.mktemp("logbook")
    before = Path.cwd()
    os.chdir(folder)
    store.Store(f"sqlite:///{folder}/mlflow.db")
    os.chdir(before)
    return folder / "mlflow.db"


@pytest.fixture
def logbook(database, tmp_path, monkeypatch):
    """A working directory of its own with a copy of the empty logbook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SSIMBAD_PIPELINE", raising=False)
    with sqlite3.connect(database) as old, sqlite3.connect(tmp_path / "mlflow.db") as new:
        old.backup(new)
        new.execute("UPDATE experiments SET artifact_location = ?", ((tmp_path / "mlruns").as_uri(),))
    return tmp_path


def write(name="evaluate-x", values=3, error=None, pipeline="snakemake-1-999999"):
    os.environ["SSIMBAD_PIPELINE"] = pipeline
    try:
        with spool.opened(f"{name}-abc", name, {"stage": "evaluate"}, {"a.b": 1}, {"data/x.npy": "0" * 32}) as log:
            for step in range(values):
                log.metrics(step, {"loss": 1.0 / (step + 1)})
            log.tags(model_sha256="f" * 64)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    finally:
        del os.environ["SSIMBAD_PIPELINE"]


def runs():
    opened = store.Store()
    return {r.info.run_name: r for r in opened.client.search_runs([opened.experiment])}, opened.client


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_spool_ends_with_what_happened(logbook, error, status):
    write(error=error)
    events = spool.read(spool.ROOT / "evaluate-x-abc.jsonl")
    assert events[0]["event"] == "start"
    assert events[-1] == {"event": "end", "time": events[-1]["time"], "status": status}


def test_import_makes_a_parent_and_a_child_and_can_be_repeated(logbook):
    write(values=2500)
    picture = logbook / "figure.png"
    picture.write_bytes(b"png")
    assert store.import_all() == 1
    assert store.import_all() == 0
    found, client = runs()
    child, parent = found["evaluate-x"], found["snakemake-1-999999"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == "FINISHED"
    assert child.data.params == {"a.b": "1"}
    assert child.data.tags["model_sha256"] == "f" * 64
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 2500
    assert [(d.dataset.name, d.dataset.digest) for d in child.inputs.dataset_inputs] == [("data/x.npy", "0" * 8)]
    assert parent.info.status == "FINISHED"


def test_an_import_cut_short_is_finished_by_the_next(logbook):
    write(values=5)
    path = spool.ROOT / "evaluate-x-abc.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    head = json.loads(whole[0])
    head["where"] = {"host": head["where"]["host"], "pid": os.getpid(), "started": _started()}
    path.write_text(json.dumps(head) + "\n" + "".join(whole[1:3]) + whole[3][:10])  # the last line half written
    store.import_all()
    found, client = runs()
    run_id = found["evaluate-x"].info.run_id
    assert found["evaluate-x"].info.status == "RUNNING"
    assert len(client.get_metric_history(run_id, "loss")) == 2
    path.write_text(json.dumps(head) + "\n" + "".join(whole[1:]))
    store.import_all()
    assert len(client.get_metric_history(run_id, "loss")) == 5
    assert client.get_run(run_id).info.status == "FINISHED"


def _started():
    import psutil

    return psutil.Process().create_time()


@pytest.mark.parametrize("cut", ["_describe", "log_batch", "log_inputs", "set_tag"])
def test_an_import_cut_short_at_its_first_step_loses_nothing(logbook, monkeypatch, cut):
    """Wherever: the run is there then, and some of its parameters, inputs and events."""
    write(values=3)
    whose = store.Store if cut == "_describe" else type(store.Store().client)
    done, calls = getattr(whose, cut), []

    def interrupted(*args, **more):
        calls.append(args)
        if cut != "_describe" and len(calls) % 2 == 0:
            done(*args, **more)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(whose, cut, interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.import_all()
    assert calls
    assert store.import_all() == 1
    found, client = runs()
    child = found["evaluate-x"]
    assert child.info.status == "FINISHED"
    assert child.data.params == {"a.b": "1"}
    assert child.data.tags["model_sha256"] == "f" * 64
    assert [(d.dataset.name, d.dataset.digest) for d in child.inputs.dataset_inputs] == [("data/x.npy", "0" * 8)]
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 3


def test_a_killed_job_does_not_stay_running(logbook):
    code = (
        "import os, signal\nfrom ssimbad.tracking import spool\n"
        "with spool.opened('train-abc', 'train', {}, {}, {}) as log:\n"
        "    log.metrics(0, {'loss': 1.0})\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=logbook)
    assert done.returncode == -9
    store.import_all()
    found, _ = runs()
    assert found["train"].info.status == "KILLED"


def test_four_processes_log_at_once(logbook):
    code = (
        "import sys\nfrom ssimbad.tracking import spool, store\n"
        "with spool.opened(f'job-{sys.argv[1]}', f'job-{sys.argv[1]}', {}, {}, {}) as log:\n"
        "    for step in range(200):\n        log.metrics(step, {'loss': 1.0, 'rate': 2.0})\n"
        "store.import_all()\n"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=logbook, stderr=subprocess.PIPE) for i in range(4)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors.decode()
    found, client = runs()
    for i in range(4):
        run = found[f"job-{i}"]
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 200


def test_a_server_that_does_not_answer_costs_no_time(logbook, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    assert live.sinks("x") == ()
    assert time.monotonic() - started < 5


def test_a_failing_sink_is_told_once_and_the_stage_goes_on(logbook, capsys):
    def broken(event):
        raise RuntimeError("database is locked")

    with spool.opened("x-abc", "x", {}, {}, {}, (broken,)) as log:
        log.metrics(0, {"a": 1.0})
        log.metrics(1, {"a": 1.0})
    assert capsys.readouterr().err.count("database is locked") == 1
    assert len(spool.read(spool.ROOT / "x-abc.jsonl")) == 4


def test_a_full_disk_is_told_once_and_the_stage_goes_on(logbook, capsys):
    log = spool.Spool(Path("/dev/full"))
    log.metrics(0, {"a": 1.0})
    log.metrics(1, {"a": 1.0})
    assert capsys.readouterr().err.count("No space left") == 1


@pytest.mark.engines
def test_a_locked_database_leaves_the_spool_for_the_next_sync(logbook, capsys):
    """SQLite waits twenty seconds for the lock before it gives up."""
    write()
    locked = sqlite3.connect(logbook / "mlflow.db", isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    sync.import_spools()
    assert "logbook not updated" in capsys.readouterr().err
    locked.rollback()
    locked.close()
    assert store.import_all() == 1


def test_system_metrics_are_sampled(logbook):
    with spool.opened("x-abc", "x", {}, {}, {}) as log, system.sampled(log, interval=0.05):
        time.sleep(0.5)
    names = {n for e in spool.read(spool.ROOT / "x-abc.jsonl") if e["event"] == "metrics" for n in e["values"]}
    assert "system/cpu_utilization_percentage" in names


def test_a_job_without_a_logbook_says_nothing(tmp_path):
    job = Job("faces", tmp_path)
    job.metrics(0, {"a": 1.0})
    job.tags(a=1)


# -- damaged spools


def good_lines() -> list[dict]:
    """The events of a whole spool, as they are written."""
    write("model", values=2)
    path = spool.ROOT / "model-abc.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    return events


def lay(name: str, *events: dict | bytes) -> Path:
    path = spool.ROOT / f"{name}.jsonl"
    path.write_bytes(b"".join(e if isinstance(e, bytes) else json.dumps(e).encode() + b"\n" for e in events))
    return path


def without(event: dict, *keys: str) -> dict:
    return {k: v for k, v in event.items() if k not in keys}


def test_damaged_spools_are_set_aside_and_named_once_and_the_others_are_imported(logbook, capsys):
    start, metrics, _, tags, end = good_lines()
    lay("end-first", end)
    lay("no-start", metrics, end)
    lay("binary", bytes(range(256)) * 40)
    lay("list", b"[1, 2]\n")
    lay("deep", b"[" * 100_000 + b"\n")
    lay("long", b" " * (17 << 20) + b"\n")
    for key in ("name", "tags", "params", "inputs", "where", "time"):
        lay(f"start-without-{key}", without(start, key), end)
    lay("tags-without-pipeline", {**start, "tags": {}}, end)
    lay("odd-pipeline", {**start, "tags": {"pipeline_id": "x' OR '1' = '1"}}, end)
    lay("odd-pid", {**start, "where": {**start["where"], "pid": -1}}, end)
    lay("odd-host", {**start, "where": {**start["where"], "host": 3}}, end)
    lay("params-list", {**start, "params": [1]}, end)
    lay("odd-time", {**start, "time": 2**70}, end)
    lay("metric-text", start, {**metrics, "values": {"loss": "low"}}, end)
    lay("metric-null", start, {**metrics, "values": {"loss": None}}, end)
    lay("metric-name", start, {**metrics, "values": {"../loss": 1.0}}, end)
    lay("step-text", start, {**metrics, "step": "1"}, end)
    lay("step-huge", start, {**metrics, "step": 10**30}, end)
    lay("tag-number", start, {**tags, "values": {"a": 1}}, end)
    lay("status", start, {**end, "status": "DONE"})
    for i, path in enumerate(("/etc/passwd", "../secret.txt", ".git/config", "reports/../params.yaml", "")):
        lay(f"artifact-{i}", start, {"event": "artifact", "time": 1, "path": path, "folder": "x"}, end)
    lay("artifact-folder", start, {"event": "artifact", "time": 1, "path": "reports/a.png", "folder": "../x"}, end)
    for i, half in enumerate(("\ud800", "ok \udfff")):
        for key in ("name", "params", "inputs", "tags", "where"):
            value = half if key == "name" else {**start[key], "host" if key == "where" else "a": half}
            lay(f"half-{key}-{i}", {**start, key: value}, end)
        for key in ("params", "inputs", "tags"):
            lay(f"half-key-{key}-{i}", {**start, key: {**start[key], half: "a"}}, end)
        lay(f"half-deep-{i}", {**start, "params": {"a": [{"b": half}]}}, end)
        lay(f"half-metric-{i}", start, {**metrics, "values": {half: 1.0}}, end)
        lay(f"half-tag-{i}", start, {**tags, "values": {"a": half}}, end)
    lay("half-raw", json.dumps({**start, "name": "HALF"}).encode().replace(b"HALF", b"\xed\xa0\x80") + b"\n", end)
    lay("it's", start, end)
    (spool.ROOT / "folder.jsonl").mkdir()
    os.mkfifo(spool.ROOT / "pipe.jsonl")
    (spool.ROOT / "link.jsonl").symlink_to("nowhere")
    bad = sorted(p.name for p in spool.ROOT.glob("*.jsonl"))
    write("zzz")

    assert store.import_all() == 1
    said = capsys.readouterr().err.splitlines()
    assert [name for name in bad if sum(f"work/spool/damaged/{name}" in line for line in said) != 1] == []
    assert sorted(p.name for p in (spool.ROOT / "damaged").iterdir()) == bad
    assert (spool.ROOT / "damaged/binary.jsonl").read_bytes() == bytes(range(256)) * 40
    assert list(spool.ROOT.glob("*.jsonl")) == []
    found, _ = runs()
    assert found["zzz"].info.status == "FINISHED"
    assert [name for name, run in found.items() if run.info.status == "RUNNING" and name != "snakemake-1-999999"] == []
    write("later")
    assert store.import_all() == 1
    assert capsys.readouterr().err == ""


def test_a_damaged_spool_replaces_none_of_those_set_aside_before(logbook):
    good_lines()
    for content in (b"one\n", b"two\n", b"three\n"):
        lay("same", content)
        store.import_all()
    assert {p.read_bytes() for p in (spool.ROOT / "damaged").iterdir()} == {b"one\n", b"two\n", b"three\n"}


def test_a_run_whose_spool_is_damaged_later_does_not_stay_running(logbook):
    start, metrics, *_ = good_lines()
    start["where"] |= {"pid": os.getpid(), "started": _started()}
    lay("x", start, metrics)
    store.import_all()
    assert runs()[0]["model"].info.status == "RUNNING"
    lay("x", start, metrics, {**metrics, "step": None})
    store.import_all()
    assert runs()[0]["model"].info.status == "FAILED"


def test_whatever_stands_in_a_spool_an_import_goes_through(logbook):
    """Sixty good spools in each of which one value was replaced by another kind of value."""
    events, chance = good_lines(), random.Random(0)
    events[0]["where"]["started"] = 0.0  # nobody writes them any more
    values = [None, True, -1, 0, 2**63, 10**400, 1.5, float("nan"), "", "x", "'", "\ud800", "\0", "é" * 9000, [], {}]
    values += ["\udc00"] * 8
    for number in range(60):
        changed = json.loads(json.dumps(events))
        node = chance.choice(changed)
        while isinstance(inner := node[key := chance.choice(list(node))], dict) and inner and chance.random() < 0.8:
            node = inner
        node[key] = chance.choice(values)
        lay(f"spool-{number}", *changed)
    store.import_all()
    assert list(spool.ROOT.glob("*.jsonl")) == []
    assert len(list(spool.ROOT.glob("*/*.jsonl"))) == 60


def test_what_is_odd_but_no_damage_is_imported(logbook, capsys):
    """Not a number, a kind of event that this version does not know, a figure that is gone, a line after the end."""
    start, metrics, *_, end = good_lines()
    start["inputs"] = {f"data/{'x' * 600}.npy": "0" * 32}
    Path("reports").mkdir()
    Path("reports/here.txt").write_text("here")
    lay(
        "odd", start, {**metrics, "values": {"nan": float("nan"), "large": float("inf"), "loss": 1}},
        {"event": "hash", "time": 1, "of": "outputs"},
        {"event": "artifact", "time": 1, "path": "reports/gone.png", "folder": "figures"},
        {"event": "artifact", "time": 1, "path": str(Path("reports/here.txt").resolve()), "folder": "figures"},
        b'{"event": "metr', b'{"event": "metrics"}\n', end, metrics,
    )  # fmt: skip
    assert store.import_all() == 1
    assert capsys.readouterr().err == ""
    found, client = runs()
    assert found["model"].info.status == "FINISHED"
    assert found["model"].data.metrics["loss"] == 1
    assert [f.path for f in client.list_artifacts(found["model"].info.run_id, "figures")] == ["figures/here.txt"]


def test_a_spool_whose_writer_is_at_its_first_line_is_left_alone_for_an_hour(logbook, capsys):
    first, *_ = good_lines()
    paths = [lay("empty"), lay("half", json.dumps(first).encode()[:20])]
    assert store.import_all() == 0
    assert all(path.exists() for path in paths)
    assert capsys.readouterr().err == ""
    for path in paths:
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    store.import_all()
    assert [path.exists() for path in paths] == [False, False]
    assert capsys.readouterr().err.count("set aside") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_another_users_spool_stays_and_does_not_stop_the_others(logbook, capsys):
    write("theirs")
    (spool.ROOT / "theirs-abc.jsonl").chmod(0)
    write("zzz")
    assert store.import_all() == 1
    assert "theirs-abc.jsonl: not readable" in capsys.readouterr().err
    assert (spool.ROOT / "theirs-abc.jsonl").exists()


def test_a_run_that_was_deleted_or_edited_in_the_logbook_stops_no_import(logbook):
    start, metrics, *_, end = good_lines()
    start["where"] |= {"pid": os.getpid(), "started": _started()}
    lay("deleted", {**start, "name": "deleted"}, metrics)
    lay("edited", {**start, "name": "edited"}, metrics)
    store.import_all()
    found, client = runs()
    client.delete_run(found["deleted"].info.run_id)
    client.delete_run(found["snakemake-1-999999"].info.run_id)
    client.set_tag(found["edited"].info.run_id, "events", "many")
    lay("deleted", {**start, "name": "deleted"}, metrics, end)
    lay("edited", {**start, "name": "edited"}, metrics, end)
    assert store.import_all() == 2
    found, _ = runs()
    assert {found[name].info.status for name in ("deleted", "edited")} == {"FINISHED"}


# -- a logbook that is gone, damaged, or of another version


def refused(logbook: Path) -> str:
    """The one line that an import ends with; the spools stay."""
    write()
    with pytest.raises(UserError) as caught:
        store.import_all()
    assert len(list(spool.ROOT.glob("*.jsonl"))) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stamp(logbook: Path, version: str) -> None:
    with sqlite3.connect(logbook / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()


def test_a_logbook_of_an_older_version_is_upgraded_by_a_command(logbook):
    stamp(logbook, "0c779009ac13")  # of MLflow 2; in earnest it lacks tables too, and MLflow adds them by itself
    assert f"`mlflow db upgrade sqlite:///{logbook}/mlflow.db`" in refused(logbook)


def after(remedy: str, logbook: Path) -> int:
    """Runs that a new process finds after the remedy's commands have been carried out."""
    done = [c for c in re.findall("`(.+?)`", remedy) if c not in ("ssimbad sync", "make install")]
    assert done
    opened = "s = store.Store(); print(len(s.client.search_runs([s.experiment], \"tags.stage = 'evaluate'\")))"
    python = f"{sys.executable} -c 'from ssimbad.tracking import store; store.import_all(); {opened}'"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(["set -e", *done, python.replace("'evaluate'", "'\\''evaluate'\\''")])
    shell = subprocess.run(
        ["bash", "-c", script], cwd=logbook, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert shell.returncode == 0, shell.stderr
    return int(shell.stdout.split()[-1])


@pytest.mark.engines
@pytest.mark.parametrize("damage", ["newer", "cut", "text"])
def test_a_logbook_that_cannot_be_used_is_replaced_by_one_with_all_runs(logbook, damage):
    write("first")
    store.import_all()
    database = logbook / "mlflow.db"
    if damage == "newer":
        stamp(logbook, "f" * 12)
    else:
        whole = database.read_bytes()
        database.unlink()  # MLflow keeps connections of this process open
        database.write_bytes(whole[:20000] if damage == "cut" else b"no database\n" * 500)
    code = "from ssimbad.pipeline import sync; sync.import_spools()"
    write()
    said = subprocess.run([sys.executable, "-c", code], cwd=logbook, capture_output=True, text=True).stderr
    assert said.startswith("ssimbad: logbook not updated: ") and said.count("\n") == 1, said
    assert after(said, logbook) == 2


@pytest.mark.engines
def test_a_deleted_experiment_is_brought_back_by_a_command(logbook):
    opened = store.Store()
    opened.client.delete_experiment(opened.experiment)
    remedy = refused(logbook)
    assert "was deleted" in remedy
    assert after(remedy, logbook) == 1


def made_new(logbook: Path) -> None:
    (logbook / "mlflow.db").write_bytes(b"")


def made_folder(logbook: Path) -> None:
    (logbook / "mlflow.db").mkdir()


def made_link_to_nowhere(logbook: Path) -> None:
    (logbook / "mlflow.db").symlink_to("/nowhere/mlflow.db")


@pytest.mark.parametrize("left", [lambda _: None, made_new, made_folder, made_link_to_nowhere])
def test_a_logbook_that_is_gone_is_told_at_once(logbook, capfd, left):
    """Whether or not there is something new; MLflow would begin an empty one, or try for two minutes."""
    write("first")
    store.import_all()
    for path in logbook.glob("mlflow.db*"):
        path.unlink()
    left(logbook)
    capfd.readouterr()
    for _ in range(2):
        sync.import_spools()
        said = capfd.readouterr().err
        assert said.startswith(f"ssimbad: logbook not updated: the logbook sqlite:///{logbook}/mlflow.db is ")
        assert said.count("\n") == 1
        write()
    for opening in (store.Store, lambda: ui.serve(5999)):
        with pytest.raises(UserError, match=r"mlflow\.db is "):
            opening()
    assert not (logbook / "mlflow.db").is_file() or (logbook / "mlflow.db").stat().st_size == 0


@pytest.mark.engines
@pytest.mark.parametrize("left", [made_new, made_folder])
def test_a_logbook_that_is_gone_is_made_anew_with_all_runs(logbook, left):
    write("first")
    store.import_all()
    for path in logbook.glob("mlflow.db*"):  # MLflow keeps connections of this process open
        path.unlink()
    left(logbook)
    assert after(refused(logbook), logbook) == 2


def test_a_logbook_of_another_user_is_told(logbook, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "mlflow.db")
    assert "may not be read and written" in refused(logbook)


def test_addresses_that_are_no_file_are_left_to_mlflow(logbook):
    write()
    store.import_all()
    for where in (
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "http://h/x",
        f"sqlite:///{logbook}/mlflow.db?timeout=9",
    ):
        store.require_there(where)


def test_what_stops_an_import_is_named(logbook, monkeypatch):
    write()

    def broken(*_):
        raise RuntimeError("no idea")

    monkeypatch.setattr(store.Store, "child", broken)
    with pytest.raises(UserError, match=r"fails at work/spool/evaluate-x-abc\.jsonl \(RuntimeError: no idea\)"):
        store.import_all()


def test_a_deleted_database_beside_its_artifacts_is_made_anew(logbook):
    """Even where the journal of the old one has stayed."""
    (logbook / "mlflow.db").unlink()
    (logbook / "mlflow.db-wal").write_bytes(b"7\x7f\x06\x82" + b"x" * 5000)
    (logbook / "mlruns").mkdir()
    write()
    assert store.import_all() == 1
    assert runs()[0]["evaluate-x"].info.status == "FINISHED"


def test_a_logbook_in_a_folder_with_an_odd_name(tmp_path, monkeypatch):
    folder = tmp_path / 'it\'s a "täst" 100% #1 & {x} a:b $HOME'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)
    Path("reports").mkdir()
    Path("reports/a.txt").write_text("a")
    with spool.opened("x-abc", "x", {}, {}, {}) as log:
        log.artifact("reports/a.txt", "tables")
    assert store.import_all() == 1
    found, client = runs()
    assert [f.path for f in client.list_artifacts(found["x"].info.run_id, "tables")] == ["tables/a.txt"]
    assert len(list(folder.glob("mlruns/*/artifacts/tables/a.txt"))) == 1


def test_a_folder_with_a_question_mark_is_refused(tmp_path, monkeypatch):
    """SQLAlchemy would write a file beside it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "why?").mkdir()
    monkeypatch.chdir(tmp_path / "why?")
    with pytest.raises(UserError, match="question mark"):
        store.import_all()
    assert [p.name for p in tmp_path.iterdir()] == ["why?"]


# -- passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://ann:pw@host:5000/a, b", "at https://***@host:5000/a, b"),
        ("postgresql+psycopg2://ann:p/w@x@host/db", "postgresql+psycopg2://***@host/db"),
        ("https://token@host", "https://***@host"),
        ("redis://:pw@host", "redis://***@host"),
        ("mssql://host/db?user=ann&password=pw&x=1", "mssql://host/db?user=ann&password=***&x=1"),
        ("https://host/x?X-Amz-Signature=ab%2F&b=1", "https://host/x?X-Amz-Signature=***&b=1"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://host:5000/x and a@b", "http://host:5000/x and a@b"),
    ],
)
def test_passwords_are_masked(text, shown):
    assert masked(text) == shown
    assert str(UserError(text)) == shown


@pytest.mark.parametrize(
    "address",
    ["http://ann:geheim@127.0.0.1:9", "http://ann:x/geheim@127.0.0.1:9", "postgresql+geheim://ann:geheim@127.0.0.1/db"],
)
def test_no_message_shows_the_password_of_the_logbook(logbook, monkeypatch, capfd, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    write()
    sync.import_spools()
    assert live.sinks("x") == ()
    if address.startswith("http"):
        with pytest.raises(UserError) as caught:
            ui.serve(5999)
        print(caught.value)
    shown = "".join(capfd.readouterr())
    assert "logbook not updated" in shown
    assert "geheim" not in shown.replace("postgresql+geheim", "").replace("postgresql.geheim", "")


class _Fake(BaseHTTPRequestHandler):
    """As much of a tracking server as the end of a run needs."""

    def _answer(self) -> None:
        experiment = {"experiment_id": "1", "name": "ssimbad", "lifecycle_stage": "active"}
        info = {"run_id": "1" * 32, "run_uuid": "1" * 32, "experiment_id": "1", "status": "FINISHED"}
        body = json.dumps({"experiment": experiment, "run": {"info": info}, "run_info": info}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    made = HTTPServer(("127.0.0.1", 0), _Fake)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made.server_port
    made.shutdown()
    made.server_close()


def test_the_end_of_a_run_on_a_server_prints_no_password(logbook, server, capfd):
    opened = store.Store(f"http://ann:geheim@127.0.0.1:{server}")
    opened.client.set_terminated("1" * 32, "FINISHED")
    opened.close("snakemake-1-1", "FINISHED")
    assert "geheim" not in "".join(capfd.readouterr())


def test_a_live_server_that_fails_is_told_without_its_password(logbook, monkeypatch, server, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:geheim@127.0.0.1:{server}")

    def broken(event):
        raise RuntimeError(f"no answer from {store.uri()}")

    with spool.opened("x-abc", "x", {}, {}, {}, (broken, *live.sinks("x-abc"))):
        pass
    shown = "".join(capfd.readouterr())
    assert "the logbook is incomplete" in shown and "geheim" not in shown


def test_the_password_of_a_database_is_no_argument_of_the_browsers_server(logbook, monkeypatch):
    class StartedError(Exception):
        pass

    def started(command, env):
        assert "geheim" not in " ".join(command)
        assert "geheim" in env["MLFLOW_BACKEND_STORE_URI"]
        raise StartedError

    class Opened:
        experiment = "1"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:geheim@127.0.0.1/db")
    monkeypatch.setattr(store, "Store", lambda where: Opened())
    monkeypatch.setattr(ui.subprocess, "Popen", started)
    monkeypatch.setattr(ui.interrupt, "install", lambda: None)
    with pytest.raises(StartedError):
        ui.serve(5999)
