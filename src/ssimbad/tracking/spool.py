"""Event spool: what a stage instance reports while it runs, as lines of JSON that nothing can block.

Jobs never talk to the logbook's database. They append to a file of their own under work/spool; the head node imports
it (`ssimbad sync`). Where a tracking server answers, the same events also go there live (tracking/live.py). Whatever
fails here is said once on stderr and never reaches the stage.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ssimbad import artifacts
from ssimbad.errors import UserError, first_line, masked, shown
from ssimbad.runtime import slurm

ROOT = Path("work/spool")
Event = dict[str, Any]
Sink = Callable[[Event], None]

_PICTURE = re.compile(r"work/[^/]+/[0-9a-f]{12}/pictures/\w+-\d{12}\.png")
_LONGEST = 1 << 24  # bytes of a line; a start with all its inputs has some ten thousand
_NAME, _DEEPEST = 255, 12  # bytes of a file's name, folders in folders: what every file system takes
_KEPT = {"spool_id", "events", "pipeline_parent"}  # tags by which the logbook finds its runs again
_AT_BIRTH = 3600.0  # seconds in which a writer may still be at its first line


class Spool:
    """One run's events, appended line by line; `sinks` get each event as well."""

    def __init__(self, path: Path, sinks: tuple[Sink, ...] = ()) -> None:
        self.path, self._sinks = path, list(sinks)
        self._broken = False

    def write(self, kind: str, **facts: object) -> None:
        """Append one event; a full disk or a failing sink is told once and otherwise ignored."""
        event = {"event": kind, "time": int(time.time() * 1000), **facts}
        try:
            artifacts.make_folder(self.path.parent)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        except (OSError, ValueError, TypeError) as error:
            self._tell(f"{self.path}: {error}")
        for sink in list(self._sinks):
            try:
                sink(event)
            except Exception as error:  # a logbook must never fail a stage, whatever it raises
                self._sinks.remove(sink)
                self._tell(f"{type(error).__name__}: {first_line(error)}")

    def _tell(self, problem: str) -> None:
        if not self._broken:
            print(
                f"ssimbad: the logbook is incomplete, the stage goes on ({shown(masked(problem))})",
                file=sys.stderr,
                flush=True,
            )
        self._broken = True

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.write("metrics", step=step, values=values)

    def artifact(self, path: str, folder: str) -> None:
        """A file to be shown in the logbook: curves, grids, tables; never weights."""
        self.write("artifact", path=str(path), folder=folder)

    def picture(self, path: Path, data: bytes) -> None:
        """A picture of a training under way, written where it lies under work/, and shown in the logbook."""
        try:
            artifacts.write_bytes(path, data)
        except OSError as error:
            self._tell(f"{path}: {error}")
        else:
            self.artifact(path.as_posix(), "pictures")

    def tags(self, **values: object) -> None:
        self.write("tags", values={k: str(v) for k, v in values.items()})


@contextmanager
def opened(
    spool_id: str,
    name: str,
    tags: dict[str, str],
    params: Mapping[str, object],
    inputs: dict[str, str],
    sinks: tuple[Sink, ...] = (),
) -> Iterator[Spool]:
    """A run from its start to its true end: FINISHED, FAILED, or KILLED when it was told to stop.

    Args:
        inputs: {path: md5} of what the run reads.
    """
    spool = Spool(ROOT / f"{spool_id}.jsonl", sinks)
    where = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    spool.write("start", name=name, tags={**origin(), **tags}, params=params, inputs=inputs, where=where)
    status = "FAILED"
    try:
        yield spool
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        spool.write("end", status=status)


def origin() -> dict[str, str]:
    """Where the code and the call came from: git revision, dirty or not, engine, pipeline run, SLURM job."""
    engine, pipeline = _engine()
    tags = {"engine": engine, "pipeline_id": pipeline}
    tags |= {key: value for key, value in _git().items() if value}
    if job := slurm.job_id():
        tags["slurm_job_id"] = job
        tags["slurm_restart_count"] = slurm.restarts()
    return tags


def _git() -> dict[str, str]:
    def ask(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if not Path(".git").exists():  # a downloaded archive, perhaps inside a repository of something else
        return {}
    try:
        revision = ask("rev-parse", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "git_revision": revision or "",
        "git_dirty": "" if changed is None else str(bool(changed)).lower(),
    }


def name_pipeline(engine: str) -> None:
    """Let all stages that this process starts, on any node, know which pipeline execution they belong to."""
    os.environ["SSIMBAD_PIPELINE"] = f"{engine}-{int(psutil.Process().create_time())}-{os.getpid()}"


def _engine() -> tuple[str, str]:
    """Snakemake says its run in the environment; DVC is found among the parents; else a person at a shell."""
    if run := os.environ.get("SSIMBAD_PIPELINE"):
        return "snakemake", run
    try:
        for parent in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in parent.cmdline()[:3]):
                return "dvc", f"dvc-{int(parent.create_time())}-{parent.pid}"
    except psutil.Error:
        pass
    return "shell", f"shell-{int(psutil.Process().create_time())}-{os.getpid()}"


