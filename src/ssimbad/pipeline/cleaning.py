"""`ssimbad clean`: remove what the stages made, and nothing else.

What they made is known by name and digest, never by folder: from the records and, of a stage that was stopped before
its record, from what it noted as it wrote (written.py). Under work/ the forms of the names tell. Everything else in the
same folders is somebody's own, also at the place of an output. Folders go when they have become empty, links to folders
never.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ssimbad import artifacts
from ssimbad.errors import ParameterError, shown
from ssimbad.files import exists
from ssimbad.params.blocks import WeightFile
from ssimbad.params.tree import Params
from ssimbad.pipeline import records, snakefile, written
from ssimbad.pipeline.runner import WORK
from ssimbad.pipeline.table import COMMAND, STAGES, Instance, instances
from ssimbad.runtime.job import COST
from ssimbad.tracking import spool

RECORDS, LOGS = Path("records"), Path("logs")
_HEX = "[0-9a-f]{12}"
_SLURM_LOG = re.compile(r"slurm/(rule|group)_[^/]+/([^/]+/)?\d+(_\d+)?\.log")
_SPOOL = re.compile(rf".+-{_HEX}(\.\d+)?\.jsonl")
# What a training or a colouring leaves to go on from, further good weights, pictures for the logbook.
_TRAINED = r"state-\d+\.(safetensors|zip)|best/\d{12}-[-\w.]+\.safetensors|pictures/\w+-\d{12}\.png"
# Below work/<instance>/: the lock, and in a folder per fingerprint what a training leaves and the kept result.
_SCRATCH = rf"lock\.(json|guard)|{_HEX}/({_TRAINED}|kept/(\w+|(complete|libraries|INSTANCE)\.json))"
_VERIFY, _VERIFIED = re.compile(rf"verify-.+-{_HEX}"), re.compile(rf"scratch/({_TRAINED})|cost/[^/]+\.json")
_SHOWN = 8  # of what is left, by name
_README = {Path("data/README.md"), Path("reports/README.md")}  # of this repository: they stay, and need no word

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
    snakefile.require_idle("nothing removed")
    table = instances(params)
    ours, remarks = find(params, table)
    ours = {f for f in ours if f.is_symlink() or f.is_file()}
    size = remove(ours)
    remove(f for f in (snakefile.READING, snakefile.EXECUTING) if f.exists())  # of which this process has made one
    usual = {parent for f in [*ours, *map(Path, _outputs(table))] for parent in f.parents}
    tops = {"work"} if what == "work" else {f.split("/")[0] for f in _outputs(table)} | {"records", "logs", ".state"}
    left = [line for top in sorted(tops) for line in _strangers(Path(top), usual, remarks)]
    listed = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if left[_SHOWN:] else "")
    print(
        f"clean {what}: {len(ours):,} files removed ({size / 1e6:,.1f} MB)"
        + (f"; left, as yours or still needed: {listed}" if left else "")
    )


def _results(params: Params, table: list[Instance]) -> Found:
    made, noted = _records(), _notes()
    possible = [*_outputs(table), *written.SUMMARY]
    ours, remarks = _made(_brought(params, table), possible, [*(r["outputs"] for r in made.values()), *noted.values()])
    ours |= _told(_names(table, made)) | {RECORDS / f"{name}.json" for name in made} | slurm_logs() | noted.keys()
    return ours | _unfinished_results(table, made, noted), remarks


def _told(names: set[str]) -> set[Path]:
    """Where markers, notes, logs and the memory of digests stand, whether or not they are there."""
    markers = {file for name in names for file in (records.STATE / f"{name}.ok", written.NOTES / f"{name}.json")}
    return {*markers, *(file for name in names for file in _log(name)), records.MEMO}


def _unfinished_results(table: list[Instance], made: Mapping[str, records.Record], noted: Mapping) -> set[Path]:
    """What a killed process was writing of outputs, records and their like."""
    names = _names(table, made)
    told = [*(record["outputs"] for record in made.values()), *noted.values(), _outputs(table), written.SUMMARY]
    outputs = {Path(file) for files in told for file in files}
    return _unfinished(outputs | {RECORDS / f"{name}.json" for name in names} | _told(names) | noted.keys())


def _work(params: Params, table: list[Instance]) -> Found:
    ours = {WORK / "import.lock", WORK / "mlflow.lock"}
    for folder in (p.parent for p in WORK.glob("*/lock.guard")):
        ours |= _scratch(folder)
    made = _records()
    costs = {COST / f"{name}.json" for name in _names(table, made)}
    ours |= costs | _unfinished(costs) | _again({*_outputs(table), *(f for r in made.values() for f in r["outputs"])})
    ours |= imported_spools()
    waiting = dict.fromkeys(spool.ROOT.glob("*.jsonl"), "not yet in the logbook: `ssimbad sync`")
    return ours, waiting


def slurm_logs() -> set[Path]:
    """What the executor's jobs have said."""
    found = {p for p in LOGS.rglob("*.log") if _SLURM_LOG.fullmatch(p.relative_to(LOGS).as_posix())}
    return {p for p in found if p.is_file()}


