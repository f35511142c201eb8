"""docs/parameters.md: every key with its type, limits and meaning, from the models that validate it."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tabulate import tabulate

from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.params.base import SLOTS
from ssimbad.params.methods import Method
from ssimbad.params.tree import Params

_HEAD = """# Parameters

Every key of `params.yaml`. Made by `ssimbad parameters`; a test holds it equal to what is validated. The files in
`presets/` give each key a value; `-` is an entry of a list, `<method>` a name of your own.
"""


def page() -> str:
    """The page as Markdown."""
    kinds = {name: sources.get(name).Config for name in sources.names()}
    shown: set[type[BaseModel]] = set(kinds.values())
    sections = list(_sections("", Params, shown))
    for name, config in kinds.items():
        shown.remove(config)
        sections += _sections(f"data.source (kind {name})", config, shown)
    for name in registry.kinds():
        method = registry.get(name)
        sections += _sections(f"methods.<method>.config (kind {name})", method.Config, shown)
        place = f"methods.<method>.colour.<stage>.options (kind {name})"
        sections += _sections(place, method.ColourOptions, shown)
        for objective, options in method.objectives.items():
            place = f"methods.<method>.<stage>.options (kind {name}, objective {objective})"
            sections += _sections(place, options, shown)
    return "\n".join([_HEAD, *sections])


def schema() -> str:
    """docs/params.schema.json: what editors check params.yaml and the presets by; a preset may leave out blocks."""
    tree = Params.model_json_schema()
    tree["properties"] |= {
        "extends": {"type": "string", "description": "preset that this one extends; not in params.yaml"}
    }
    tree.pop("required")
    for field in Params.model_fields.values():
        if (block := _model_in(field.annotation)) and block is not Method:
            tree["$defs"][block.__name__].pop("required", None)
    kinds = registry.kinds()
    tree["$defs"]["Method"]["additionalProperties"] = False
    usual = tree["$defs"]["Method"]["properties"]["pretrain"]
    tree["$defs"]["Method"]["properties"] |= {slot: usual for slot in registry.slots() if slot not in SLOTS}
    tree["$defs"]["Method"]["properties"]["kind"] |= {"enum": kinds}
    tree["$defs"]["Method"]["allOf"] = [
        {"if": {"properties": {"kind": {"const": kind}}}, "then": {"properties": _of_kind(kind, tree["$defs"])}}
        for kind in kinds
    ]
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _of_kind(kind: str, defs: dict[str, Any]) -> dict[str, Any]:
    """The schemas of the keys of a block that depend on its kind."""
    method = registry.get(kind)

    def of(model: type[BaseModel]) -> dict[str, Any]:
        found = model.model_json_schema(ref_template="#/$defs/{model}")
        defs.update(found.pop("$defs", {}))
        return found

    trainings = [
        {"if": {"properties": {"objective": {"const": name}}}, "then": {"properties": {"options": of(options)}}}
        for name, options in method.objectives.items()
    ]
    objective = {"properties": {"objective": {"enum": list(method.objectives)}}, "allOf": trainings}
    colour = {"properties": {"options": of(method.ColourOptions)}}
    return {
        "config": of(method.Config),
        **{slot: {"anyOf": [objective, {"type": "null"}]} for slot in dict.fromkeys([*SLOTS, *method.slots])},
        "colour": {"additionalProperties": colour},
    }


def _sections(place: str, model: type[BaseModel], shown: set[type[BaseModel]]) -> Iterator[str]:
    """One section for the keys of `model`, then one for each model below it; each model once."""
    if model in shown:
        return
    shown.add(model)
    below: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            below.append((_path(place, name, field.annotation), inner))
        if inner is None or field.description:
            rows.append((f"`{name}`", _type(field), _default(field), field.description or ""))
    if rows:
        title = f"## {place or 'At the top'}\n\n{(model.__doc__ or '').strip()}\n"
        table = tabulate(rows, ("key", "type", "if left out", "meaning"), tablefmt="github", disable_numparse=True)
        yield f"{title}\n{table}\n"
    for path, inner in below:
        yield from _sections(path, inner, shown)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in typing.get_args(annotation) if (m := _model_in(a)) is not None), None)


def _path(place: str, name: str, annotation: object) -> str:
    path = f"{place}.{name}" if place else name
    return path + {dict: ".<method>", list: ".-"}.get(typing.get_origin(annotation), "")


def _type(field: FieldInfo) -> str:
    limits = [f"{sign} {getattr(m, key)}" for m in field.metadata for key, sign in _SIGNS.items() if hasattr(m, key)]
    return ", ".join([_named(field.annotation), *limits]).replace("|", "\\|")


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥"}


def _named(annotation: object) -> str:
    if _model_in(annotation) is not None:
        return "keys" if typing.get_origin(annotation) is not list else "list of keys"
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin is typing.Annotated:
        return _named(inside[0])
    if origin in (list, dict):
        return f"{origin.__name__} of {_named(inside[-1])}"
    if inside:
        return " or ".join(_named(a) for a in inside)
    return {type(None): "null"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else f"{value}".lower() if isinstance(value, bool) else f"{value}"
