"""Stage ladder: from one schedule to another, changing a part at a time; which part makes the difference?"""

from collections.abc import Mapping
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import there
from ssimbad.pairing.settings import LISTED
from ssimbad.params.blocks import Evaluation
from ssimbad.params.methods import Method
from ssimbad.params.tree import Params
from ssimbad.reporting import comparisons
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.results import METRICS, Line, Result
from ssimbad.runtime.job import Job

VALUES = ["method", "stage", "setting", "metric", "value", "ci_low", "ci_high", "seeds", "n"]
STEPS = ("previous", "first")
DIFFERENCES = [f"{step}_{key}" for step in STEPS for key in ("difference", "low", "high")]


class Rung(Line):
    """A line, and by step the difference to the rung there; None of the first rung."""

    gaps: dict[str, Line | None]


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Write ladder (.csv, _md, _tex).

    Inputs: summaries (list of .json), images (list of .csv) of the rungs. Parameters: report.ladder, evaluation,
    preset, and of each rung label, kind, config and pretrain.images.

    Raises:
        UserError: an input is missing or does not fit the others.
    """
    rungs = [(name, "pretrain") for name in params.report.ladder]
    found = res.load(inputs["summaries"], inputs["images"])
    switches = _switches({name: params.methods[name] for name in params.report.ladder})
    lines = [line for setting in LISTED for line in _lines(found, rungs, setting, params.evaluation)]
    columns = [*VALUES, *DIFFERENCES, *next(iter(switches.values()))]
    artifacts.write_csv(outputs["ladder"], columns, [_flat(line) | switches[line["method"]] for line in lines])
    labels = {(name, "pretrain"): params.methods[name].label for name in params.report.ladder}
    images = there(params.methods[params.report.ladder[0]].pretrain).images
    note = res.scale_note(params.preset, found[0].size, found[0].n)
    tables = [
        _layout(lines, rungs, labels, switches, setting, note, images, params.evaluation.confidence)
        for setting in LISTED
        if any(line["setting"] == setting for line in lines)
    ]
    artifacts.write_text(outputs["ladder_md"], markdown(tables))
    artifacts.write_text(outputs["ladder_tex"], latex(tables))
    job.say(f"ladder: {len(rungs)} rungs -> {outputs['ladder']}")


def _switches(methods: Mapping[str, Method]) -> dict[str, dict[str, str]]:
    """The options in which the rungs' configurations differ, per rung."""
    configs = {name: method.config.model_dump(mode="json") for name, method in methods.items()}
    first, *others = configs.values()
    keys = [key for key in first if all(key in other for other in others)]
    differing = [key for key in keys if any(other[key] != first[key] for other in others)]
    return {
        name: {key: DASH if config[key] is None else str(config[key]) for key in differing}
        for name, config in configs.items()
    }


def _lines(found: list[Result], rungs: list[res.Row], setting: str, evaluation: Evaluation) -> list[Rung]:
    lines: list[Rung] = []
    for i, row in enumerate(rungs):
        seeds = [r for r in found if r.row == row and r.setting == setting]
        if not seeds:
            continue
        for metric in [m for m in METRICS if m in seeds[0].metrics]:
            entry = res.over_seeds(seeds, metric, evaluation.confidence)
            about: Line = {"method": row[0], "stage": row[1], "setting": setting, "metric": metric, "n": seeds[0].n}
            gaps = {
                step: comparisons.between(found, row, other, setting, metric, evaluation) if i else None
                for step, other in zip(STEPS, (rungs[max(0, i - 1)], rungs[0]), strict=True)
            }
            lines.append({**about, **res.interval(entry), "seeds": entry["seeds"], "gaps": gaps})
    return lines


def _flat(line: Rung) -> dict[str, object]:
    """For the CSV: `VALUES` and `DIFFERENCES`."""
    found: dict[str, object] = {**line}
    for step, gap in line["gaps"].items():
        if gap:
            ends = (gap["difference"], gap["ci_low"], gap["ci_high"])
            found |= zip((f"{step}_difference", f"{step}_low", f"{step}_high"), ends, strict=True)
    return found


def _layout(
    lines: list[Rung],
    rungs: list[res.Row],
    labels: dict[res.Row, str],
    switches: dict[str, dict[str, str]],
    setting: str,
    note: str,
    images: int,
    confidence: float,
) -> Table:
    here = [line for line in lines if line["setting"] == setting and line["value"] is not None]
    metrics = [m for m in METRICS if any(line["metric"] == m for line in here)]
    named = list(next(iter(switches.values())))
    rows: list[list[str] | str] = []
    for metric in metrics:
        rows.append(" ".join(METRICS[metric][::2]))
        for row in rungs:
            line = next(x for x in here if (x["method"], x["stage"]) == row and x["metric"] == metric)
            gaps = [_gap(line["gaps"][step], metric, line["seeds"]) for step in STEPS]
            rows.append([labels[row], *switches[row[0]].values(), res.with_interval(line, metric), *gaps])
    percent = f"{100 * confidence:g} %"
    seeds = min(line["seeds"] for line in here)
    notes = [
        f"Every rung: the same network, {images:,} images seen, {seeds} seed{'s' if seeds > 1 else ''}.",
        f"Mean with {percent} Student t interval over seeds"
        + (" (one seed: bootstrap interval over test faces)." if seeds == 1 else "."),
        comparisons.interval_note(confidence, here),
    ]
    columns = ["Rung", *named, "Mean", "To the rung above", "To the first rung"]
    title = f"Ladder, {LISTED[setting]} — {note}"
    return Table(title, f"ladder-{setting}", columns, rows, notes, words=1 + len(named))


def _gap(gap: Line | None, metric: str, seeds: int) -> str:
    if gap is None or gap["difference"] is None:
        return DASH
    return res.difference(gap | {"value": gap["difference"]}, metric, seeds)