def imported_spools() -> set[Path]:
    """What stages have reported and an import has put aside, also beside another of the same name."""
    return {p for p in (spool.ROOT / "imported").glob("*.jsonl") if _SPOOL.fullmatch(p.name) and p.is_file()}


def scratches() -> dict[str, list[Path]]:
    """By instance that has ever run here its folders work/<instance>/<fingerprint>."""
    places = [p.parent for p in WORK.glob("*/lock.guard")]
    return {place.name: [f for f in place.iterdir() if re.fullmatch(_HEX, f.name) and f.is_dir()] for place in places}


def unfinished(params: Params) -> set[Path]:
    """What processes are writing, or have left when they were killed: outputs, records and their like, states and kept
    results."""
    table = instances(params)
    found = _unfinished_results(table, _records(), _notes()) | _work(params, table)[0]
    return {path for path in found if _meant(path) != path and path.is_file()}


def scratch_files(folder: Path) -> set[Path]:
    """Of such a folder what has the form of what stages write there."""
    return {path for path in _scratch(folder.parent) if folder in path.parents}


def _scratch(place: Path) -> set[Path]:
    form = re.compile(_SCRATCH.replace("INSTANCE", re.escape(place.name)))
    return {path for path, name in _below(place) if form.fullmatch(name)}


