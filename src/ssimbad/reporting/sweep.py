"""Stage sweep: the rows of a grid by the values in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssimbad import artifacts
from ssimbad.pairing.settings import LISTED
from ssimbad.params.base import slot_order
from ssimbad.params.blocks import Evaluation
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.results import METRICS, Line, Result
from ssimbad.runtime.job import Job

VALUES = ["method", "stage", "setting", "metric", "value", "ci_low", "ci_high", "seeds", "n"]


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Write sweep (.csv, _md, _tex): each point's last row in every setting, means over seeds, the best first.

    Inputs: summaries (list of .json), images (list of .csv) of the points. Parameters: report.sweep, evaluation,
    preset, and the points' blocks.

    Raises:
        UserError: an input is missing or does not fit the others.
    """
    found = res.load(inputs["summaries"], inputs["images"])
    points = _differing({name: params.methods[name].model_dump(mode="json") for name in params.report.sweep})
    stages = {name: max(params.methods[name].colour, key=slot_order) for name in params.report.sweep}
    lines = [line for setting in LISTED for line in _lines(found, stages, setting, params.evaluation)]
    columns = [*VALUES, *next(iter(points.values()))]
    artifacts.write_csv(outputs["sweep"], columns, [line | points[line["method"]] for line in lines])
    note = res.scale_note(params.preset, found[0].size, found[0].n)
    settings = [s for s in LISTED if any(line["setting"] == s for line in lines)]
    tables = [_layout([x for x in lines if x["setting"] == s], points, s, note, params.evaluation) for s in settings]
    artifacts.write_text(outputs["sweep_md"], markdown(tables))
    artifacts.write_text(outputs["sweep_tex"], latex(tables))
    job.say(f"sweep: {len(points)} points -> {outputs['sweep']}")


def _flat(block: object, above: str = "") -> dict[str, object]:
    if not isinstance(block, dict) or not block:
        return {above: block}
    return {k: v for key, value in block.items() for k, v in _flat(value, f"{above}.{key}" if above else key).items()}


def _differing(blocks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """By point the keys in which the blocks differ, but for labels and names of trainings."""
    flat = {name: _flat({k: v for k, v in block.items() if k != "label"}) for name, block in blocks.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if not key.endswith((".start", "weights")))
    varied = [key for key in keys if len({str(values.get(key)) for values in flat.values()}) > 1]
    return {name: {key: _cell(values.get(key)) for key in varied} for name, values in flat.items()}


def _cell(value: object) -> str:
    return DASH if value is None else str(value)


def _lines(found: list[Result], stages: Mapping[str, str], setting: str, evaluation: Evaluation) -> list[Line]:
    lines: list[Line] = []
    for row in stages.items():
        seeds = [r for r in found if r.row == row and r.setting == setting]
        for metric in [m for m in METRICS if seeds and m in seeds[0].metrics]:
            entry = res.over_seeds(seeds, metric, evaluation.confidence)
            about: Line = {"method": row[0], "stage": row[1], "setting": setting, "metric": metric, "n": seeds[0].n}
            lines.append({**about, **res.interval(entry), "seeds": entry["seeds"]})
    return lines


def _layout(
    lines: list[Line], points: Mapping[str, dict[str, str]], setting: str, note: str, evaluation: Evaluation
) -> Table:
    metrics = [m for m in METRICS if any(x["metric"] == m and x["value"] is not None for x in lines)]
    by_point = {name: {x["metric"]: x for x in lines if x["method"] == name} for name in points}
    first = metrics[0] if metrics else ""

    def place(name: str) -> float:
        """The best first, by the first metric that there is."""
        value = by_point[name][first]["value"] or 0 if first else 0
        return -value if first and METRICS[first][2] == "↑" else value

    rows = [
        [*points[name].values(), *(res.with_interval(by_point[name][m], m) for m in metrics)]
        for name in sorted(by_point, key=place)
    ]
    columns = [*next(iter(points.values())), *(" ".join(METRICS[m][::2]) for m in metrics)]
    percent, seeds = f"{100 * evaluation.confidence:g} %", min((x["seeds"] for x in lines), default=1)
    interval = (
        f"{percent} Student t interval over {seeds} seeds"
        if seeds > 1
        else f"{percent} percentile bootstrap interval over test faces. {res.ONE_SEED}"
    )
    notes = [f"Mean with {interval}", "The best of many is better by luck too: judge it by seeds that chose nothing."]
    title = f"Sweep, {LISTED[setting]} — {note}"
    return Table(title, f"sweep-{setting}", columns, rows, notes, words=len(next(iter(points.values()))))
