"""Reading the list of faces: one row per face, in the order of the arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError


def rows(manifest: Path, split: str) -> list[dict[str, str]]:
    """Rows of a split (train, val or test) in the order of its arrays; none when the split is empty.

    Raises:
        UserError: the file is missing or is no manifest.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{manifest}: not there; run stage faces") from None
    if found and not {"id", "split"} <= found[0].keys():
        raise UserError(f"{manifest}: not a manifest of faces; delete it and run stage faces again")
    return [row for row in found if row["split"] == split]


def ids(manifest: Path, split: str) -> list[str]:
    """Ids of a split in the order of its arrays.

    Raises:
        UserError: as `rows`, or the split is empty.
    """
    found = [row["id"] for row in rows(manifest, split)]
    if not found:
        raise UserError(f"{manifest}: lists no {split} face; set data.{split} and run stage faces again")
    return found


def images(path: Path, of: list[str]) -> np.ndarray:
    """A stored array, memory-mapped, that holds one image for each of the ids `of`.

    Raises:
        UserError: it is missing, or it holds another number of images.
    """
    array = artifacts.read_array(path)
    if len(array) != len(of):
        raise UserError(f"{path}: {len(array)} images for {len(of)} ids of the manifest; run stage faces again")
    return array
