"""Stage spread_table: how much of a row's error is the distance between its own answers, and what their mean scores."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ssimbad import artifacts
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Footnotes, Table, latex, markdown
from ssimbad.reporting.results import METRICS, Line
from ssimbad.runtime.job import Job

ABOUT = ["method", "stage", "seed"]
COLUMNS = [
    *ABOUT, "answer", "metric", "value", "ci_low", "ci_high", "n", "samples", "sampler", "steps", "nfe", "reason",
]  # fmt: skip


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Write spread (.csv, _md, _tex).

    Inputs: values (list of `<method>/<stage>/seed-<n>.csv` of the stage spread). The CSV has their lines, one per row,
    seed, answer and metric. Parameters: report.spread, evaluation, data.size, preset, the methods' labels.

    Raises:
        UserError: an input is missing or is named otherwise.
    """
    frame = res.read_rows(inputs["values"], "spread")
    frame["nfe"] = frame["nfe"].astype("Int64")  # empty where there is no such image
    frame = frame.astype(object).where(frame.notna(), None)
    rows = list(dict.fromkeys(zip(frame["method"], frame["stage"], strict=True)))
    names = res.labels(rows, params.methods)
    artifacts.write_csv(outputs["spread"], COLUMNS, frame.to_dict("records"))
    note = res.scale_note(params.preset, params.data.size, int(frame["n"].max()))
    tables = [
        _table(frame, metric, names, note, params.evaluation.confidence)
        for metric in METRICS
        if (frame["metric"] == metric).any()
    ]
    artifacts.write_text(outputs["spread_md"], markdown(tables))
    artifacts.write_text(outputs["spread_tex"], latex(tables))
    job.say(f"spread_table: {len(rows)} rows -> {outputs['spread']}")


def _table(frame: pd.DataFrame, metric: str, names: dict[res.Row, str], note: str, confidence: float) -> Table:
    """One metric, a line per row: PSNR with the bias alone and the share, which other metrics lack."""
    samples, marks = int(frame["samples"].max()), Footnotes()
    answers = {"one_step": "One step", "sample": "One sample", "mean": f"Mean of {samples}"}
    if metric == "psnr":
        answers |= {"bias": "Mean of ∞", "spread": "Spread / error"}
    rows: list[list[str] | str] = []
    for row, label in names.items():
        mine = frame[(frame["method"] == row[0]) & (frame["stage"] == row[1])]
        sampler = mine[mine["answer"] == "sample"].iloc[0]
        cells = []
        for answer in answers:
            wanted = "share" if answer == "spread" else metric
            entry = _over_seeds(mine[(mine["answer"] == answer) & (mine["metric"] == wanted)], confidence)
            cell = _percent(entry) if answer == "spread" else res.with_interval(entry, metric)
            cells.append(cell if entry["reason"] is None else f"{cell} {marks.mark(entry['reason'])}")
        rows.append([label, f"{sampler['sampler']}, {sampler['steps']} steps", *cells])
    name, _, better = METRICS[metric]
    return Table(
        f"{name} {better} of one sample and of the mean of several, same reference — {note}",
        f"spread-{metric}",
        ["Method", "Sampler", *answers.values()],
        rows,
        [*marks.lines(), *_notes(metric, samples, frame["seed"].nunique(), confidence)],
        words=2,
    )


def _over_seeds(lines: pd.DataFrame, confidence: float) -> Line:
    """{value, ci_low, ci_high, reason}: the one seed's, or mean and Student's t interval over seeds."""
    lacking = lines[lines["value"].isna()]
    if len(lines) == 1 or len(lacking):
        one = (lacking if len(lacking) else lines).iloc[0]
        return {"value": one["value"], "ci_low": one["ci_low"], "ci_high": one["ci_high"], "reason": one["reason"]}
    return {**res.students_t(lines["value"].to_numpy(dtype=float), confidence), "reason": None}


def _percent(entry: Line) -> str:
    if entry["value"] is None:
        return DASH
    value, ends = f"{100 * entry['value']:.1f} %", (entry["ci_low"], entry["ci_high"])
    shown = [f"{100 * end:.1f}" for end in ends if end is not None]
    return f"{value} [{', '.join(shown)}]" if len(shown) == len(ends) else value


def _notes(metric: str, samples: int, seeds: int, confidence: float) -> list[str]:
    percent = f"{100 * confidence:g} %"
    notes = [
        "One step: the row's sampler with a single network call. One sample: the mean score of"
        f" {samples} samples that start from different noise, the first of which is the row's image in the main table."
        f" Mean of {samples}: the score of their mean, pixel by pixel. In brackets the {percent} "
        + ("percentile bootstrap interval over test faces." if seeds == 1 else "Student t interval over seeds.")
    ]
    if metric == "psnr":
        notes += [
            "The mean of several samples is no image that the model makes: it is blurred where the model is undecided."
            " It stands here because PSNR pays for the mean of all plausible answers, whatever it looks like: the"
            " squared error of one sample is that of the mean of infinitely many (∞, the bias alone) plus the spread.",
            "Spread / error: unbiased variance between samples over the mean squared error of one, both summed over"
            " all faces. 0 %: always one answer. A sampler of the true distribution would show 50 %, since the face"
            " itself is one more draw from it, and 3 dB between one sample and the bias alone.",
            "So where one row beats another, the difference in ∞ is better answers; the rest is spread removed.",
        ]
    return [*notes, *([res.ONE_SEED] if seeds == 1 else [])]
