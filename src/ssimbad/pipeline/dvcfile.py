"""dvc.yaml, generated from the stage table: one literal DVC stage per instance.

DVC's own templating (matrix, foreach) cannot express inputs that depend on parameters, so nothing is templated. Linked
folders inside an input are listed beside it, since DVC does not enter them.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import BaseModel

from ssimbad import artifacts, files, strict_yaml
from ssimbad.errors import ParameterError, UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, edits, records
from ssimbad.pipeline.table import Instance, instances

FILE = Path("dvc.yaml")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time
_HEADER = "# Generated from src/ssimbad/pipeline/table.py by `ssimbad dvc-yaml`. Do not edit.\n"


def text(params: Params) -> str:
    """The whole file for these parameters."""
    return _signed(yaml.safe_dump(_content(params), sort_keys=False, width=200))


def _content(params: Params) -> dict[str, object]:
    found = instances(params)
    return {
        "stages": {i.name: _stage(i, params) for i in found},
        "metrics": [i.outputs["summary"] for i in found if "summary" in i.outputs],
        "plots": _plots(found),
    }


def write(params: Params) -> Path:
    """Bring the file in line; what was changed in it by hand is kept as a copy.

    Raises:
        UserError: the package that runs is not this checkout's.
    """
    code.require_own()
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


def outdated(params: Params) -> str | None:
    """What to do where DVC is in use with a dvc.yaml that says other things than the stage table; None: nothing."""
    if not Path(".dvc").is_dir():
        return None
    there = None
    with suppress(FileNotFoundError, ParameterError):
        there = _read()
    if there == _content(params):
        return None
    return f"{FILE} does not say what the stage table does with these parameters; run `ssimbad dvc-yaml`"


def _read() -> object:
    """What the file says. Raises FileNotFoundError, or ParameterError where it cannot be read."""
    there = strict_yaml.read(FILE)
    # The quick loader is for what was generated: lists in lists in lists of somebody else's would crash it.
    return yaml.load(there, _LOADER) if there == _signed(_body(there)) else strict_yaml.parse(there, str(FILE))


def require_current(params: Params) -> None:
    """Raises UserError when dvc.yaml is outdated: DVC would note dependencies that are not the stage's."""
    if reason := outdated(params):
        raise UserError(f"{reason} and then this command again")


def _stage(instance: Instance, params: Params) -> dict[str, object]:
    body: dict[str, object] = {"cmd": instance.command}
    linked = [str(folder) for file in instance.files for folder in files.linked(Path(file))]
    deps = sorted({*instance.files, *linked, *records.sources(instance)})
    if deps:
        body["deps"] = deps
    body["params"] = _params(instance, params)
    body["outs"] = [_out(path, instance) for path in [*instance.outputs.values(), instance.record]]
    return body


def _params(instance: Instance, params: Params) -> list[object]:
    keys: list[object] = [*sorted({_given(params, key) for key in instance.params})]
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


def _out(path: str, instance: Instance) -> object:
    # Persisted outputs are not deleted before the command runs, so a command that finds them fresh can leave at once.
    return {path: {"persist": True}} if instance.stage.expensive else path


def _plots(found: list[Instance]) -> list[object]:
    curves = {i.outputs["curve"]: "value" for i in found if "curve" in i.outputs}
    images = sorted(p for i in found for p in i.outputs.values() if p.endswith(".png"))
    return [{"training curves": {"x": "images", "y": curves}}, *images]
