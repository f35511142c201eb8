"""Known answers: the md5s of what the demo's data and schedule stages make, which no processor should change.

These stages compute in integers and float64 and round what they write; trainings round in every step, and figures are
drawn in float32 (docs/engines.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.params import tree as parameters
from ssimbad.params.tree import Params
from ssimbad.pipeline import records, verify
from ssimbad.pipeline.table import Instance, instances

FILE = Path("workflow/known.json")
DEMO = Path("presets/demo.yaml")
STAGES = ("raw", "faces", "sketches", "references", "ssim_curves", "select_phi")
_DRAWN = {".png", ".pdf"}
_REMEDY = f"restore the file from git (`git checkout {FILE}`)"


class Answer(TypedDict):
    """Of a stage: what it is made with, and {path: md5}."""

    params: dict[str, object]
    outputs: dict[str, str]


Answers = dict[str, Answer]
"""By stage."""


def run(params: Params) -> bool:
    """Say of every file that these stages make whether it is equal here, differs, or cannot be compared.

    A file that the list lacks, or has and no stage makes, differs.

    Returns:
        Whether all are equal.

    Raises:
        UserError: as `read`.
    """
    answers, found = read(), records.survey(params)
    parts = {i.name: i for i in instances(params)}
    others: dict[str, str] = {}
    count: Counter[bool | None] = Counter()
    for stage, answer in answers.items():
        if reason := _other(stage, answer, parts.get(stage), params, others):
            others[stage] = reason
            print(f"not compared: {stage}: {reason}", flush=True)
            count[None] += len(answer["outputs"])
        elif found[stage]:
            print(f"not made yet: {stage}: {found[stage]}", flush=True)
            count[None] += len(answer["outputs"])
        else:
            count.update(_compared(parts[stage], answer["outputs"]))
    rest = f", {count[None]} not compared" if count[None] else ""
    print(f"verify: {count.total()} known answers: {verify.told(count)}{rest}", flush=True)
    return count[True] == count.total()


def _other(stage: str, answer: Answer, instance: Instance | None, params: Params, others: dict[str, str]) -> str | None:
    """Why these parameters ask for something else than the list knows; None: they do not."""
    if instance is None:
        return "not part of the pipeline with these parameters"
    if late := next((u for u in instance.upstream if u in others), None):
        return f"made from {late}"
    now, then = records.resolved(instance, params), answer["params"]
    changed = next((key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)), None)
    return f"{changed} is not what it is in {DEMO}" if changed else None


def _compared(instance: Instance, known: dict[str, str]) -> Iterator[bool]:
    made = _comparable(instance)
    for path in sorted(made | known.keys()):
        there = records.md5(Path(path)) if path in made else f"no output of {instance.name}"
        yield verify.compare(path, there, known.get(path, "nothing"), "known")
    if made != known.keys():
        print(f"{FILE}: not the list of what {instance.name} makes; {_REMEDY}", flush=True)


def _comparable(instance: Instance) -> set[str]:
    return {path for path in instance.outputs.values() if Path(path).suffix not in _DRAWN}


def read() -> Answers:
    """The list, in the order of the stages. Raises UserError when it is missing or is none."""
    try:
        answers = artifacts.parsed_json(FILE)
        if answers.keys() != set(STAGES):
            raise ValueError("other stages")
        return {
            stage: {"params": dict(answers[stage]["params"]), "outputs": dict(answers[stage]["outputs"])}
            for stage in STAGES
        }
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{FILE}: no list of known answers; {_REMEDY}") from None


def write(params: Params) -> Path:
    """Make the list anew from what is here.

    Raises:
        UserError: that was not made with the demo's parameters, or is not fresh.
    """
    found, demo = records.survey(params), parameters.load(DEMO)
    parts = {i.name: i for i in instances(params)}
    answers: Answers = {
        i.name: {"params": records.resolved(i, demo), "outputs": {}} for i in instances(demo) if i.name in STAGES
    }
    for stage, answer in answers.items():
        reason = _other(stage, answer, parts.get(stage), params, {}) or found[stage]
        if reason:
            raise UserError(f"{FILE}: not written, {stage}: {reason}; run `ssimbad preset demo` and the pipeline first")
        made = records.read(parts[stage])["outputs"]
        answer["outputs"] = {path: made[path] for path in sorted(_comparable(parts[stage]))}
    artifacts.write_json(FILE, answers)
    return FILE
