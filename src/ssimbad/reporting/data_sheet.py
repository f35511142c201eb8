"""Stage data_sheet: the first faces with their sketches and references. A look tells whether the data are right."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssimbad.faces import manifest
from ssimbad.pairing import resize
from ssimbad.params.tree import Params
from ssimbad.reporting.grids import picture_grid
from ssimbad.reporting.style import save
from ssimbad.runtime.job import Job


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Draw `sheet` (PNG).

    Inputs: train, test ((N, S, S, 3) uint8 .npy), train_sketches, test_sketches ((N, S, S) uint8 .npy), same, cross
    ((N, S, S, 3) uint8 .npy, of the test set), manifest, pairing (.csv). Parameters: report.grid_images, data.size.

    Raises:
        UserError: an input is missing or does not fit the manifest.
    """
    rows = {split: manifest.rows(inputs["manifest"], split) for split in ("test", "train")}
    count = min(params.report.grid_images, *map(len, rows.values()))
    tests = rows["test"]

    def stored(name: str, split: str) -> np.ndarray:
        return resize.area(manifest.images(inputs[name], rows[split])[:count], params.data.size)

    def drawn(split: str) -> str:
        given = sum(bool(row["sketch"]) for row in rows[split][:count])
        return "drawn by XDoG" if not given else "given" if given == count else f"{given} of {count} given"

    grid = [
        ("Test face", stored("test", "test")),
        (f"Its sketch, {drawn('test')}", stored("test_sketches", "test")),
        ("Its own reference", stored("same", "test")),
        ("Cross reference", stored("cross", "test")),
        ("Training face", stored("train", "train")),
        (f"Its sketch, {drawn('train')}", stored("train_sketches", "train")),
    ]
    with Path(inputs["pairing"]).open(newline="", encoding="utf-8") as file:
        partner = {row["id"]: row["cross"] for row in csv.DictReader(file)}
    size = params.data.size
    title = f"The data at {size}×{size}: the first of {len(tests)} test and {len(rows['train'])} training faces"
    fig = picture_grid(title, grid, [f"{row['id']} ← {partner[row['id']]}" for row in tests[:count]])
    save(fig, outputs["sheet"])
    job.say(
        f"data_sheet: {count} columns -> {outputs['sheet']}: look whether what is below each other belongs together"
    )
