"""Stage colorize: weights + test sketches + references → one archive of PNGs, one per test id."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.files import BROKEN
from ssimbad.methods import registry
from ssimbad.methods.contract import MASKS
from ssimbad.pairing import resize
from ssimbad.params.tree import Params
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job

Paths = dict[str, Path]
_STORED = {
    "sketch": "sketches", "reference": "references", "face": "faces",
    "mask": "masks", "reference_mask": "reference_masks",
}  # fmt: skip
"""Which input of a stage holds what a method is given."""
PART = 1024
"""Images after which a part is saved, from which a stage that was stopped goes on."""


def run(params: Params, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Colour the test set in one reference setting, chunks of ids spread over the devices of the job or its cores.

    What was coloured before the stage was stopped is taken over, part by part, from the job's scratch.
    """
    places = devices.visible()
    loaded = {
        device: load.trained(inputs["weights"], device, params.training.channels_last)
        for device in dict.fromkeys(places)
    }
    first = loaded[places[0]]
    artists = [
        (chunks.bound(first.method, loaded[device].model), device) for device in devices.workers(places, job.threads)
    ]
    colour = params.methods[job.method].colour[job.of]
    precision = devices.precision(params.training.precision, places[0])
    ids, chunk = manifest.ids(inputs["manifest"], "test"), params.colorize.chunk
    shown = given(inputs, ids, params.data.size)

    def paint(start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        pieces = chunks.pieces(
            artists, {name: images.part(start, stop) for name, images in shown.items()}, ids[start:stop], colour,
            chunk=chunk, seed=params.colorize.seed,
            precision=precision, channels_last=params.training.channels_last,
        )  # fmt: skip
        for names, images in pieces:
            yield from ((f"{name}.png", artifacts.png_bytes(image)) for name, image in zip(names, images, strict=True))

    started, parts = time.perf_counter(), _Parts(job, ids, chunk * -(-PART // chunk))
    artifacts.write_zip(outputs["images"], parts.members(paint))
    seconds = time.perf_counter() - started
    job.note_cost(
        phase="colorize",
        images=parts.painted,
        seconds=seconds,
        seconds_per_image=seconds / parts.painted,
        nfe=registry.nfe(first.setup.kind, colour),
        parameters=first.parameters,
        device=devices.name(places[0]),
        precision=precision,
        devices=len(places),
    )
    job.say(f"{job.name}: {len(ids)} images {colour.words} -> {outputs['images']}")


def given(inputs: Mapping[str, Path], ids: list[str], size: int) -> dict[str, chunks.Stored]:
    """What of the test set a method is given, by the names of `Conditions`."""
    return {
        name: chunks.Stored(
            manifest.images(inputs[stored], ids), size, resize.to_share if name in MASKS else resize.to_unit
        )
        for name, stored in _STORED.items()
        if stored in inputs
    }


class _Parts:
    """The test set in parts of so many images; all but the last are saved once they are coloured."""

    def __init__(self, job: Job, ids: list[str], size: int) -> None:
        self._job, self._ids, self._size = job, ids, size
        self.painted = 0
        """Images that were coloured and not taken over."""

    def members(self, paint: Callable[[int, int], Iterator[tuple[str, bytes]]]) -> Iterator[tuple[str, bytes]]:
        """(name, PNG) of all ids in order; `paint` colours those of [start, stop)."""
        starts = range(0, len(self._ids), self._size)
        saved = {start: found for start in starts[:-1] if (found := self._saved(start)) is not None}
        done = sum(map(len, saved.values()))
        if done:
            self._job.say(f"{self._job.name}: {done} images of {self._job.scratch} taken over")
        with self._job.progress(len(self._ids), "images", done) as bar:
            for start in starts:
                if start in saved:
                    yield from saved[start]
                    continue
                part = []
                for member in paint(start, start + self._size):
                    part.append(member)
                    bar.update(1)
                self.painted += len(part)
                if start != starts[-1]:
                    self._job.confirm()
                    artifacts.write_zip(self._path(start), part)
                yield from part

    def _path(self, start: int) -> Path:
        return self._job.scratch / f"state-{start:012d}.zip"

    def _saved(self, start: int) -> list[tuple[str, bytes]] | None:
        """What was saved of a part, if it is whole."""
        names = [f"{id_}.png" for id_ in self._ids[start : start + self._size]]
        try:
            with zipfile.ZipFile(self._path(start)) as archive:
                return [(name, archive.read(name)) for name in names] if archive.namelist() == names else None
        except BROKEN:
            return None
