"""dvc.yaml, generated from the stage table: one literal DVC stage per instance.

DVC's own templating (matrix, foreach) cannot express inputs that depend on parameters, so nothing is templated.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ssimbad import artifacts
from ssimbad.params import Params
from ssimbad.pipeline import edits, records
from ssimbad.pipeline.table import Instance, instances

FILE = Path("dvc.yaml")
_HEADER = "# Generated from src/ssimbad/pipeline/table.py by `ssimbad dvc-yaml`. Do not edit.\n"


def text(params: Params) -> str:
    """The whole file for these parameters."""
    found = instances(params)
    content = {
        "stages": {i.name: _stage(i, params) for i in found},
        "metrics": [i.outputs["summary"] for i in found if "summary" in i.outputs],
        "plots": _plots(found),
    }
    return _signed(yaml.safe_dump(content, sort_keys=False, width=200))


def write(params: Params) -> Path:
    """Bring the file in line; what was changed in it by hand is kept as a copy."""
    new = text(params)
    old = FILE.read_text(encoding="utf-8", errors="replace") if FILE.exists() else None
    if old == new:
        return FILE
    if old is not None and old != _signed(_body(old)) and (copy := edits.keep(FILE)):
        print(f"{FILE} was changed by hand; it is kept as {copy}", flush=True)
    artifacts.write_text(FILE, new)
    return FILE


def _signed(body: str) -> str:
    """The file, with a digest by which a change by hand is known."""
    return f"{_HEADER}# md5 of the lines below: {hashlib.md5(body.encode()).hexdigest()}\n{body}"


def _body(file: str) -> str:
    return "".join(file.splitlines(keepends=True)[2:])


def _stage(instance: Instance, params: Params) -> dict[str, Any]:
    body: dict[str, Any] = {"cmd": instance.command}
    deps = sorted({*instance.files, *records.sources(instance)})
    if deps:
        body["deps"] = deps
    body["params"] = _params(instance, params)
    body["outs"] = [_out(path, instance) for path in [*instance.outputs.values(), instance.record]]
    return body


def _params(instance: Instance, params: Params) -> list[Any]:
    keys: list[Any] = sorted({_given(params, key) for key in instance.params})
    if instance.stage.expensive:
        keys.append({str(records.VERSIONS): [instance.stage.name]})
    return keys


def _given(params: Params, key: str) -> str:
    """The key; of one that is left to its default the part of the file that would hold it, for DVC."""
    node, path = params, []
    for part in key.split("."):
        if part not in (node.model_fields_set if isinstance(node, BaseModel) else node):
            break
        node = getattr(node, part) if isinstance(node, BaseModel) else node[part]
        path.append(part)
    return ".".join(path)


def _out(path: str, instance: Instance) -> Any:
    # Persisted outputs are not deleted before the command runs, so a command that finds them fresh can leave at once.
    return {path: {"persist": True}} if instance.stage.expensive else path


def _plots(found: list[Instance]) -> list[Any]:
    curves = {i.outputs["curve"]: "value" for i in found if "curve" in i.outputs}
    images = sorted(p for i in found for p in i.outputs.values() if p.endswith(".png"))
    return [{"training curves": {"x": "images", "y": curves}}, *images]
