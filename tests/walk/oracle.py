"""What the outputs must be: the stage functions, one after the other, in an empty folder, without any engine.

judge MEMO    prints, in a checkout, a line of JSON: `wrong`, per instance the outputs that are not what they must
              be; `possible`, whether no input is missing; `told`, whether dvc.yaml is that of the stage table
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ssimbad.params import tree as parameters
from ssimbad.params.tree import Params
from ssimbad.params.view import lookup
from ssimbad.pipeline import dvcfile, runner
from ssimbad.pipeline.table import Instance, instances


def main() -> None:
    made: dict[str, Path | None] = {}
    params, memo = parameters.load(), Path(sys.argv[1])
    wrong = {}
    for instance in instances(params):
        folder = _computed(params, instance, made, memo)
        for name, path in instance.outputs.items():
            made[path] = folder and folder / name
        wrong[instance.name] = [path for path in instance.outputs.values() if not _equal(Path(path), made[path])]
    told = dvcfile.outdated(params) is None
    print(json.dumps({"wrong": wrong, "possible": all(made.values()), "told": told}))


def _equal(path: Path, expected: Path | None) -> bool:
    return expected is not None and path.is_file() and path.read_bytes() == expected.read_bytes()


def _computed(params: Params, instance: Instance, made: dict[str, Path | None], memo: Path) -> Path | None:
    """A folder with the instance's outputs under their names; None when an input is missing.

    Remembered by the bytes of all that the stage function can see.
    """
    inputs = {}
    for name, files in instance.inputs.items():
        found = [made.get(f, Path(f).absolute()) for f in ([files] if isinstance(files, str) else files)]
        if any(f is None or not f.exists() for f in found):
            return None
        inputs[name] = str(found[0]) if isinstance(files, str) else [str(f) for f in found]
    values = {key: lookup(params, key) for key in instance.params}
    known = [instance.name, values, {name: _digest(files) for name, files in inputs.items()}, _sources()]
    folder = memo / hashlib.sha256(json.dumps(known).encode()).hexdigest()
    if not folder.exists():
        _compute(params, instance, inputs, folder)
    return folder


def _compute(params: Params, instance: Instance, inputs: dict, folder: Path) -> None:
    home = Path.cwd()
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as empty:
        os.chdir(empty)
        found = {name: Path(empty, "found", name) for name in instance.outputs}
        runner.call(params, replace(instance, inputs=inputs, outputs=found), runner.job_of(instance, Path("scratch")))
        os.replace("found", folder)
        os.chdir(home)


def _digest(files: str | list[str]) -> list[str]:
    """Names and bytes; of folders those of all files in them, also behind links."""
    found = []
    for place in map(Path, [files] if isinstance(files, str) else files):
        inside = [Path(d, n) for d, _, names in os.walk(place, followlinks=True) for n in names]
        found += [f"{f.name} {hashlib.sha256(f.read_bytes()).hexdigest()}" for f in sorted(inside) or [place]]
    return found


def _sources() -> str:
    """Of the toys: all code that runs. The real stages' does not change in a walk."""
    return "".join(f.read_text() for f in sorted(Path("src/ssimbad/toy").glob("*.py")))
