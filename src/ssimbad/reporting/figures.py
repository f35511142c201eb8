"""Stage figures: picture grids over all methods, and training curves."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np
import pandas as pd

from ssimbad.errors import UserError
from ssimbad.faces import manifest
from ssimbad.metrics.test_set import by_id
from ssimbad.pairing import resize
from ssimbad.pairing.settings import ARCHIVES, PICTURED
from ssimbad.params.base import slot_order
from ssimbad.params.tree import Params
from ssimbad.reporting.curves import training_curves
from ssimbad.reporting.grids import picture_grid
from ssimbad.reporting.results import demo_scale, labels
from ssimbad.reporting.style import save
from ssimbad.runtime.job import Job

_TITLES = {
    "same": "Same reference",
    "cross": "Cross reference",
    "scene": "Landscape as reference",
    "free": "Without a sketch",
    "restored": "The face itself, restored",
}


class Pictures(Protocol):
    """What a figure is drawn from: a file under each name but for two, under which a file of each row lies."""

    @overload
    def __getitem__(self, name: Literal["images", "curves"], /) -> list[Path]: ...
    @overload
    def __getitem__(self, name: str, /) -> Path: ...
    def __contains__(self, name: object, /) -> bool: ...


Made = dict[tuple[str, str], dict[int, Path]]
"""{(method, stage): {seed: file}}."""


def run(params: Params, inputs: Pictures, outputs: Mapping[str, Path], job: Job) -> None:
    """Draw qualitative_same and qualitative_cross, qualitative_scene, _free and _restored where there are such
    references or rows, and training_curves, each PNG and PDF.

    Inputs: test, sketches, same, cross (.npy), true (.npy, embedded data only), scene (.npy, before scenes only),
    manifest, pairing (.csv),
    images (list of `<method>/<stage>/seed-<n>/<setting>.zip`), curves (list of
    `<method>/<stage>/seed-<n>.csv`). Parameters: report.grid_images, data.size, preset, the methods' labels.

    The grids show the first test faces and the first seed: nothing is picked by hand.

    Raises:
        UserError: an input is missing or does not fit the test ids.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    scale = "demo-scale, " if demo_scale(params.preset) else ""
    note = f"{scale}{params.data.size}×{params.data.size}"
    for setting in [s for s in PICTURED if f"qualitative_{s}_png" in outputs]:
        rows = grid_rows(params, inputs, setting, ids)
        columns = column_names(inputs["pairing"], setting, ids)[: params.report.grid_images]
        fig = picture_grid(f"{_TITLES[setting]} ({note})", rows, columns)
        save(fig, outputs[f"qualitative_{setting}_png"], outputs[f"qualitative_{setting}_pdf"])
    files = by_row(inputs["curves"])
    names = labels(files, params.methods)
    curves = [(names[row], [pd.read_csv(path) for path in seeds.values()]) for row, seeds in files.items()]
    fig = training_curves(f"Training ({note})", curves)
    save(fig, outputs["training_curves_png"], outputs["training_curves_pdf"])
    job.say(f"figures: {len(curves)} rows of methods -> {outputs['training_curves_png'].parent}")


def grid_rows(params: Params, inputs: Pictures, setting: str, ids: list[str]) -> list[tuple[str, np.ndarray]]:
    """The rows of a setting's grid from above: (label, pictures of the first test faces).

    Pictures are (N, S, S, 3) uint8, sketches (N, S, S), with N = report.grid_images and S = data.size.

    Raises:
        UserError: an input is missing, is named otherwise, or does not fit the test ids.
    """
    count, size = params.report.grid_images, params.data.size

    def stored(name: str) -> np.ndarray:
        return resize.area(manifest.images(inputs[name], ids)[:count], size)

    made = by_row([path for path in inputs["images"] if path.stem == setting])
    names = labels(made, params.methods)
    answers = [(names[row], by_id(next(iter(seeds.values())), ids, size)[:count]) for row, seeds in made.items()]
    if ARCHIVES[setting].reference is None:
        return [*answers, ("Faces of the test set", stored("test"))]
    rows = [("Sketch", stored("sketches")), ("Reference", stored(setting)), *answers]
    if setting == "same":
        return [*rows, ("Target", stored("test"))]
    rows.append(("Sketch's own face (published target)", stored("test")))
    return [*rows, ("True answer", stored("true"))] if "true" in inputs else rows


def by_row(paths: list[Path]) -> Made:
    """Files by row and seed, methods as they come, pretrain before finetune, seeds ascending."""
    made: Made = {}
    for path in paths:
        match = re.search(r"([^/]+)/([^/]+)/seed-(\d+)", path.as_posix())
        if not match:
            raise UserError(f"{path}: not of the form <method>/<stage>/seed-<n>; name it so")
        made.setdefault((match[1], match[2]), {})[int(match[3])] = path
    methods = list(dict.fromkeys(method for method, _ in made))
    order = sorted(made, key=lambda row: (methods.index(row[0]), slot_order(row[1])))
    return {row: dict(sorted(made[row].items())) for row in order}


def column_names(pairing: Path, setting: str, ids: list[str]) -> list[str]:
    """Ids above the columns; the id of another's reference behind an arrow."""
    if setting not in ("cross", "scene"):
        return ids
    partner = pd.read_csv(pairing, dtype=str).set_index("id")["cross"]
    return [f"{i} ← {partner[i]}" for i in ids]
