"""Paired comparisons: is the reference used, and which row is better than which?

With several seeds rows are compared seed by seed (those of a seed share first weights, order and noise), and the
interval is over seeds. With one it is over test faces, and speaks of these two trainings alone.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ssimbad.errors import UserError
from ssimbad.metrics import bootstrap
from ssimbad.pairing.settings import LISTED
from ssimbad.params.blocks import Evaluation
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import Table
from ssimbad.reporting.results import METRICS, Line, Result

USE_COLUMNS = ["method", "stage", "metric", "right", "other", "difference", "ci_low", "ci_high", "n", "seeds"]
PAIR_COLUMNS = [
    *["setting", "metric", "method", "stage", "than_method", "than_stage"],
    *["difference", "ci_low", "ci_high", "n", "seeds"],
]


def reference_use(results: list[Result], evaluation: Evaluation) -> list[Line]:
    """Lines (`USE_COLUMNS`): each row's score against the true answer with the right reference (cross-true)
    and with somebody else's (cross-other), and the paired difference. No lines without true answers."""
    lines: list[Line] = []
    for method, stage in res.rows(results):
        right, other = (_images(results, (method, stage), s) for s in ("cross-true", "cross-other"))
        for metric in shared(right, other):
            means: Line = {"right": mean(right, metric), "other": mean(other, metric)}
            gap = paired_difference(right, other, metric, evaluation)
            lines.append({"method": method, "stage": stage, "metric": metric, **means, **gap})
    return lines


def differences(results: list[Result], evaluation: Evaluation) -> list[Line]:
    """Lines (`PAIR_COLUMNS`): for each setting and pair of rows, the later row's mean minus the earlier's."""
    lines: list[Line] = []
    for setting in LISTED:
        for earlier, later in combinations(res.rows(results), 2):
            a, b = (_images(results, row, setting) for row in (later, earlier))
            for metric in shared(a, b):
                pair: Line = {"setting": setting, "metric": metric, "method": later[0], "stage": later[1]}
                than: Line = {"than_method": earlier[0], "than_stage": earlier[1]}
                lines.append({**pair, **than, **paired_difference(a, b, metric, evaluation)})
    return lines


def between(
    results: list[Result], row: res.Row, other: res.Row, setting: str, metric: str, evaluation: Evaluation
) -> Line | None:
    """{difference, ci_low, ci_high, n, seeds} of `row` minus `other`; None where one lacks the setting or per-image
    values of the metric."""
    a, b = (_images(results, r, setting) for r in (row, other))
    if metric not in shared(a, b):
        return None
    return paired_difference(a, b, metric, evaluation)


def _images(results: list[Result], row: res.Row, setting: str) -> dict[int, pd.DataFrame]:
    """Per-image values of a row in a setting, by seed; empty where it was not evaluated."""
    return {result.seed: result.images for result in results if result.row == row and result.setting == setting}


def mean(frames: dict[int, pd.DataFrame], metric: str) -> float:
    """Over seeds and test faces."""
    return round(float(np.mean([frame[metric].mean() for frame in frames.values()])), 5)


def shared(a: dict[int, pd.DataFrame], b: dict[int, pd.DataFrame]) -> list[str]:
    """Metrics with a value for each image in both, in the tables' order."""
    frames = [*a.values(), *b.values()] if a and b else []
    return [metric for metric in METRICS if frames and all(metric in frame for frame in frames)]


def paired_difference(
    a: dict[int, pd.DataFrame], b: dict[int, pd.DataFrame], metric: str, evaluation: Evaluation
) -> Line:
    """{difference, ci_low, ci_high, n test faces, seeds}; see the module for what the interval is over."""
    if a.keys() != b.keys():
        raise UserError(f"two rows have different seeds ({sorted(a)} and {sorted(b)}); run the stage evaluate again")
    gaps = [_paired(a[seed][metric], b[seed][metric]) for seed in sorted(a)]
    if len(gaps) > 1:
        entry = res.students_t(np.array([gap.mean() for gap in gaps]), evaluation.confidence)
        low, high, value = entry["ci_low"], entry["ci_high"], entry["value"]
    else:
        how = {"resamples": evaluation.bootstrap, "confidence": evaluation.confidence, "seed": evaluation.seed}
        estimate = bootstrap.mean(gaps[0], **how)
        low, high, value = (None if x is None else round(x, 5) for x in (estimate.low, estimate.high, estimate.value))
    return {"difference": value, "ci_low": low, "ci_high": high, "n": len(gaps[0]), "seeds": len(gaps)}


def _paired(a: pd.Series, b: pd.Series) -> np.ndarray:
    """a - b by test id."""
    if set(a.index) != set(b.index):
        raise UserError("two rows were evaluated on different test ids; run the stage evaluate again")
    return (a - b.reindex(a.index)).to_numpy()


def use_table(lines: list[Line], labels: dict[res.Row, str], note: str, confidence: float) -> Table:
    """`reference_use` for print."""
    rows = [
        [
            labels[line["method"], line["stage"]],
            " ".join(METRICS[line["metric"]][::2]),
            res.number(line["right"], line["metric"]),
            res.number(line["other"], line["metric"]),
            _gap(line),
        ]
        for line in lines
    ]
    columns = ["Method", "Metric", "Right reference", "Somebody else's", "Difference"]
    empty = ["No line: the true answer to a cross reference exists on embedded data only."]
    notes = [
        "Target: the sketch's shape in the right reference's colours. Ignoring the reference would show 0.",
        interval_note(confidence, lines),
    ]
    return Table(f"Is the reference used? — {note}", "reference-use", columns, rows, notes if lines else empty, words=2)


def differences_table(lines: list[Line], labels: dict[res.Row, str], note: str, confidence: float) -> Table:
    """`differences` for print, grouped by setting."""
    rows: list[list[str] | str] = []
    for setting, words in LISTED.items():
        here = [line for line in lines if line["setting"] == setting]
        rows += [words[0].upper() + words[1:]] if here else []
        rows += [
            [
                labels[line["method"], line["stage"]],
                labels[line["than_method"], line["than_stage"]],
                " ".join(METRICS[line["metric"]][::2]),
                _gap(line),
            ]
            for line in here
        ]
    columns = ["Method", "minus", "Metric", "Difference"]
    return Table(
        f"Differences between rows — {note}",
        "differences",
        columns,
        rows,
        [interval_note(confidence, lines)] if lines else ["One row: nothing to compare."],
        words=3,
    )


def _gap(line: Line) -> str:
    return res.difference(line | {"value": line["difference"]}, line["metric"], line["seeds"])


def interval_note(confidence: float, lines: Sequence[Line]) -> str:
    """What the brackets of these differences are; each line has the key `seeds`."""
    percent = f"{100 * confidence:g} %"
    if all(line["seeds"] > 1 for line in lines):
        return f"Differences with the {percent} Student t interval of the differences of equal seeds."
    return f"Differences with the {percent} paired percentile bootstrap interval over test faces. {res.ONE_SEED}"