class DamagedError(UserError):
    """A spool that no import can take; the message names the line and what is wrong with it."""


Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Moment = Annotated[int, Field(ge=0, lt=2**63)]


def _allowed(tags: dict[str, str]) -> dict[str, str]:
    if taken := _KEPT & tags.keys():
        raise ValueError(f"{min(taken)} is the logbook's own tag")
    return tags


def _tagged(tags: dict[str, str]) -> dict[str, str]:
    if not re.fullmatch(r"\w+-\d{1,12}-\d{1,9}", tags.get("pipeline_id", "")):
        raise ValueError("pipeline_id is missing or odd")
    return _allowed(tags)


def _short(name: str) -> str:
    if len(name.encode()) > _NAME:
        raise ValueError(f"{name[:20]}… is longer than the name of a file may be")
    return name


def _result(path: str) -> str:
    # Whoever can write a file under work/spool must not bring any other file of this machine into the logbook.
    place = os.path.relpath(path)
    top, *parts = Path(place).parts or ("",)  # of the checkout itself there are none
    if "\0" in path or (top not in ("reports", "models") and not _PICTURE.fullmatch(place)):
        raise ValueError(f"{path[:_NAME]} is no result of this repository")
    if len(parts) > _DEEPEST:
        raise ValueError(f"{path[:_NAME]} lies in too many folders")
    for part in parts:
        _short(part)
    return place


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")  # a newer version may say more


class _Where(_Form):
    host: str
    pid: Annotated[int, Field(ge=0, lt=2**31)]
    started: float


class _Start(_Form):
    event: Literal["start"]
    time: Moment
    name: str
    tags: Annotated[dict[str, str], AfterValidator(_tagged)]
    params: dict[str, Any]
    inputs: dict[str, str]
    where: _Where


class _Metrics(_Form):
    event: Literal["metrics"]
    time: Moment
    step: Integer
    values: dict[str, float]


class _Tags(_Form):
    event: Literal["tags"]
    time: Moment
    values: Annotated[dict[str, str], AfterValidator(_allowed)]


class _Artifact(_Form):
    event: Literal["artifact"]
    time: Moment
    path: Annotated[str, AfterValidator(_result)]
    folder: Annotated[str, Field(pattern=r"^\w[\w.-]*$"), AfterValidator(_short)]


class _End(_Form):
    event: Literal["end"]
    time: Moment
    status: Literal["FINISHED", "FAILED", "KILLED"]


_FORMS = {"start": _Start, "metrics": _Metrics, "tags": _Tags, "artifact": _Artifact, "end": _End}


def read(path: Path) -> list[Event]:
    """The events of a spool so far; none while its writer is at the first line.

    A line cut short by a kill or a full disk is left out, and so is a kind of event that this version does not know.

    Raises:
        DamagedError: it is no file, it does not begin with a start, or an event lacks something or has it wrong.
    """
    if not (path.is_file() and re.fullmatch(r"[\w.-]+", path.name)):
        raise DamagedError(f"{path}: no file, or none that a stage would have named so")
    events, begun = [], time.time() - path.stat().st_mtime > _AT_BIRTH
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
            if len(line) == _LONGEST:
                raise DamagedError(f"{path}: line {number} is longer than {_LONGEST >> 20} MiB")
            begun |= line.endswith(b"\n")
            events += _event(line, f"{path}: line {number}")
    if begun and not (events and events[0]["event"] == "start"):
        raise DamagedError(f"{path}: it does not begin with a start")
    return events


def _event(line: bytes, place: str) -> list[Event]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return []
    form = _FORMS.get(str(said.get("event"))) if isinstance(said, dict) else None
    if not form:
        return []
    try:
        json.dumps(said, ensure_ascii=False).encode()
        return [form.model_validate(said).model_dump()]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedError(f"{place}: {said['event']}: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:  # half of a surrogate pair: JSON can spell it, no database takes it
        raise DamagedError(f"{place}: {said['event']}: {error}") from None


def alive(where: dict[str, Any]) -> bool | None:
    """Whether the process that writes a spool still runs; None when it is on another host and cannot be asked."""
    if where["host"] != socket.gethostname():
        return None
    try:
        return abs(psutil.Process(where["pid"]).create_time() - where["started"]) < 1
    except psutil.Error:
        return False


def pipeline_alive(pipeline: str) -> bool:
    """Whether the process behind a pipeline id (`engine-<start>-<pid>`) still runs on this host."""
    _, started, pid = pipeline.rsplit("-", 2)
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(started)) < 2
    except (psutil.Error, ValueError):
        return False
