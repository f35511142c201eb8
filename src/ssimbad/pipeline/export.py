"""`ssimbad export-run`: one zip with what a row is, how it was made and what it scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths, records, rows
from ssimbad.pipeline.table import Instance, instances
from ssimbad.tracking import spool

_ENDS = ("colorize", "evaluate")


def run(params: Params, row: str, out: Path, weights: bool = False) -> str:
    """Write the zip: `run.json` (row, preset, revision of the code), params.yaml, the records of every stage that the
    row comes from, how its weights were made and their curves, its numbers and pictures, and the weights if asked.

    Returns:
        what was written and where, in one line.

    Raises:
        ParameterError: no such row, or `out` is there already.
        UserError: a stage behind the row is not fresh, so that the parts would not belong together.
    """
    mine = rows.named(params, row)
    method, stage = mine[0]["method"], mine[0]["stage"]
    if out.exists():
        raise ParameterError(f"--out {out}: there already, and nothing is replaced; name another file")
    table = {i.name: i for i in instances(params)}
    ends = [i for i in table.values() if i.stage.name in _ENDS and _of(i, method, stage)]
    behind = _behind(ends, table)
    found = records.survey(params)
    if late := next((f"{i.name}: {found[i.name]}" for i in behind if found[i.name]), None):
        raise UserError(f"{row}: not fresh, {late}; run the pipeline first")
    owners = {paths.weights(params, w): paths.weights(params, w, "json") for w in mine}
    files = [i.record for i in behind]
    files += [file for i in ends for file in i.outputs.values()]
    files += [*owners.values(), *(made.replace(".json", ".csv") for made in owners.values())]
    files += list(owners) if weights else []
    about = {"row": row, "preset": params.preset, "weights": list(owners), **spool.origin()}
    artifacts.write_zip(out, _members(about, files))
    return f"{row}: {len(files)} files, {out.stat().st_size / 1e6:.1f} MB -> {out}"


def _of(instance: Instance, method: str, stage: str) -> bool:
    w = instance.wildcards
    return (w.get("method"), w.get("stage")) == (method, stage)


def _behind(ends: list[Instance], table: dict[str, Instance]) -> list[Instance]:
    """The instances and all that they are made from, in the table's order."""
    names, waiting = set(), [i.name for i in ends]
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            waiting += table[name].upstream
    return [i for name, i in table.items() if name in names]


def _members(about: Mapping[str, object], files: list[str]) -> Iterator[tuple[str, bytes]]:
    yield "run.json", (json.dumps(about, indent=2) + "\n").encode()
    yield "params.yaml", Path("params.yaml").read_bytes()
    for file in files:
        yield file, Path(file).read_bytes()
