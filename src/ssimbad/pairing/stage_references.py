"""Stage references: warped references of the test faces, and who is whose reference."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import embedded, manifest
from ssimbad.faces.reading import Unreadable, normalise
from ssimbad.files import BROKEN
from ssimbad.pairing import protocol, references, resize, tps
from ssimbad.params.tree import Params
from ssimbad.runtime import pool
from ssimbad.runtime.job import Job

CHUNK = 64  # faces warped between two updates of the progress bar


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """The warped references of the test set and the cross pairing.

    inputs: `test` ((N, S, S, 3) uint8 .npy), `manifest`, `pairs` (CSV) where a cross pairing is given, for embedded
    faces `shapes` (JSON: {id: {"shape", "palette"}}), and of those before scenes `landscapes` (zip of `<id>.png`).
    outputs: `same`, `cross`, `other` ((N, S, S, 3) uint8 .npy: the warped face itself, its cross partner's
    and somebody else's), `pairing` (CSV: id, cross, other), for embedded faces `true` ((N, S, S, 3) uint8
    .npy: the sketch's shape in the cross partner's colours), before scenes `scene` (the cross partner's landscape
    without its figure, warped as that face), and where `references.companions` asks for them `companions`
    ((M, S, S, 3) uint8 .npy: to each training face another in its colours).

    Raises:
        UserError: the manifest does not belong to the faces, they are fewer than three, or of one there is no shape or
            landscape.
    """
    seed = params.references.seed
    ids = manifest.ids(inputs["manifest"], "test")
    faces = manifest.images(inputs["test"], ids)
    rows = manifest.rows(inputs["manifest"], "test")
    cross, other = protocol.partners(rows, seed, inputs.get("pairs"))
    warps = tps.draw(seed, ids, params.references)
    same = _warped(faces, warps, job)
    place = {id_: i for i, id_ in enumerate(ids)}
    artifacts.write_array(outputs["same"], same)
    artifacts.write_array(outputs["cross"], same[[place[cross[i]] for i in ids]])
    artifacts.write_array(outputs["other"], same[[place[other[i]] for i in ids]])
    artifacts.write_csv(outputs["pairing"], ("id", "cross", "other"), [(i, cross[i], other[i]) for i in ids])
    if "true" in outputs:
        _draw(outputs["true"], inputs["shapes"], [(i, cross[i]) for i in ids], params, job)
    if "companions" in outputs:
        train = manifest.ids(inputs["manifest"], "train")
        shapes = references.derangement(train, seed)
        _draw(outputs["companions"], inputs["shapes"], [(shapes[i], i) for i in train], params, job)
    if "scene" in outputs:
        scenes = _warped(_members(inputs["landscapes"], [f"{i}.png" for i in ids], params), warps, job)
        artifacts.write_array(outputs["scene"], scenes[[place[cross[i]] for i in ids]])
    job.say(f"references: {len(ids)} warped and paired -> {outputs['same'].parent}")


def _warped(faces: np.ndarray, warps: tps.Warp, job: Job) -> np.ndarray:
    """In float64, whose bytes do not depend on the machine's instruction set or its number of threads."""
    same = np.empty(faces.shape, np.uint8)

    def warped(_: int, start: int) -> tuple[int, np.ndarray]:
        part = slice(start, start + CHUNK)
        return start, resize.to_bytes(tps.warp(resize.to_unit(faces[part]).double(), warps[part]))

    with job.progress(len(faces), "references") as bar:
        for start, images in pool.ordered_map(warped, range(0, len(faces), CHUNK), range(max(1, job.threads))):
            same[start : start + len(images)] = images
            bar.update(len(images))
    return same


def _draw(path: Path, shapes: Path, pairs: list[tuple[str, str]], params: Params, job: Job) -> None:
    """(N, S, S, 3) uint8: the shape of the first of each pair in the palette of the second, read as the faces are."""
    drawn, data, size = artifacts.read_json(shapes), params.data, params.data.native_size
    if missing := next((id_ for pair in pairs for id_ in pair if id_ not in drawn), None):
        raise UserError(f"{shapes}: has no {missing}; run stage raw again")
    with artifacts.growing(path, (size, size, 3)) as put, job.progress(len(pairs), path.stem) as bar:
        for own, other in pairs:
            shape, palette = drawn[own]["shape"], drawn[other]["palette"]
            png = embedded.render(params.embedded.style, shape, palette, params.embedded.size)
            put(normalise(png, size, data.max_pixels)[0])
            bar.update(1)


def _members(path: Path, names: list[str], params: Params) -> np.ndarray:
    """(N, S, S, 3) uint8 of the named members, read as the faces are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return np.stack(
                [normalise(archive.read(n), params.data.native_size, params.data.max_pixels)[0] for n in names]
            )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; run stage raw again") from None
    except (*BROKEN, Unreadable) as error:
        raise UserError(f"{path}: not a readable archive of PNGs ({error}); run stage raw again") from None
