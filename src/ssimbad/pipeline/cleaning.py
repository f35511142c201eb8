"""`ssimbad clean`: remove what the stages made, and nothing else.

What they made is known by name, never by folder: from the records, as long as a file has the digest in its record; from
the stage table, where a stage was stopped before its record; and from the forms of the names under work/. Everything
else in the same folders is somebody's own. Folders go when they have become empty, links to folders never.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ssimbad.errors import ParameterError, UserError
from ssimbad.job import COST
from ssimbad.params import Params
from ssimbad.pipeline import lock, records, snakefile
from ssimbad.pipeline.runner import WORK
from ssimbad.pipeline.table import COMMAND, STAGES, Instance, instances
from ssimbad.tracking import spool

RECORDS, LOGS = Path("records"), Path("logs")
_COST_TABLES = [Path(f"reports/tables/cost.{ending}") for ending in ("csv", "md", "tex")]
_HEX = "[0-9a-f]{12}"
_SLURM_LOG = re.compile(r"slurm/(rule|group)_[^/]+/([^/]+/)?\d+(_\d+)?\.log")
_SPOOL = re.compile(rf".+-{_HEX}\.jsonl")
# Below work/<instance>/: the lock, and in a folder per fingerprint the states of a training and the kept result.
_SCRATCH = rf"lock\.(json|guard)|{_HEX}/(state-\d+\.safetensors|kept/(\w+|(complete|libraries|INSTANCE)\.json))"
_SHOWN = 8  # of what is left, by name

Found = tuple[set[Path], dict[Path, str]]
"""Files that the stages made; and of others, which one might take for theirs, why they stay."""


def run(what: str, params: Params) -> None:
    """Clean `results` (outputs, records, markers, logs) or `work` (states, kept results); say in one line what stays.

    Raises:
        ParameterError: `what` is neither.
        UserError: a stage or a Snakemake run is under way; nothing is removed.
    """
    find = {"results": _results, "work": _work}.get(what)
    if find is None:
        raise ParameterError(f"clean {what}: expected results or work")
    if busy := lock.living(WORK):
        raise UserError(f"nothing removed: {busy[0]}")
    if not snakefile.alone():
        raise UserError("nothing removed: a Snakemake run is under way here; wait until it has ended")
    table = instances(params)
    ours, remarks = find(params, table)
    ours = {f for f in ours if f.is_symlink() or f.is_file()}
    size = _remove(ours)
    _remove(f for f in (snakefile.READING, snakefile.EXECUTING) if f.exists())  # of which this process has made one
    usual = {parent for f in [*ours, *map(Path, _outputs(table))] for parent in f.parents}
    tops = {"work"} if what == "work" else {f.split("/")[0] for f in _outputs(table)} | {"records", "logs", ".state"}
    left = [line for top in sorted(tops) for line in _strangers(Path(top), usual, remarks)]
    shown = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if left[_SHOWN:] else "")
    print(
        f"clean {what}: {len(ours):,} files removed ({size / 1e6:,.1f} MB)"
        + (f"; left, since no stage made it: {shown}" if left else "")
    )


def _results(params: Params, table: list[Instance]) -> Found:
    made = _records()
    ours, remarks = _made(params, table, made)
    for name in _names(table, made):
        ours |= {records.STATE / f"{name}.ok", *_log(name)}
    ours |= {RECORDS / f"{name}.json" for name in made}
    ours |= {p for p in LOGS.rglob("*.log") if _SLURM_LOG.fullmatch(p.relative_to(LOGS).as_posix())}
    ours |= {*_COST_TABLES, records.STATE / "md5.json"}
    return ours | _unfinished(ours | {Path(f) for f in _outputs(table)}), remarks


def _work(params: Params, table: list[Instance]) -> Found:
    ours = {WORK / "import.lock", WORK / "mlflow.lock"}
    for folder in (p.parent for p in WORK.glob("*/lock.guard")):
        form = re.compile(_SCRATCH.replace("INSTANCE", re.escape(folder.name)))
        inside = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
        ours |= {p for p in inside if form.fullmatch(_meant(p).relative_to(folder).as_posix())}
    costs = {COST / f"{name}.json" for name in _names(table, _records())}
    ours |= costs | _unfinished(costs)
    ours |= {p for p in (spool.ROOT / "imported").glob("*.jsonl") if _SPOOL.fullmatch(p.name)}
    waiting = dict.fromkeys(spool.ROOT.glob("*.jsonl"), "not yet in the logbook: `ssimbad sync`")
    return ours, waiting


def _outputs(table: list[Instance]) -> list[str]:
    return [f for instance in table for f in instance.outputs.values()]


def _names(table: list[Instance], made: dict[str, Any]) -> set[str]:
    """Instances of these parameters, of those that have left a record, and of those that have ever run here."""
    return {i.name for i in table} | made.keys() | {p.parent.name for p in WORK.glob("*/lock.guard")}


def _records() -> dict[str, dict[str, Any]]:
    """The records by instance. A file in the same folder that is not the record of its own name is none."""
    found = {}
    for path in RECORDS.glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            outputs, name = record["outputs"].items(), _name(record["command"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if name == path.stem and all(_inside(file) for file, _ in outputs):
            found[name] = record
    return found


def _name(command: str) -> str:
    """`ssimbad stage pretrain method=edm seed=0` → `pretrain-edm-seed-0`."""
    stage, *words = command.removeprefix(COMMAND).split()
    pairs = [word.partition("=")[::2] for word in words]
    return "-".join([stage, *(f"seed-{value}" if key == "seed" else value for key, value in pairs)])


def _inside(file: str) -> bool:
    return not (PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts)


def _log(name: str) -> list[Path]:
    """Where the rules of the instance's stage write their log."""
    for stage in [s.name for s in STAGES]:
        if name == stage:
            return [LOGS / f"{stage}.log"]
        if name.startswith(f"{stage}-"):
            return [LOGS / stage / f"{name.removeprefix(f'{stage}-')}.log"]
    return []


