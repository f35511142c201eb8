"""The MLflow logbook: created once, fed from the spools. The only room that knows MLflow.

One pipeline execution is a parent run, each stage instance a child. Importing is idempotent: a run knows its spool and
how many of its events it holds, so a second import adds what is new, and an import cut short is finished by the next.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssimbad import artifacts
from ssimbad.errors import UserError, masked
from ssimbad.tracking import spool
from ssimbad.tracking.spool import Event

EXPERIMENT = "ssimbad"
_BATCH = 1000
TOLD = 500  # runs after which an import says how far it is
_TEXT = 6000  # MLflow's limit for a parameter's value
_NAME = 500  # MLflow's limit for the name of an input
_SQLITE = "sqlite:///"
_IMPORTED = spool.ROOT / "imported"
_AGAIN = f"mv {_IMPORTED}/* {spool.ROOT}"
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it prints the password too


def uri() -> str:
    """`MLFLOW_TRACKING_URI` if set, else an SQLite file in the repository."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    database = Path("mlflow.db").resolve()
    if "?" in str(database):  # SQLAlchemy would cut the path off there
        raise UserError(f"{database}: no logbook in a folder with a question mark; set MLFLOW_TRACKING_URI")
    return f"{_SQLITE}{database}"


def _database(where: str) -> Path:
    return Path(where.removeprefix(_SQLITE).split("?")[0])


def require_there(where: str) -> None:
    """Refuse an SQLite logbook that is gone: MLflow would begin an empty one without a word, or try for minutes.

    Raises:
        UserError: it is no file, may not be read, or is missing or empty while there are spools that were imported.
    """
    database = _database(where)
    if not where.startswith(_SQLITE) or str(database) in (".", ":memory:"):
        return
    with _in_one_line(where):
        if os.path.lexists(database) and not database.is_file():
            raise UserError(f"the logbook {where} is no file; {_put_aside(where)}")
        if not database.exists() or database.stat().st_size == 0:
            if any(_IMPORTED.glob("*.jsonl")):
                holds = f"is gone or empty, and {_IMPORTED} holds what was in it; bring it back, or"
                raise UserError(f"the logbook {where} {holds} for a new one `{_AGAIN}`, then `ssimbad sync`")
        elif not os.access(database, os.R_OK | os.W_OK):
            raise UserError(f"the logbook {where} may not be read and written; ask its owner, or {_put_aside(where)}")


def _artifacts() -> str:
    return Path("mlruns").resolve().as_uri()


