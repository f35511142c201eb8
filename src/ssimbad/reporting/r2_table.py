"""The table of noise schedules: how straight SSIM falls along each (r2.csv of the stage select_phi)."""

from pathlib import Path

import pandas as pd

from ssimbad.errors import UserError
from ssimbad.metrics import bootstrap
from ssimbad.reporting.markup import DASH, Table
from ssimbad.reporting.results import demo_scale

GROUPS = {
    "published": "The published candidates",
    "other": "Other schedules",
    "family": "Chosen on these faces",
}

NEEDED = (
    *("group", "label", "axis", "r2", "ci_low", "ci_high", "versus", "difference", "difference_low"),
    *("difference_high", "held_out", "saturates_at", "published", "candidate", "n", "c", "c_low", "c_high"),
)


def layout(path: Path, preset: str, confidence: float) -> Table:
    """r2.csv for print, grouped, in the file's order; an empty field is a dash.

    Raises:
        UserError: the file is missing, empty or lacks a column.
    """
    try:
        frame = pd.read_csv(path, dtype={"candidate": str, "versus": str})
    except (FileNotFoundError, pd.errors.EmptyDataError):
        raise UserError(f"{path}: not there or empty; run the stage select_phi") from None
    if lacking := [name for name in NEEDED if name not in frame]:
        raise UserError(f"{path}: column {lacking[0]} is missing; run the stage select_phi again")
    names = dict(zip(frame["candidate"], frame["label"], strict=True))
    rows: list[list[str] | str] = []
    for group, heading in GROUPS.items():
        here = frame[frame["group"] == group]
        rows += [heading] if len(here) else []
        rows += [_row(line, names) for _, line in here.iterrows()]
    scale = "demo-scale, " if demo_scale(preset) else ""
    title = f"Noise schedules: how straight SSIM falls along φ ({scale}{int(frame['n'].max())} training faces)"
    columns = ["φ(σ)", "Axis", "R²", "Difference", "to", "Held-out R²", "Saturates at σ", "Published R²"]
    notes = [
        "R²: least-squares line of SSIM against the axis, per face, averaged; brackets: the"
        f" {100 * confidence:g} % percentile bootstrap interval over faces.",
        *_fitted(frame, confidence),
        "Difference: paired over faces, to the best other published candidate.",
        "Held-out R²: chosen on one half of the faces, scored on the other.",
        "Published R²: read from the figures of the SSIMBaD repository, another data set.",
    ]
    return Table(title, "r2", columns, rows, notes, words=2)


def _fitted(frame: pd.DataFrame, confidence: float) -> list[str]:
    """What is said of the constant that was searched for: its interval, and the digits of it that are used."""
    lines = []
    for line in frame[frame["c"].notna()].itertuples():
        places = bootstrap.decimals(line.c, line.c_low, line.c_high)
        c, low, high = (f"{value:.{places}f}" for value in (line.c, line.c_low, line.c_high))
        lines.append(
            f"Continuous c = {c} [{low}, {high}]: {100 * confidence:g} % percentile bootstrap interval over faces, c"
            f" chosen anew on each resample. Trainings use {line.c:.4g}, more digits than these faces determine."
        )
    return lines


def _row(line: pd.Series, names: dict[str, str]) -> list[str]:
    return [
        str(line["label"]),
        str(line["axis"]),
        f"{_number(line['r2'])} {_interval(line['ci_low'], line['ci_high'])}".strip(),
        f"{_signed(line['difference'])} "
        f"{_interval(line['difference_low'], line['difference_high'], signed=True)}".strip(),
        names.get(line["versus"], str(line["versus"])),
        _number(line["held_out"]),
        DASH if pd.isna(line["saturates_at"]) else f"{line['saturates_at']:.3g}",
        _number(line["published"]),
    ]


def _number(value: float) -> str:
    return DASH if pd.isna(value) else f"{value:.4f}".replace("-", "−")


def _signed(value: float) -> str:
    return DASH if pd.isna(value) else f"{value:+.4f}".replace("-", "−")


def _interval(low: float, high: float, signed: bool = False) -> str:
    show = _signed if signed else _number
    return "" if pd.isna(low) or pd.isna(high) else f"[{show(low)}, {show(high)}]"
