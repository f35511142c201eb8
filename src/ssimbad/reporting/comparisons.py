"""Paired comparisons over test images: is the reference used, and which row is better than which?"""

from itertools import combinations
from typing import Any

import pandas as pd

from ssimbad.errors import UserError
from ssimbad.metrics import bootstrap
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import Table
from ssimbad.reporting.results import METRICS, SETTINGS, Result

USE_COLUMNS = ["method", "stage", "metric", "right", "other", "difference", "ci_low", "ci_high", "n", "seeds"]
PAIR_COLUMNS = [
    *["setting", "metric", "method", "stage", "than_method", "than_stage"],
    *["difference", "ci_low", "ci_high", "n", "seeds"],
]


def reference_use(results: list[Result], evaluation: Any) -> list[dict[str, Any]]:
    """Lines (`USE_COLUMNS`): each row's score against the true answer with the right reference (cross-true)
    and with somebody else's (cross-other), and the paired difference. No lines without true answers."""
    lines = []
    for method, stage in res.rows(results):
        right, other = (_mean_images(results, (method, stage), s) for s in ("cross-true", "cross-other"))
        if right is None or other is None:
            continue
        for metric in _shared(right, other):
            means = {"right": round(right[metric].mean(), 5), "other": round(other[metric].mean(), 5)}
            gap = _difference(right, other, metric, evaluation)
            lines.append({"method": method, "stage": stage, "metric": metric} | means | gap)
    return lines


def differences(results: list[Result], evaluation: Any) -> list[dict[str, Any]]:
    """Lines (`PAIR_COLUMNS`): for each setting and pair of rows, the later row's mean minus the earlier's,
    paired over test images. Several seeds are averaged per image first."""
    lines = []
    for setting in SETTINGS:
        for earlier, later in combinations(res.rows(results), 2):
            a, b = (_mean_images(results, row, setting) for row in (later, earlier))
            if a is None or b is None:
                continue
            for metric in _shared(a, b):
                pair = dict(zip(PAIR_COLUMNS[:6], (setting, metric, *later, *earlier), strict=True))
                lines.append(pair | _difference(a, b, metric, evaluation))
    return lines


def between(
    results: list[Result], row: res.Row, other: res.Row, setting: str, metric: str, evaluation: Any
) -> dict[str, Any] | None:
    """{difference, ci_low, ci_high, n, seeds} of `row` minus `other`, paired over test images; None where one lacks
    the setting or per-image values of the metric."""
    a, b = (_mean_images(results, r, setting) for r in (row, other))
    if a is None or b is None or metric not in _shared(a, b):
        return None
    return _difference(a, b, metric, evaluation)


def _mean_images(results: list[Result], row: res.Row, setting: str) -> pd.DataFrame | None:
    """Per-image values of a row in a setting, averaged over its seeds; None where it was not evaluated."""
    frames = [result.images for result in results if result.row == row and result.setting == setting]
    if not frames:
        return None
    mean = sum(frame.reindex(frames[0].index) for frame in frames) / len(frames)
    mean.attrs["seeds"] = len(frames)
    return mean


def _shared(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    return [metric for metric in METRICS if metric in a and metric in b]


def _difference(a: pd.DataFrame, b: pd.DataFrame, metric: str, evaluation: Any) -> dict[str, Any]:
    if set(a.index) != set(b.index):
        raise UserError("two rows were evaluated on different test ids; run the stage evaluate again")
    estimate = bootstrap.difference(
        a[metric].to_numpy(),
        b[metric].reindex(a.index).to_numpy(),
        resamples=evaluation.bootstrap,
        confidence=evaluation.confidence,
        seed=evaluation.seed,
    )
    low, high = (None if x is None else round(x, 5) for x in (estimate.low, estimate.high))
    counts = {"n": estimate.n, "seeds": min(a.attrs["seeds"], b.attrs["seeds"])}
    return {"difference": round(estimate.value, 5), "ci_low": low, "ci_high": high} | counts


def use_table(lines: list[dict[str, Any]], labels: dict[res.Row, str], note: str, confidence: float) -> Table:
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
        _bootstrap_note(confidence),
    ]
    return Table(f"Is the reference used? — {note}", "reference-use", columns, rows, notes if lines else empty, words=2)


def differences_table(lines: list[dict[str, Any]], labels: dict[res.Row, str], note: str, confidence: float) -> Table:
    """`differences` for print, grouped by setting."""
    rows: list[list[str] | str] = []
    for setting, words in SETTINGS.items():
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
        [_bootstrap_note(confidence)],
        words=3,
    )


def _gap(line: dict[str, Any]) -> str:
    return res.with_interval(line | {"value": line["difference"]}, line["metric"], signed=True)


def _bootstrap_note(confidence: float) -> str:
    return f"In brackets the {100 * confidence:g} % paired percentile bootstrap interval over test faces."
