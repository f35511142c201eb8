"""The logbook: spools that nothing can block, imports that can be repeated, and a true end for every run."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from ssimbad.pipeline import sync
from ssimbad.runtime.job import Job
from ssimbad.tracking import live, spool, store, system

from .logbook import runs, write
from .waiting import until


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


def test_an_import_waits_for_another_and_says_so_and_how_far_it_is(logbook, capsys, monkeypatch):
    monkeypatch.setattr(store, "TOLD", 2)
    for name in "abc":
        write(name)
    with ThreadPoolExecutor(1) as pool:
        with FileLock("work/import.lock"):
            second = pool.submit(store.import_all)
            said = ""
            while "another import" not in said:
                said += capsys.readouterr().err
                time.sleep(0.01)
            assert not second.done()
        assert second.result() == 3
    assert "logbook: 2 of 3 runs" in capsys.readouterr().err


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


def _measured(name: str) -> set[str]:
    return {n for e in spool.read(spool.ROOT / f"{name}.jsonl") if e["event"] == "metrics" for n in e["values"]}


def test_system_metrics_are_sampled(logbook):
    with spool.opened("x-abc", "x", {}, {}, {}) as log, system.sampled(log, interval=0.05):
        until(lambda: "system/cpu_utilization_percentage" in _measured("x-abc"), 60, "a sample")


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


NO_RESULTS = (
    "/etc/passwd", "../secret.txt", ".git/config", "reports/../params.yaml", "", ".", "./", "..", "/", "reports/..",
    "\0", "reports/\0", f"reports/{'a' * 256}", f"reports/{'é' * 200}/a.png", f"reports/{'a/' * 3000}b", "a" * 100_000,
)  # fmt: skip
NO_FOLDERS = ("../x", "", ".", "..", "a/b", "x\n", "\0", "a" * 256, "é" * 200)


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
    for i, path in enumerate(NO_RESULTS):
        lay(f"artifact-{i}", start, {"event": "artifact", "time": 1, "path": path, "folder": "x"}, end)
    Path("reports").mkdir()
    Path("reports/a.png").touch()
    for i, folder in enumerate(NO_FOLDERS):
        lay(f"folder-{i}", start, {"event": "artifact", "time": 1, "path": "reports/a.png", "folder": folder}, end)
    for name in ("spool_id", "events", "pipeline_parent"):
        lay(f"own-tag-{name}", start, {**tags, "values": {name: "1"}}, end)
        lay(f"own-start-tag-{name}", {**start, "tags": {**start["tags"], name: "1"}}, end)
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
    lay("checkout", start, {"event": "artifact", "time": 1, "path": str(Path().resolve()), "folder": "x"}, end)
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


def test_a_figure_that_a_run_takes_away_meanwhile_keeps_nothing_else_out(logbook, monkeypatch, capsys):
    from mlflow import MlflowClient

    start, *_, end = good_lines()
    figure = Path("reports/figure.png")
    figure.parent.mkdir()
    figure.write_text("to be made anew")
    lay("model", start, {"event": "artifact", "time": 1, "path": str(figure), "folder": "figures"}, end)
    log = MlflowClient.log_artifact

    def late(client, run_id, path, folder):
        Path(path).unlink()
        log(client, run_id, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", late)
    assert store.import_all() == 1
    assert capsys.readouterr().err == ""
    assert runs()[0]["model"].info.status == "FINISHED"


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


def test_another_users_spool_stays_and_does_not_stop_the_others(logbook, capsys, monkeypatch):
    write("theirs")
    asked = os.access  # root may read everything
    monkeypatch.setattr(os, "access", lambda path, *how: "theirs" not in str(path) and asked(path, *how))
    write("zzz")
    assert store.import_all() == 1
    assert "theirs-abc.jsonl: not readable" in capsys.readouterr().err
    assert (spool.ROOT / "theirs-abc.jsonl").exists()


@pytest.mark.parametrize("count", ["many", "²", "9" * 5000, "-1"])
def test_a_run_that_was_deleted_or_edited_in_the_logbook_stops_no_import(logbook, count):
    start, metrics, *_, end = good_lines()
    start["where"] |= {"pid": os.getpid(), "started": _started()}
    lay("deleted", {**start, "name": "deleted"}, metrics)
    lay("edited", {**start, "name": "edited"}, metrics)
    store.import_all()
    found, client = runs()
    client.delete_run(found["deleted"].info.run_id)
    client.delete_run(found["snakemake-1-999999"].info.run_id)
    client.set_tag(found["edited"].info.run_id, "events", count)
    lay("deleted", {**start, "name": "deleted"}, metrics, end)
    lay("edited", {**start, "name": "edited"}, metrics, end)
    assert store.import_all() == 2
    found, _ = runs()
    assert {found[name].info.status for name in ("deleted", "edited")} == {"FINISHED"}