def _again(outputs: set[str]) -> set[Path]:
    """What a killed `ssimbad verify` has left: these outputs in a folder of its own, states and costs."""
    folders = [p for p in WORK.glob("verify-*") if _VERIFY.fullmatch(p.name)]
    found = [(path, name) for folder in folders for path, name in _below(folder)]
    return {path for path, name in found if name in outputs or _VERIFIED.fullmatch(name)}


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file in a folder, with its name from there; of what is not finished, the name that it was to have."""
    for at, _, names in os.walk(folder):
        for path in (Path(at) / name for name in names):
            yield path, _meant(path).relative_to(folder).as_posix()


def _outputs(table: list[Instance]) -> list[str]:
    return [f for instance in table for f in instance.outputs.values()]


def _names(table: list[Instance], made: Mapping[str, records.Record]) -> set[str]:
    """Instances of these parameters, of those that have left a record, and of those that have ever run here."""
    return {i.name for i in table} | made.keys() | {p.parent.name for p in WORK.glob("*/lock.guard")}


def _records() -> dict[str, records.Record]:
    """The records by instance. A file in the same folder that is not the record of its own name is none."""
    found = {}
    for path in RECORDS.glob("*.json"):
        try:
            record = artifacts.parsed_json(path)
            outputs, name = record["outputs"], _name(record["command"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if name == path.stem and _are_outputs(outputs):
            found[name] = record
    return found


def _notes() -> dict[Path, dict[str, str]]:
    """What the stages have noted as they wrote, by file."""
    found = {path: written.read(path) for path in written.NOTES.glob("*.json")}
    return {path: outputs for path, outputs in found.items() if outputs and _are_outputs(outputs)}


def _name(command: str) -> str:
    """`ssimbad stage pretrain method=edm seed=0` → `pretrain-edm-seed-0`."""
    stage, *words = command.removeprefix(COMMAND).split()
    pairs = [word.partition("=")[::2] for word in words]
    return "-".join([stage, *(f"seed-{value}" if key == "seed" else value for key, value in pairs)])


def _are_outputs(value: object) -> bool:
    """Whether it is {file: md5} of files in this checkout."""
    return isinstance(value, dict) and all(_inside(file) and isinstance(md5, str) for file, md5 in value.items())


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


def _made(brought: set[Path], possible: list[str], told: list[dict[str, str]]) -> Found:
    """Of the outputs that are possible, or that records and notes tell of: those that are as they were written."""
    ours: set[Path] = set()
    remarks: dict[Path, str] = {}
    known = {(file, md5) for outputs in told for file, md5 in outputs.items()}
    named = {file for file, _ in known}
    with records.hashes() as hashed:
        for file in sorted(named.union(possible)):
            path = Path(file)
            if not (exists(file) and path.is_file()):
                continue
            if not brought.isdisjoint([_place(path), *_place(path).parents]):
                remarks[path] = "your data"
            elif (file, hashed.md5(file)) in known:
                ours.add(path)
            else:
                remarks[path] = "changed since" if file in named else "without a record"
    return ours, remarks


def _unfinished(files: set[Path]) -> set[Path]:
    """What a killed process has left beside the files that it was writing."""
    beside = (t for folder in {f.parent for f in files} if exists(str(folder)) for t in folder.glob(".*.tmp"))
    return {t for t in beside if _meant(t) != t and _meant(t) in files}


def _meant(path: Path) -> Path:
    """What a file would have become, were it finished (`artifacts.replacing`)."""
    unfinished = re.fullmatch(rf"\.(.+)\.{_HEX}\.tmp", path.name)
    return path.with_name(unfinished[1]) if unfinished else path


def _brought(params: Params, table: list[Instance]) -> set[Path]:
    """What the parameters name and no stage makes: raw faces, a test list, weights of one's own."""
    files = {f for i in table for f in i.files} - set(_outputs(table))
    files |= {entry.path for _, entry in params.weights if isinstance(entry, WeightFile) and entry.path}
    return {p for f in files for p in (_place(Path(f)), Path(f).resolve())}


def _place(path: Path) -> Path:
    """Where a name stands, through links of folders but not through a link that it is itself."""
    return path.parent.resolve() / path.name


def looks(files: Iterable[Path]) -> dict[Path, os.stat_result]:
    """What is there of the files; of links the links. A stage that has just begun may have finished what it wrote."""
    found = {}
    for file in files:
        with suppress(FileNotFoundError):
            found[file] = file.lstat()
    return found


def remove(files: Iterable[Path]) -> int:
    """Remove the files and the folders that this empties, and those of a stage that has left none; returns bytes."""
    files = list(files)
    size = sum(info.st_size for info in looks(files).values())
    for file in files:
        file.unlink(missing_ok=True)
    folders = {parent for file in files for parent in file.parents} - {Path()}
    folders |= {Path(at) for file in files if file.name == "lock.guard" for at, _, _ in os.walk(file.parent)}
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        with suppress(OSError):  # it holds something else, or is a link
            folder.rmdir()
    return size


def _strangers(folder: Path, usual: set[Path], remarks: dict[Path, str]) -> Iterator[str]:
    """Everything below `folder`, a folder that stages do not use as one entry."""
    if not folder.is_dir():
        return
    for entry in sorted(set(folder.iterdir()) - _README):
        if entry in usual and entry.is_dir():
            yield from _strangers(entry, usual, remarks)
        elif entry.is_dir() and not entry.is_symlink():
            yield f"{shown(entry)}/ ({sum(len(names) for _, _, names in os.walk(entry)):,} files)"
        else:
            yield f"{shown(entry)} ({remarks[entry]})" if entry in remarks else shown(entry)
