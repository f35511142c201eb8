"""Stage face_shard: a block of a source's pictures, looked at once; and what stage faces gathers of all blocks.

Whether a face is used depends on all of them: on duplicates, drawings, splits. So a shard keeps what was seen of each
picture and the square of each face without a fault, and decides nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import examining
from ssimbad.faces.examining import Reader, Seen
from ssimbad.faces.sources.contract import Picture
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Read and check the pictures of one shard: a contiguous part of the source's listing.

    inputs: `raw` (folder or archive). outputs: `seen` (JSON: a list of {"name", "faces"}, a picture each, the faces as
    `examining.Seen`), `faces` ((M, S, S, 3) uint8 .npy: the faces without a fault, in this order) and, of sources that
    may have sketches, `given` ((K, S, S) uint8 .npy: of those faces that have one).

    Raises:
        UserError: the source cannot be opened, or is not what it is said or seems to be.
    """
    data, side = params.data, params.data.native_size
    told: list[dict[str, Any]] = []
    with examining.opened(data, Path(inputs["raw"]), job) as reader, ExitStack() as stack:
        block = reader.pictures[job.block(len(reader.pictures), data.shards)]
        put = stack.enter_context(artifacts.growing(outputs["faces"], (side, side, 3)))
        put_given = (
            stack.enter_context(artifacts.growing(outputs["given"], (side, side))) if "given" in outputs else None
        )
        found = examining.parallel(lambda p: _drawn(reader, p), block, job, "pictures read")
        for picture, faces in zip(block, found, strict=True):
            told.append({"name": picture.name, "faces": [asdict(seen) for seen, _, _ in faces]})
            for _, square, sketch in faces:
                if square is not None:
                    put(square)
                if put_given and sketch is not None:
                    put_given(sketch)
    artifacts.write_json(outputs["seen"], told)
    job.say(f"{job.name}: {len(block)} of {len(reader.pictures)} pictures -> {outputs['faces']}")


def _drawn(reader: Reader, picture: Picture) -> list[tuple[Seen, np.ndarray | None, np.ndarray | None]]:
    looks = examining.examine(reader, picture)
    return [(look.seen, look.square, look.sketch() if look.sketch else None) for look in looks]


class Gathered:
    """`examining.Looks` of those who have read: squares are copied, and files only read to see that they are the same.

    A stage's inputs `shard_seen`, `shard_faces` and, of sources that may have sketches, `shard_given`: of each shard
    the file that `run` writes.

    Raises:
        UserError: the source has other pictures now, or a file is missing or of another shard.
    """

    again = "run again, the stage face_shard first"

    def __init__(self, inputs: dict[str, Any], reader: Reader) -> None:
        self._reader = reader
        told = [one for path in inputs["shard_seen"] for one in artifacts.read_json(path)]
        now = [picture.name for picture in reader.pictures]
        for then, name in zip_longest((one["name"] for one in told), now):
            if then != name:
                raise examining.changed(reader.source.where, name or then, self.again)
        self._seen = [[_seen(face) for face in one["faces"]] for one in told]
        faces = [
            (picture, seen)
            for picture, ones in zip(reader.pictures, self._seen, strict=True)
            for seen in ones
            if not seen.fault
        ]
        self._faces = _Rows(inputs["shard_faces"], faces)
        self._given = _Rows(inputs.get("shard_given", []), [face for face in faces if face[1].sketch])

    def seen(self, job: Job) -> list[list[Seen]]:
        return self._seen

    def face(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        return self._faces.of(picture) if self._same(picture.content, seen.sha256) else None

    def sketch(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        return self._given.of(picture) if self._same(picture.sketch, seen.sketch) else None

    def _same(self, name: str, sha256: str) -> bool:
        return examining.digest(self._reader.source.read(name)) == sha256


def _seen(told: dict[str, Any]) -> Seen:
    return replace(Seen(**told), box=tuple(told["box"]) if told["box"] else None)


class _Rows:
    """Rows of several arrays, one array after the other, by the face that each is of: a file, and where in it."""

    def __init__(self, paths: list[Path], faces: list[tuple[Picture, Seen]]) -> None:
        self._arrays = [artifacts.read_array(path) for path in paths]
        self._ends = np.cumsum([len(array) for array in self._arrays])
        if paths and self._ends[-1] != len(faces):
            raise UserError(
                f"{paths[0].parent}: {self._ends[-1]} rows for the {len(faces)} faces that were seen; run stage "
                "face_shard again"
            )
        self._places = {(picture.content, seen.box): row for row, (picture, seen) in enumerate(faces)}

    def of(self, picture: Picture) -> np.ndarray:
        row = self._places[picture.content, picture.box]
        array = int(np.searchsorted(self._ends, row, side="right"))
        return self._arrays[array][row - self._ends[array]]  # counted from its end
