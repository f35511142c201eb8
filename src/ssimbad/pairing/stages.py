"""Stages sketches and references: faces → line drawings, warped references and who is whose reference."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import manifest
from ssimbad.job import Job
from ssimbad.pairing import references, resize, xdog
from ssimbad.params import View

if TYPE_CHECKING:
    from ssimbad.pairing import tps

SPLITS = ("train", "val", "test")
_CHUNK = 64  # faces drawn or warped between two updates of the progress bar


def run_sketches(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """A sketch for every face: XDoG of the stored face, or the given one where the source has it.

    inputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy), `manifest`, and `raw` where the source is a
    folder (for given sketches, which are read the way faces are and otherwise used as they are).
    outputs: `train`, `val`, `test` ((N, S, S) uint8 .npy, 255 = white paper, in manifest order).

    Raises:
        UserError: the manifest does not belong to the arrays, or a given sketch cannot be read.
    """
    law = xdog.XDoG(**{name: getattr(params.sketches, name) for name in ("sigmas", "k", "p", "epsilon", "phi")})
    for split in SPLITS:
        mine = manifest.rows(inputs["manifest"], split)
        ids = [row["id"] for row in mine]
        faces = manifest.images(inputs[split], ids)
        given = {i: row["sketch"] for i, row in enumerate(mine) if row["sketch"]}
        with artifacts.replacing(outputs[split]) as temporary:
            sheet = np.lib.format.open_memmap(temporary, "w+", np.uint8, faces.shape[:3])
            _draw(faces, ids, params.sketches.seed, law, sheet, job, split)
            if given:
                _put_given(given, inputs["raw"], sheet, params.data.max_pixels, job)
            sheet.flush()
        job.say(f"sketches: {len(mine)} of {split} ({len(given)} given) -> {outputs[split]}")


def _draw(
    faces: np.ndarray, ids: list[str], seed: int, law: xdog.XDoG, sheet: np.ndarray, job: Job, split: str
) -> None:
    sigmas = xdog.draw_sigma(ids, seed, law)
    with job.progress(len(ids), f"{split} sketches") as bar:
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            sheet[part] = xdog.sketch(faces[part], sigmas[part], law, job.threads)
            bar.update(len(sigmas[part]))


def _put_given(names: dict[int, str], raw: Path, sheet: np.ndarray, max_pixels: int, job: Job) -> None:
    """Given sketches in place of drawn ones; `names` is {row: name inside the source}."""
    from ssimbad.faces.reading import Unreadable, normalise_grey
    from ssimbad.faces.sources import open_source

    with open_source(raw, max_pixels) as source, job.progress(len(names), "given sketches") as bar:
        for row, name in names.items():
            try:
                sheet[row] = normalise_grey(source.read(name), sheet.shape[1], max_pixels)[0]
            except Unreadable as error:
                raise UserError(f"{raw}: {name}: {error.reason}; mend it and run stage faces again") from None
            bar.update(1)


def run_references(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """The warped references of the test set and the cross pairing.

    inputs: `test` ((N, S, S, 3) uint8 .npy), `manifest`, and for embedded faces `answers` (zip of
    `<sketch id>__<reference id>.png`).
    outputs: `same`, `cross`, `other` ((N, S, S, 3) uint8 .npy: the warped face itself, its cross partner's
    and somebody else's), `pairing` (CSV: id, cross, other) and for embedded faces `true` ((N, S, S, 3) uint8
    .npy: the sketch's shape in the cross partner's colours).

    Raises:
        UserError: the manifest does not belong to the faces, they are fewer than three, or an answer is
        missing.
    """
    from ssimbad.pairing import tps  # torch: slow to import, and stage sketches does without

    law = tps.Law(**{name: getattr(params.references, name) for name in ("low", "high", "shift", "decimals")})
    seed = params.references.seed
    ids = manifest.ids(inputs["manifest"], "test")
    faces = manifest.images(inputs["test"], ids)
    cross = references.derangement(ids, seed)
    other = references.second(ids, seed, cross)
    same = _warped(faces, tps.draw(seed, ids, law), job)
    place = {id_: i for i, id_ in enumerate(ids)}
    artifacts.write_array(outputs["same"], same)
    artifacts.write_array(outputs["cross"], same[[place[cross[i]] for i in ids]])
    artifacts.write_array(outputs["other"], same[[place[other[i]] for i in ids]])
    _write_pairing(outputs["pairing"], [(i, cross[i], other[i]) for i in ids])
    if "true" in outputs:
        answers = _answers(inputs["answers"], [f"{i}__{cross[i]}.png" for i in ids], params)
        artifacts.write_array(outputs["true"], answers)
    job.say(f"references: {len(ids)} warped and paired -> {outputs['same'].parent}")


def _warped(faces: np.ndarray, warps: tps.Warp, job: Job) -> np.ndarray:
    """In float64, whose bytes do not depend on the machine's instruction set or its number of threads."""
    from ssimbad.pairing import tps

    same = np.empty(faces.shape, np.uint8)
    with job.progress(len(faces), "references") as bar:
        for start in range(0, len(faces), _CHUNK):
            part = slice(start, start + _CHUNK)
            images = resize.to_unit(faces[part]).double()
            same[part] = resize.to_bytes(tps.warp(images, warps[part]))
            bar.update(len(images))
    return same


def _write_pairing(path: Path, rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("id", "cross", "other"), *rows])
    artifacts.write_text(path, text.getvalue())


def _answers(path: Path, names: list[str], params: View) -> np.ndarray:
    """(N, S, S, 3) uint8 of the named members, read as the faces are."""
    from ssimbad.faces.reading import Unreadable, normalise

    try:
        with zipfile.ZipFile(path) as archive:
            return np.stack(
                [normalise(archive.read(n), params.data.native_size, params.data.max_pixels)[0] for n in names]
            )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; run stage raw again") from None
    except (OSError, zipfile.BadZipFile, Unreadable) as error:
        raise UserError(f"{path}: not a readable archive of PNGs ({error}); run stage raw again") from None
