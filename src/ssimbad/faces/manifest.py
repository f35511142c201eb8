"""Reading the list of faces: one row per face, in the order of the arrays."""

from __future__ import annotations

import csv
from pathlib import Path

from ssimbad.errors import UserError


def ids(manifest: Path, split: str) -> list[str]:
    """Ids of a split (train, val or test) in the order of its arrays.

    Raises:
        UserError: the file is missing, is no manifest, or lists no face of the split.
    """
    rows = [row for row in _rows(manifest) if row["split"] == split]
    if not rows:
        raise UserError(f"{manifest}: lists no {split} face; set data.{split} and run stage faces again")
    return [row["id"] for row in rows]


def sketches(manifest: Path) -> dict[str, str]:
    """{id: name of its given sketch inside the source} for the faces that came with one."""
    return {row["id"]: row["sketch"] for row in _rows(manifest) if row["sketch"]}


def _rows(manifest: Path) -> list[dict[str, str]]:
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{manifest}: not there; run stage faces") from None
    if rows and not {"id", "split", "sketch"} <= rows[0].keys():
        raise UserError(f"{manifest}: not a manifest of faces; delete it and run stage faces again")
    return rows
