"""Whether the versions of the expensive stages still stand for the code that runs.

Those stages do not depend on their code but on a number (workflow/versions.yaml), which is raised by hand. So that this
is not forgotten, workflow/closures.json holds what the code was when the numbers were last confirmed, and a test
compares: a digest of every file in the closure of such a stage, and the defaults of the parameters. Comments,
docstrings and descriptions do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, records
from ssimbad.pipeline.table import STAGES

CONFIRMED = Path("workflow/closures.json")
REMEDY = (
    f"raise the versions of these stages in {records.VERSIONS}, or make sure that their results are unchanged; then "
    "confirm it: `ssimbad versions --confirm`"
)


def doubts() -> list[str]:
    """What has changed since the versions were confirmed, a line each; empty: nothing.

    Raises:
        UserError: the package that runs is not this checkout's, or a file in workflow/ is missing or damaged.
    """
    code.require_own()
    old, new, users = _confirmed(), _now(), _users()

    def changed(part: str) -> list[tuple[str, str]]:
        keys = sorted(old[part].keys() | new[part].keys())
        values = {key: (old[part].get(key, "none"), new[part].get(key, "none")) for key in keys}
        return [(key, f"{was} -> {now}") for key, (was, now) in values.items() if was != now]

    return [
        *(f"{file} (run by {', '.join(users.get(file, ['none any more']))})" for file, _ in changed("files")),
        *(f"default of {key}: {change}" for key, change in changed("defaults")),
        *(f"version of {stage}: {change}" for stage, change in changed("versions")),
    ]


def confirm() -> Path:
    """Write down the code and the versions as they are now."""
    code.require_own()
    artifacts.write_json(CONFIRMED, _now())
    return CONFIRMED


def _confirmed() -> dict[str, dict[str, object]]:
    try:
        read = artifacts.parsed_json(CONFIRMED)
        return {part: dict(read[part]) for part in ("files", "defaults", "versions")}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{CONFIRMED}: missing or damaged; restore the file from git") from None


def _now() -> dict[str, dict[str, object]]:
    spelled = {file: normal(Path(file).read_text(encoding="utf-8")) for file in _users()}
    return {
        "files": {file: hashlib.md5(text.encode()).hexdigest()[:12] for file, text in spelled.items()},
        "defaults": dict(_defaults()),
        "versions": {stage.name: records.version(stage) for stage in STAGES if records.has_version(stage)},
    }


def _users() -> dict[str, list[str]]:
    """{source file: expensive stages that run it}."""
    users: dict[str, list[str]] = {}
    for stage in STAGES:
        for file in code.closure(stage.run) if stage.expensive else ():
            users.setdefault(file, []).append(stage.name)
    return users


def normal(source: str) -> str:
    """What a module does, spelled in one way: no comments, docstrings, layout, or descriptions of parameters.

    Fields without a value are left out, since every version of Python adds some.
    """
    return _spelled(_Bare().visit(ast.parse(source)))


class _Bare(ast.NodeTransformer):
    """Takes out what a program says of itself."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [k for k in node.keywords if k.arg != "description"]
        return self.generic_visit(node)


def _spelled(node: object) -> str:
    if isinstance(node, list):
        return f"[{', '.join(map(_spelled, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind"}
    return f"{type(node).__name__}({', '.join(f'{name}={_spelled(value)}' for name, value in fields.items())})"


def _defaults() -> Iterator[tuple[str, object]]:
    """(`edm.Config.rho`, 7.0) for every parameter that can be left out: what is left out is in no record."""
    yield from _of_model("params", Params)
    for kind in registry.kinds():
        method = registry.get(kind)
        for model in (method.Config, method.ColourOptions, *method.objectives.values()):
            yield from _of_model(kind, model)


def _of_model(place: str, model: type[BaseModel]) -> Iterator[tuple[str, object]]:
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for key, field in part.get("properties", {}).items():
            if "default" in field:
                yield f"{place}.{name}.{key}", field["default"]
