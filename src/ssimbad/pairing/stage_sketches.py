"""Stage sketches: faces → line drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.pairing import styles, xdog
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

SPLITS = ("train", "val", "test")
_CHUNK = 64  # faces drawn between two updates of the progress bar


def run(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """A sketch for every face: XDoG of the stored face, or the given one where the source has it.

    inputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy), `manifest`, and of sources that may have sketches
    `given_train`, `given_val`, `given_test` ((M, S, S) uint8 .npy of the rows that have one), which are used as they
    are.
    outputs: `train`, `val`, `test` ((N, S, S) uint8 .npy, 255 = white paper, in manifest order), and where
    `sketches.styles` asks for them `styles` ((N, K, S, S) uint8 .npy: those of train in each of the K styles).

    Raises:
        UserError: the manifest does not belong to the arrays.
    """
    for split in SPLITS:
        mine = manifest.rows(inputs["manifest"], split)
        ids = [row["id"] for row in mine]
        faces = manifest.images(inputs[split], ids)
        given = [i for i, row in enumerate(mine) if row["sketch"]]
        with artifacts.replacing(outputs[split]) as temporary:
            sheet = np.lib.format.open_memmap(temporary, "w+", np.uint8, faces.shape[:3])
            _draw(faces, ids, params.sketches, sheet, job, split)
            if given:
                sheet[given] = manifest.images(inputs[f"given_{split}"], given)
            sheet.flush()
        if split == "train" and "styles" in outputs:
            _draw_styles(sheet, ids, params.sketches, outputs["styles"], job)
        job.say(f"sketches: {len(mine)} of {split} ({len(given)} given) -> {outputs[split]}")


def _draw_styles(sheet: np.ndarray, ids: list[str], sketches: View, path: Path, job: Job) -> None:
    names = sketches.styles
    with artifacts.replacing(path) as temporary, job.progress(len(ids), "train styles") as bar:
        every = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(ids), len(names), *sheet.shape[1:]))
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            for i, name in enumerate(names):
                every[part, i] = styles.drawn(sheet[part], ids[part], name, sketches.seed)
            bar.update(len(ids[part]))
        every.flush()


def _draw(faces: np.ndarray, ids: list[str], sketches: View, sheet: np.ndarray, job: Job, split: str) -> None:
    sigmas = xdog.draw_sigma(ids, sketches.seed, sketches)
    with job.progress(len(ids), f"{split} sketches") as bar:
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            sheet[part] = xdog.sketch(faces[part], sigmas[part], sketches, job.threads)
            bar.update(len(sigmas[part]))