class Store:
    """An open logbook. After that its methods raise whatever MLflow raises: callers decide what a failure means.

    Raises:
        UserError: it cannot be opened, or the experiment in it was deleted; the message names the remedy.
    """

    def __init__(self, where: str | None = None) -> None:
        where = where or uri()
        require_there(where)
        # MLflow's own default, in a form that holds quotes and colons: it writes it into SQL as it is.
        os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", _artifacts())
        # Creating the tables takes ten seconds, and two processes doing it at once break each other.
        with _in_one_line(where), FileLock(_folder() / "mlflow.lock"):
            import mlflow

            _begin(where)
            mlflow.set_tracking_uri(where)
            self.client = mlflow.MlflowClient(where)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found and found.lifecycle_stage == "deleted":
                bring = f"mlflow experiments restore --experiment-id {found.experiment_id}"
                raise UserError(
                    f"the logbook's experiment {EXPERIMENT} was deleted; bring it back "
                    f"(`MLFLOW_TRACKING_URI={_named(where)} {bring}`), then `ssimbad sync`"
                )
            self.experiment = found.experiment_id if found else self._create(where)
            if where.startswith(_SQLITE):
                _write_ahead(Path(where.removeprefix(_SQLITE)))

    def _create(self, where: str) -> str:
        place = _artifacts() if where.startswith(_SQLITE) else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=place)

    def find(self, tag: str, value: str) -> Any:
        if "'" in value:  # none of ours; MLflow's filters know no escape
            return None
        runs = self.client.search_runs([self.experiment], f"tags.{tag} = '{value}'", max_results=1)
        return runs[0] if runs else None

    def parent(self, start: Event) -> str:
        """Id of the parent run of a spool's pipeline execution, made if need be."""
        tags = start["tags"]
        pipeline = tags["pipeline_id"]
        found = self.find("pipeline_parent", pipeline)
        if found:
            return found.info.run_id
        own = {k: v for k, v in tags.items() if k in ("engine", "git_revision", "git_dirty", "pipeline_id")}
        run = self.client.create_run(
            self.experiment,
            start_time=start["time"],
            run_name=pipeline,
            tags={**own, "pipeline_parent": pipeline},
        )
        return run.info.run_id

    def child(self, start: Event, spool_id: str) -> str:
        """Id of the run of one stage instance, made with its parameters, tags and inputs if need be.

        Its tag `events` is 0 until all of these are there: whoever made the run may have been stopped before.
        """
        run = self.find("spool_id", spool_id)
        if not run:
            own = {"spool_id": spool_id, "mlflow.parentRunId": self.parent(start), "events": "0"}
            tags = {**start["tags"], **own}
            run = self.client.create_run(self.experiment, start_time=start["time"], run_name=start["name"], tags=tags)
        run_id = run.info.run_id
        if run.data.tags.get("events") == "0":
            self._describe(run_id, start)
            self.client.set_tag(run_id, "events", "1")
        return run_id

    def _describe(self, run_id: str, start: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        params = [Param(k, str(v)[:_TEXT]) for k, v in start["params"].items()]
        for i in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[i : i + 100])
        inputs = [
            DatasetInput(
                Dataset(name=path[-_NAME:], digest=md5[:8], source_type="local", source=path),
                [InputTag("dvc_md5", md5), InputTag("mlflow.data.context", "input")],
            )
            for path, md5 in start["inputs"].items()
        ]
        if inputs:
            self.client.log_inputs(run_id, datasets=inputs)

    def add(self, run_id: str, events: Iterable[Event]) -> None:
        """Append events to a run: metrics in batches, tags, artifacts, and the end."""
        from mlflow.entities import Metric

        metrics: list[Any] = []
        for event in events:
            kind = event["event"]
            if kind == "metrics":
                metrics += [Metric(k, float(v), event["time"], event["step"]) for k, v in event["values"].items()]
            elif kind == "tags":
                for key, value in event["values"].items():
                    self.client.set_tag(run_id, key, value)
            elif kind == "artifact" and Path(event["path"]).is_file():
                try:
                    self.client.log_artifact(run_id, event["path"], event["folder"])
                except FileNotFoundError:
                    if Path(event["path"]).is_file():
                        raise  # else a run has taken it away, to make it anew
            elif kind == "end":
                self._flush(run_id, metrics)
                self.client.set_terminated(run_id, event["status"], end_time=event["time"])
        self._flush(run_id, metrics)

    def _flush(self, run_id: str, metrics: list[Any]) -> None:
        for i in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + _BATCH])
        metrics.clear()

    def take(self, spool_id: str, events: list[Event]) -> bool:
        """Import what is new in one spool; True when it has ended and is whole in the logbook.

        Raises:
            DamagedError: MLflow refuses one of its names or values.
        """
        from mlflow.exceptions import MlflowException

        try:
            run_id = self.child(events[0], spool_id)
            done = self.client.get_run(run_id).data.tags.get("events", "1")
            new = events[int(done) if re.fullmatch("[0-9]{1,9}", done) else 1 :]  # anybody may edit a tag
            self.add(run_id, new)
            if Path("mlruns").is_dir() and any(event["event"] == "artifact" for event in new):
                artifacts.settle(Path("mlruns"))  # MLflow's copies are on the disk before they count as taken
            self.client.set_tag(run_id, "events", str(len(events)))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise spool.DamagedError(f"{spool_id}: refused by MLflow ({_first_line(error)})") from None
        if _ending(events):
            return True
        if spool.alive(events[0]["where"]) is False:
            self.client.set_terminated(run_id, "KILLED", end_time=events[-1]["time"])
            return True
        return False

    def forsake(self, spool_id: str) -> None:
        """No more will come of a spool that is damaged: what is there of its run has failed."""
        found = self.find("spool_id", spool_id)
        if found and found.info.status == "RUNNING":
            self.client.set_terminated(found.info.run_id, "FAILED")

    def close(self, pipeline: str, status: str) -> None:
        """Give the parent run of a pipeline execution its end."""
        found = self.find("pipeline_parent", pipeline)
        if found:
            self.client.set_terminated(found.info.run_id, status)


def import_all(current: str | None = None, status: str | None = None, root: Path = spool.ROOT) -> int:
    """Import every spool; whole ones are moved to work/spool/imported. Returns how many were imported.

    A damaged one is named, once, and moved to work/spool/damaged.

    Args:
        current, status: the pipeline execution that ends with this import, and how.

    Raises:
        UserError: the logbook cannot be opened or fails; the spools stay for the next import.
    """
    with _in_one_line(uri()), _alone():
        waiting = sorted(root.glob("*.jsonl"))
        if not waiting and not current:
            return 0
        store = Store()
        count, endings = 0, {}
        for path in waiting:
            if path.is_file() and not os.access(path, os.R_OK):
                _say(f"{path}: not readable, another user's perhaps; it stays, the others are imported")
                continue
            try:
                events = spool.read(path)
                if not events:
                    continue
                with _in_one_line(uri(), f" at {path}"):
                    whole = store.take(path.stem, events)
            except spool.DamagedError as error:
                store.forsake(path.stem)
                _say(f"{error}; it is set aside as {_moved(path, root / 'damaged')}, the others are imported")
                continue
            count += 1
            if count % TOLD == 0:
                _say(f"logbook: {count} of {len(waiting)} runs")
            pipeline = events[0]["tags"]["pipeline_id"]
            endings.setdefault(pipeline, set()).add((_ending(events) or "KILLED") if whole else "RUNNING")
            if whole:
                _moved(path, root / _IMPORTED.name)
        for pipeline, states in endings.items():
            if pipeline != current and "RUNNING" not in states and not spool.pipeline_alive(pipeline):
                store.close(pipeline, next((s for s in ("FAILED", "KILLED") if s in states), "FINISHED"))
        if current and status:
            store.close(current, status)
        return count


