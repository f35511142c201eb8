"""An empty logbook to test on, and spools for it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from ssimbad.tracking import spool, store


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
