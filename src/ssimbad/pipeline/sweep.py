"""`ssimbad sweep`: a grid over values of one method's block as rows of one run, written as a preset."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ssimbad import artifacts, strict_yaml
from ssimbad.errors import ParameterError
from ssimbad.methods import registry
from ssimbad.params import tree as parameters
from ssimbad.pipeline.preset import FILE, FOLDER

Tree = dict[str, Any]
MOST = 200
_LABEL = 120  # as many characters as a label may have


def run(name: str, of: str, axes: Mapping[str, str], seeds: list[int] | None = None) -> str:
    """Write presets/sweep-`name`.yaml: the active parameters with one block of `methods` for each point of the grid.

    A point repeats no more of the block than its values concern: trainings before the first one that differs are those
    of the block itself, and where only `colour` differs nothing is trained.

    Args:
        of: the method whose block is varied.
        axes: {key below the block, such as `pretrain.learning_rate`: its values, YAML with commas between}.
        seeds: of all trainings; None: those that are active.

    Returns:
        what was written, and what to do with it.

    Raises:
        ParameterError: a name, key or value that cannot be, or a preset of that name that says something else.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ParameterError(f"{name}: no name of a sweep; write small letters, digits and hyphens")
    parameters.load()  # a sound one, or its error
    active = strict_yaml.parse(FILE.read_text(encoding="utf-8"), str(FILE))
    methods = active["methods"]
    if of not in methods:
        raise ParameterError(f"--of {of}: no method of {FILE}; there are {', '.join(methods)}")
    along = [_values(key, text) for key, text in axes.items()]
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*along)]
    if not axes or len(points) > MOST:
        raise ParameterError(f"a sweep has 1 to {MOST} points, this one {len(points) if axes else 0}")
    blocks = {f"{of}-{i:02d}": _point(methods[of], of, i, values) for i, values in enumerate(points, 1)}
    report = {**active["report"], "ladder": [], "chain_steps": [], "reverse": None, "modes": None}
    made = {
        **active,
        "preset": f"sweep-{name}",
        "methods": _with_sources(methods, of) | blocks,
        "report": report | {"sweep": list(blocks)},
    }
    if seeds:
        made["seeds"] = seeds
    target = FOLDER / f"sweep-{name}.yaml"
    varied = "; ".join(f"{key} {values}" for key, values in axes.items())
    text = f"# Sweep of {of}: {varied}.\n" + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120)
    parameters.parse(text, str(target))
    if target.exists() and target.read_text(encoding="utf-8") != text:
        raise ParameterError(f"{target}: there already, with something else in it; choose another name, or remove it")
    artifacts.write_text(target, text)
    count = f"{len(points)} rows × {len(made['seeds'])} seeds"
    return f"{count} -> {target}; `ssimbad preset sweep-{name}`, then `snakemake --cores all all`"


def _values(key: str, text: str) -> list[object]:
    found = strict_yaml.parse(f"[{text}]", key)
    if not found or "\n" in text:
        raise ParameterError(f"{key}={text}: expected values with commas between, such as {key}=1,2")
    return found


def _point(block: Tree, of: str, number: int, values: Mapping[str, object]) -> Tree:
    """The block with these values, under its own name."""
    name, changed = f"{of}-{number:02d}", copy.deepcopy(block)
    for key, value in values.items():
        _set(changed, of, key, value)
    label = f"{block['label']}, " + ", ".join(f"{key} {value}" for key, value in values.items())
    changed["label"] = label if len(label) <= _LABEL else f"{block['label'][: _LABEL - 6]} ({number:02d})"
    parts = {key.partition(".")[0] for key in values}
    slots = [slot for slot in registry.slots() if changed.get(slot)]
    if parts == {"colour"} and (slots or block.get("weights")):
        return _borrowing(changed, of)
    if "config" not in parts:
        first = next((slot for slot in slots if slot in parts), slots[-1] if slots else None)
        for slot in slots[: slots.index(first)] if first else []:
            del changed[slot]
            changed["colour"].pop(slot, None)
    kept = [slot for slot in slots if changed.get(slot)]
    for slot in kept:  # what it started from in the block itself is now its own, where it has one
        start = changed[slot].get("start") or ""
        if start.startswith(f"{of}/") and start.partition("/")[2] in kept:
            changed[slot]["start"] = f"{name}/{start.partition('/')[2]}"
    return changed


def _borrowing(block: Tree, of: str) -> Tree:
    """The last row of a block, by the block's own weights."""
    stage = list(block["colour"])[-1]
    row = {key: block[key] for key in ("kind", "label")}
    return {**row, "weights": block.get("weights") or f"{of}/{stage}", "colour": {stage: block["colour"][stage]}}


def _set(block: Tree, of: str, key: str, value: object) -> None:
    *above, last = key.split(".")
    if above[:1] not in ([slot] for slot in ("config", "colour", *registry.slots())):
        raise ParameterError(
            f"{key}: a sweep varies what stands below methods.{of}: config, colour or a training; other parameters are"
            " those of a preset of their own"
        )
    inner = block
    for part in above:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise ParameterError(f"{key}: methods.{of} has no block of that name")
    inner[last] = value


def _with_sources(methods: Tree, of: str) -> Tree:
    """The block and those that its trainings are made from."""
    loaded, found, waiting = parameters.load().methods, set(), [of]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        block = loaded[name]
        sources = [block.weights or "", *(train.start or "" for train in block.trainings.values())]
        sources += [
            what for slot in block.trainings for what in registry.needs(block.kind, block.config, slot).values()
        ]
        waiting += [head for what in sources if (head := what.partition("/")[0]) in loaded and "/" in what]
    return {name: block for name, block in methods.items() if name in found}
