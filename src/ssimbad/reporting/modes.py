"""Stage modes: one set of weights in every row that colours with it, by every kind of reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssimbad.errors import there
from ssimbad.faces import manifest
from ssimbad.metrics.test_set import by_id
from ssimbad.pairing import resize
from ssimbad.pairing.settings import PICTURED
from ssimbad.params.tree import Params
from ssimbad.reporting.figures import Pictures, by_row
from ssimbad.reporting.grids import picture_grid
from ssimbad.reporting.results import demo_scale, labels
from ssimbad.reporting.style import save
from ssimbad.runtime.job import Job

_KINDS = {"same": "itself, warped", "cross": "another face", "scene": "a landscape"}


def run(params: Params, inputs: Pictures, outputs: Mapping[str, Path], job: Job) -> None:
    """Draw modes, PNG and PDF: rows of pictures are sketch, reference, each row's answer and the true one; columns are
    the first test faces, once for each kind of reference.

    Inputs: test, sketches, and of the kinds of references those that there are of same, cross, scene (.npy), true
    (.npy, embedded data only), manifest (.csv), images (list of `<method>/<stage>/seed-<n>/<kind>.zip`). Parameters:
    report.modes, data.size, preset, the methods' labels.

    Raises:
        UserError: an input is missing or does not fit the test ids.
    """
    asked = there(params.report.modes)
    ids, size, count = manifest.ids(inputs["manifest"], "test"), params.data.size, asked.images

    def stored(name: str) -> np.ndarray:
        return resize.area(manifest.images(inputs[name], ids)[:count], size)

    kinds = [kind for kind in PICTURED if kind in inputs]
    known = [kind == "same" or "true" in inputs for kind in kinds]
    rows = [("Sketch", np.concatenate([stored("sketches")] * len(kinds)))]
    rows.append(("Reference", np.concatenate([stored(kind) for kind in kinds])))
    by_kind = {kind: by_row([path for path in inputs["images"] if path.stem == kind]) for kind in kinds}
    names = labels(by_kind[kinds[0]], params.methods)
    for row, name in names.items():
        answers = [by_id(next(iter(by_kind[kind][row].values())), ids, size)[:count] for kind in kinds]
        rows.append((name, np.concatenate(answers)))
    if all(known):
        right = [stored("test" if kind == "same" else "true") for kind in kinds]
        rows.append(("True answer", np.concatenate(right)))
    scale = "demo-scale, " if demo_scale(params.preset) else ""
    title = f"Weights {asked.weights} by kind of reference ({scale}{size}×{size})"
    columns = [_KINDS[kind] for kind in kinds for _ in ids[:count]]
    save(picture_grid(title, rows, columns), outputs["modes_png"], outputs["modes_pdf"])
    job.say(f"modes: {len(names)} rows, {len(kinds)} kinds of references -> {outputs['modes_png']}")