def _made(params: Params, table: list[Instance], made: dict[str, dict[str, Any]]) -> Found:
    """Outputs that are as a stage left them."""
    ours: set[Path] = set()
    remarks: dict[Path, str] = {}
    brought = _brought(params, table)
    recorded = {(file, md5) for record in made.values() for file, md5 in record["outputs"].items()}
    named = {file for file, _ in recorded}
    unfinished = {f for i in table if (WORK / i.name / "lock.guard").exists() for f in i.outputs.values()} - named
    with records.hashes() as hashed:
        for file in sorted(named.union(_outputs(table))):
            path = Path(file)
            if not path.is_file():
                continue
            if not brought.isdisjoint([_place(path), *_place(path).parents]):
                remarks[path] = "your data"
            elif file in unfinished or (file, hashed.md5(file)) in recorded:
                ours.add(path)
            else:
                remarks[path] = "changed since" if file in named else "without a record"
    return ours, remarks


def _unfinished(files: set[Path]) -> set[Path]:
    """What a killed process has left beside the files that it was writing."""
    beside = (t for folder in {f.parent for f in files} for t in folder.glob(".*.tmp"))
    return {t for t in beside if _meant(t) != t and _meant(t) in files}


def _meant(path: Path) -> Path:
    """What a file would have become, were it finished (`artifacts.replacing`)."""
    unfinished = re.fullmatch(rf"\.(.+)\.{_HEX}\.tmp", path.name)
    return path.with_name(unfinished[1]) if unfinished else path


def _brought(params: Params, table: list[Instance]) -> set[Path]:
    """What the parameters name and no stage makes: raw faces, a test list, weights of one's own."""
    files = {f for i in table for f in i.files} - set(_outputs(table))
    sources = (params.weights.inception, params.weights.alexnet, params.weights.vgg19)
    files |= {str(w.path) for w in sources if w and w.path}
    return {p for f in files for p in (_place(Path(f)), Path(f).resolve())}


def _place(path: Path) -> Path:
    """Where a name stands, through links of folders but not through a link that it is itself."""
    return path.parent.resolve() / path.name


def _remove(files: Iterable[Path]) -> int:
    """Remove the files and the folders that this empties; returns bytes."""
    files = list(files)
    size = sum(file.lstat().st_size for file in files)
    for file in files:
        file.unlink()
    folders = {parent for file in files for parent in file.parents} - {Path()}
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        with suppress(OSError):  # it holds something else, or is a link
            folder.rmdir()
    return size


def _strangers(folder: Path, usual: set[Path], remarks: dict[Path, str]) -> Iterator[str]:
    """Everything below `folder`, a folder that stages do not use as one entry."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry in usual and entry.is_dir():
            yield from _strangers(entry, usual, remarks)
        elif entry.is_dir() and not entry.is_symlink():
            yield f"{entry}/ ({sum(len(names) for _, _, names in os.walk(entry)):,} files)"
        else:
            yield f"{entry} ({remarks[entry]})" if entry in remarks else str(entry)