@contextmanager
def _alone() -> Iterator[None]:
    """One import at a time; whoever waits for another, which may take long, is told so."""
    lock = FileLock(_folder() / "import.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say("another import into the logbook is under way; waiting until it has ended")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ending(events: list[Event]) -> str | None:
    return next((event["status"] for event in events if event["event"] == "end"), None)


def _moved(path: Path, folder: Path) -> Path:
    """Move a file into a folder, beside those of the same name."""
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while os.path.lexists(target):
        target, number = folder / f"{path.stem}.{number}{path.suffix}", number + 1
    return path.rename(target)


def _say(text: str) -> None:
    print(f"ssimbad: {text}", file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _named(where: str) -> str:
    """The logbook as a shell's word that holds no password."""
    return shlex.quote(where) if masked(where) == where else '"$MLFLOW_TRACKING_URI"'


@contextmanager
def _in_one_line(where: str, at: str = "") -> Iterator[None]:
    """Whatever MLflow, its database or the network raises, as one line with a remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_remedy(where, error, at)) from None


def _remedy(where: str, error: Exception, at: str) -> str:
    reason = str(error)
    if where.startswith(_SQLITE) and ("file is not a database" in reason or "malformed" in reason):
        return f"the logbook {where} is damaged; {_put_aside(where)}"
    if where.startswith(_SQLITE) and re.search(r"duplicate column name|table \w+ already exists", reason):
        return f"the logbook {where} was left half made; {_put_aside(where)}"
    if found := re.search(r"out-of-date database schema \(found version (\w+)", reason):
        if _known(found[1]):
            upgrade = f"`mlflow db upgrade {_named(where)}` and `ssimbad sync`"
            return f"the logbook {where} was written by an older MLflow; copy it, then {upgrade}"
        return f"the logbook {where} was written by a newer MLflow; install a newer one, or {_put_aside(where)}"
    reason = f"{type(error).__name__}: {_first_line(error)}"
    return f"the logbook {where} fails{at} ({reason}); mend that, then `ssimbad sync`"


def _known(schema: str) -> bool:
    """Whether this MLflow has that version of the tables behind it."""
    import mlflow.store

    return any(Path(mlflow.store.__path__[0]).glob(f"db_migrations/versions/{schema}_*.py"))


def _put_aside(where: str) -> str:
    if not where.startswith(_SQLITE):
        return "set MLFLOW_TRACKING_URI to another"
    database = _database(where)
    aside = shlex.quote(str(database.with_name(f"old-{database.name}")))
    # With its journals: SQLite would take them for the new one's.
    move = f"mkdir {aside} && mv {shlex.quote(str(database))}* {aside}"
    again = f"for a new one with all runs also `{_AGAIN}`, " if any(_IMPORTED.glob("*.jsonl")) else ""
    return f"put it aside (`{move}`), {again}then `ssimbad sync`"


def _folder() -> Path:
    folder = Path("work").resolve()
    folder.mkdir(exist_ok=True)
    return folder


def _begin(where: str) -> None:
    """Create an SQLite logbook that is not there yet: under another name, until it has all its tables.

    MLflow makes them in hundreds of steps, and cannot go on where a killed process or a power cut has left it.
    """
    if not where.startswith(_SQLITE) or str(_database(where)) in (".", ":memory:") or "?" in where:
        return
    database = _database(where).resolve()
    if database.exists() and database.stat().st_size:
        return
    import mlflow

    with artifacts.replacing(database) as temporary:
        mlflow.MlflowClient(f"{_SQLITE}{temporary}").search_experiments(max_results=1)
        # Of a database that is gone. SQLite drops them beside an empty one, and would replay them into this.
        for ending in ("wal", "shm", "journal"):
            database.with_name(f"{database.name}-{ending}").unlink(missing_ok=True)


def _write_ahead(database: Path) -> None:
    """Readers and writers beside each other: 27 ms instead of 95 ms per write with four writers (local disks only)."""
    if not database.is_file():  # an address with more than a path in it
        return
    try:
        with sqlite3.connect(database, timeout=20) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error:
        pass
