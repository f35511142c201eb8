"""The logbook: spools that nothing can block, imports that can be repeated, and a true end for every run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssimbad.job import Job
from ssimbad.pipeline import sync
from ssimbad.tracking import live, spool, store, system


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
