"""Stage masks: where the figure is, in every face and in the stored references."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import embedded, framing, manifest
from ssimbad.faces.reading import Unreadable, normalise_grey, opaque, resized
from ssimbad.faces.sources import registry
from ssimbad.faces.sources.contract import Source
from ssimbad.pairing import masks, resize, tps
from ssimbad.params.tree import Params
from ssimbad.runtime import pool
from ssimbad.runtime.job import Job

SPLITS = ("train", "val", "test")


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """A mask for every face: the true one of a rendered face, else the one given in the source, else one that a network
    finds, or a rule where there is no network.

    inputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy), `manifest`, `pairing` (CSV: id, cross, other), `shapes`
    of embedded faces, or the source `raw` of others, and the `network` for those (ONNX, see `masks.of_network`).
    outputs: `train`, `val`, `test` and, of the test references, `same`, `cross`, `other`: (N, S, S) uint8 .npy, 255 =
    figure, in the order of the manifest. Those of references are warped as the references are. Before scenes also
    `scene`, of landscapes: no figure anywhere.

    Raises:
        UserError: the manifest does not belong to the arrays, a given mask cannot be read, or the network is none.
    """
    find = masks.of_network(inputs["network"]) if "network" in inputs else masks.of_face
    for split in SPLITS:
        found = _found(split, find, params, inputs, job)
        artifacts.write_array(outputs[split], found)
    ids = manifest.ids(inputs["manifest"], "test")
    warps = tps.draw(params.references.seed, ids, params.references)
    same = np.concatenate(
        [
            resize.to_bytes(tps.warp(resize.to_unit(found[i : i + 1]).double(), warps[i : i + 1]))
            for i in range(len(ids))
        ]
    )
    artifacts.write_array(outputs["same"], same)
    with inputs["pairing"].open(newline="", encoding="utf-8") as file:
        pairs = {row["id"]: row for row in csv.DictReader(file)}
    place = {id_: i for i, id_ in enumerate(ids)}
    if "scene" in outputs:
        artifacts.write_array(outputs["scene"], np.zeros_like(same))
    for whose in ("cross", "other"):
        artifacts.write_array(outputs[whose], same[[place[pairs[id_][whose]] for id_ in ids]])
    job.say(f"masks: of {len(ids)} test faces and the others -> {outputs['test'].parent}")


def _found(split: str, find: masks.Finder, params: Params, inputs: dict[str, Path], job: Job) -> np.ndarray:
    """(N, S, S) uint8: the masks of one split."""
    mine = manifest.rows(inputs["manifest"], split)
    faces = manifest.images(inputs[split], [row["id"] for row in mine])
    found = np.empty(faces.shape[:3], np.uint8)
    with job.progress(len(mine), f"{split} masks") as bar, _known(params, inputs) as known:
        pictures = ((face, known(row)) for row, face in zip(mine, faces, strict=True))
        done = pool.ordered_map(lambda _, one: masks.of(*one, find), pictures, range(max(1, job.threads)))
        for i, mask in enumerate(done):
            found[i] = mask
            bar.update(1)
    return found


_Known = Callable[[dict[str, str]], np.ndarray | None]
"""Row of the manifest → the mask of its face, None where nobody knows it."""


@contextmanager
def _known(params: Params, inputs: dict[str, Path]) -> Iterator[_Known]:
    """True masks where the faces are rendered, else given ones."""
    if "shapes" in inputs:
        shapes = artifacts.read_json(inputs["shapes"])
        yield lambda row: _true(shapes[row["id"]], params)
        return
    config = registry.config(params.data.source, str(inputs["raw"]))
    with registry.of(config).opened(config, inputs["raw"], params.data.max_pixels) as source:
        yield lambda row: _given(source, row, params) if row.get("mask") else None


def _true(drawn: dict[str, Any], params: Params) -> np.ndarray:
    png = embedded.render_mask(params.embedded.style, drawn["shape"], drawn["palette"], params.embedded.size)
    return normalise_grey(png, params.data.native_size, params.data.max_pixels)[0]


def _given(source: Source, row: dict[str, str], params: Params) -> np.ndarray:
    """Cut as the face is."""
    try:
        mask = opaque(source.read(row["mask"]), params.data.max_pixels).convert("L")
        of = (int(row["width"]), int(row["height"]))
        square = framing.square(mask, params.data.crop, framing.read(row.get("box")), of, paper="black")
        return resized(square, params.data.native_size)
    except Unreadable as error:
        raise UserError(f"{source.where}: {row['mask']}: {error.reason}; mend it and run stage masks again") from None
