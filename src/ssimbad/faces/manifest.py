"""Reading the list of faces: one row per face, in the order of the arrays."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError


def rows(manifest: Path, split: str) -> list[dict[str, str]]:
    """Rows of a split (train, val or test) in the order of its arrays; none when the split is empty.

    Raises:
        UserError: the file is missing or is no manifest.
    """
    return list(_read(manifest, split))


def _read(manifest: Path, split: str) -> Iterator[dict[str, str]]:
    # Row by row: a test set of hundreds must not cost the memory of a training set of millions.
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if not {"id", "split"} <= set(lines.fieldnames or ()):
                raise UserError(f"{manifest}: not a manifest of faces; delete it and run stage faces again")
            yield from (row for row in lines if row["split"] == split)
    except FileNotFoundError:
        raise UserError(f"{manifest}: not there; run stage faces") from None


def ids(manifest: Path, split: str) -> list[str]:
    """Ids of a split in the order of its arrays.

    Raises:
        UserError: as `rows`, or the split is empty.
    """
    found = [row["id"] for row in _read(manifest, split)]
    if not found:
        raise UserError(f"{manifest}: lists no {split} face; set data.{split} and run stage faces again")
    return found


def images(path: Path, of: Sequence) -> np.ndarray:
    """A stored array, memory-mapped, that holds one image for each of the ids or rows `of`.

    Raises:
        UserError: it is missing, or it holds another number of images.
    """
    array = artifacts.read_array(path)
    if len(array) != len(of):
        raise UserError(f"{path}: {len(array)} images for {len(of)} ids of the manifest; run stage faces again")
    return array
