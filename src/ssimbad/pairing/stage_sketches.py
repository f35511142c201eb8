"""Stages sketches and sketch_shard: faces → line drawings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import manifest
from ssimbad.pairing import styles, xdog
from ssimbad.params.blocks import Sketches
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job

SPLITS = ("train", "val", "test")
CHUNK = 64  # faces drawn between two updates of the progress bar


def run(params: Params, inputs: Mapping[str, Any], outputs: dict[str, Path], job: Job) -> None:
    """A sketch for every face: XDoG of the stored face, or the given one where the source has it.

    Given ones are copied, since the rows of an output are those of the manifest, drawn and given ones among each other.

    inputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy), `manifest`, of sources that may have sketches
    `given_train`, `given_val`, `given_test` ((M, S, S) uint8 .npy of the rows that have one), which are used as they
    are, and `shards`, the files of `run_shard`, where those have drawn.
    outputs: `train`, `val`, `test` ((N, S, S) uint8 .npy, 255 = white paper, in manifest order), and where
    `sketches.styles` asks for them `styles` ((N, K, S, S) uint8 .npy: those of train in each of the K styles).

    Raises:
        UserError: the manifest does not belong to the arrays.
    """
    wanted = [_Wanted(split, inputs) for split in SPLITS]
    shards = inputs.get("shards")
    joined = _joined(shards, sum(len(one.rows) for one in wanted)) if shards else None
    for one in wanted:
        drawn = _drawn(one, one.rows, params.sketches, job) if joined is None else joined
        given = iter(manifest.images(inputs[f"given_{one.split}"], one.given) if one.given else ())
        has = set(one.given)
        with artifacts.growing(outputs[one.split], one.faces.shape[1:3]) as put:
            for row in range(len(one.faces)):
                put(next(given if row in has else drawn))
        if one.split == "train" and "styles" in outputs:
            _draw_styles(artifacts.read_array(outputs["train"]), one.ids, params.sketches, outputs["styles"], job)
        job.say(f"sketches: {len(one.faces)} of {one.split} ({len(has)} given) -> {outputs[one.split]}")


def run_shard(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """The sketches that are to be drawn of one shard: a contiguous part of all faces without a given one.

    inputs: `train`, `val`, `test`, `manifest` as of `run`. outputs: `sketches` ((M, S, S) uint8 .npy).

    Raises:
        UserError: the manifest does not belong to the arrays.
    """
    wanted = [_Wanted(split, inputs) for split in SPLITS]
    block = job.block(sum(len(one.rows) for one in wanted), params.data.shards)
    start = 0
    with artifacts.growing(outputs["sketches"], wanted[0].faces.shape[1:3]) as put:
        for one in wanted:
            mine = one.rows[max(0, block.start - start) : max(0, block.stop - start)]
            for sketch in _drawn(one, mine, params.sketches, job):
                put(sketch)
            start += len(one.rows)
    job.say(f"{job.name}: {block.stop - block.start} of {start} sketches -> {outputs['sketches']}")


class _Wanted:
    """A split's faces, and which of them have a sketch already. Raises UserError as `manifest.images`."""

    def __init__(self, split: str, inputs: Mapping[str, Path]) -> None:
        mine = manifest.rows(inputs["manifest"], split)
        self.split, self.ids = split, [row["id"] for row in mine]
        self.faces = manifest.images(inputs[split], self.ids)
        self.given = [i for i, row in enumerate(mine) if row["sketch"]]
        self.rows = [i for i, row in enumerate(mine) if not row["sketch"]]
        """Of those that are to be drawn."""


def _drawn(one: _Wanted, rows: list[int], sketches: Sketches, job: Job) -> Iterator[np.ndarray]:
    """(S, S) uint8 of each of the rows."""
    if not rows:
        return
    sigmas = xdog.draw_sigma([one.ids[i] for i in rows], sketches.seed, sketches)
    with job.progress(len(rows), f"{one.split} sketches") as bar:
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            yield from xdog.sketch(one.faces[rows[part]], sigmas[part], sketches, job.threads)
            bar.update(len(sigmas[part]))


def _draw_styles(sheet: np.ndarray, ids: list[str], sketches: Sketches, path: Path, job: Job) -> None:
    names = sketches.styles
    with artifacts.replacing(path) as temporary, job.progress(len(ids), "train styles") as bar:
        every = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(ids), len(names), *sheet.shape[1:]))
        for start in range(0, len(ids), CHUNK):
            part = slice(start, start + CHUNK)
            for i, name in enumerate(names):
                every[part, i] = styles.drawn(sheet[part], ids[part], name, sketches.seed)
            bar.update(len(ids[part]))
        every.flush()


def _joined(shards: list[Path], count: int) -> Iterator[np.ndarray]:
    """The sketches of all shards. Raises UserError where they are not as many."""
    arrays = [artifacts.read_array(path) for path in shards]
    if (there := sum(map(len, arrays))) != count:
        raise UserError(f"{shards[0].parent}: {there} sketches for {count} faces; run stage sketch_shard again")
    return (sketch for array in arrays for sketch in array)
