"""The table of noise schedules: how straight SSIM falls along each (columns from the stage select_phi)."""

from pathlib import Path

import pandas as pd

from ssimbad.errors import UserError
from ssimbad.reporting.markup import DASH, Table

HEADINGS = {
    "schedule": "Schedule",
    "transform": "φ(σ)",
    "form": "φ(σ)",
    "axis": "Axis",
    "r2": "R²",
    "ci_low": "CI low",
    "ci_high": "CI high",
    "n": "n",
    "published": "Published R²",
    "held_out_r2": "Held-out R²",
    "r2_held_out": "Held-out R²",
    "saturates_at": "Saturates at σ",
    "note": "Note",
}


def layout(path: Path, preset: str) -> Table:
    """r2.csv for print: known columns get their heading, numbers four decimals, empty fields a dash.

    Raises:
        UserError: the file is missing or empty.
    """
    try:
        frame = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        raise UserError(f"{path}: not there or empty; run the stage select_phi") from None
    scale = "demo-scale: " if preset == "demo" else ""
    title = f"Noise schedules: straightness of SSIM against φ(σ) ({scale}mean R² over the measured faces)"
    columns = [HEADINGS.get(name, name.replace("_", " ")) for name in frame.columns]
    rows = [[_cell(value) for value in line] for line in frame.itertuples(index=False)]
    return Table(title, "r2", columns, rows)


def _cell(value: object) -> str:
    if pd.isna(value):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
        return text.replace("-", "−")
    return str(value)
