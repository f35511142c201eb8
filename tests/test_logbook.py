"""A logbook that is gone, damaged or on a server: one line each, with a remedy that works and without a password."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ssimbad.errors import UserError, masked
from ssimbad.pipeline import sync
from ssimbad.tracking import live, spool, store, ui

from .logbook import runs, write


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


KILLED_WHILE_WRITING = """
import os, sqlite3, sys
book = sqlite3.connect("mlflow.db")
book.execute("PRAGMA journal_mode=" + sys.argv[1])
book.execute("PRAGMA cache_size=1")
book.execute("CREATE TABLE old (x)")
book.commit()
book.execute("INSERT INTO old VALUES (zeroblob(200000))")
if sys.argv[1] == "WAL":
    book.commit()
os._exit(0)
"""


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_journals_of_a_logbook_that_is_gone_do_not_come_back_in_the_new_one(logbook, journal, left):
    database = logbook / "mlflow.db"
    database.unlink()
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, journal], check=True)
    assert len(list(logbook.glob("mlflow.db-*"))) >= 1
    database.unlink()
    if left != "nothing":
        database.touch()
    write()
    assert store.import_all() == 1
    with sqlite3.connect(database) as book:
        assert not book.execute("SELECT name FROM sqlite_master WHERE name = 'old'").fetchall()
        assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not list(logbook.glob(".mlflow.db.*"))


KILLED_WHILE_CREATING = """
import os, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from ssimbad.tracking import store
left = int(sys.argv[1])

@event.listens_for(Engine, "before_cursor_execute")
def counted(*_):
    global left
    left -= 1
    if not left:
        os._exit(9)

store.Store()
"""


@pytest.mark.parametrize("statements", [20, 120, 300])
def test_a_process_killed_while_it_creates_the_logbook_leaves_none(logbook, statements):
    (logbook / "mlflow.db").unlink()
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_CREATING, str(statements)], capture_output=True)
    assert done.returncode == 9 and not (logbook / "mlflow.db").exists()
    write()
    assert store.import_all() == 1
    assert runs()[0]["evaluate-x"].info.status == "FINISHED"


@pytest.mark.engines
@pytest.mark.parametrize("words", ["duplicate column name: creation_time", "table experiment_tags already exists"])
def test_a_logbook_that_was_left_half_made_is_replaced(logbook, monkeypatch, words):
    """By a power cut, say: MLflow goes on from where it believes to have stopped, and finds its work done."""

    def fails(client, name):
        raise RuntimeError(f"(sqlite3.OperationalError) {words}")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.get_experiment_by_name", fails)
        said = refused(logbook)
    assert "half made" in said and after(said, logbook) == 1


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
