"""Stage faces: raw images of any source → one array per split, the manifest and the quarantine report."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces.reading import Unreadable, normalise, normalise_grey
from ssimbad.faces.sources import Picture, Source, open_source
from ssimbad.faces.splits import SPLITS, find_listed, read_list, split_ids
from ssimbad.params.view import View
from ssimbad.runtime.job import Job
from ssimbad.runtime.pool import ordered_map

COLUMNS = ("id", "split", "source", "sha256", "width", "height", "sketch")

# A given sketch may be scaled, but not cut differently from its face: the share by which its proportions
# may differ.
_PROPORTION = 0.02


@dataclass(frozen=True)
class _Examined:
    """What the first reading leaves behind: digests of file and pixels, size, and what is wrong."""

    sha256: str = ""
    pixels: str = ""
    width: int = 0
    height: int = 0
    fault: str = ""


def run(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Read, check, split and store every image of the source.

    Images are read twice, first to check them and then to store the chosen ones straight into their place:
    no copy of the data set is held in memory or in a scratch file (31,000 faces of 256² are 6 GB). Of
    identical images, by file or by normalised pixels, the first by name stays (one that the test list names
    stays before others).

    inputs: `raw` (folder or .zip). outputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy in manifest
    order), `manifest` (CSV: id, split, source, sha256 of the file, width, height upright, sketch) and
    `quarantine` (CSV: source, reason).

    Raises:
        UserError: no usable image, too few for the splits, or the test list does not fit.
    """
    data = params.data
    with open_source(Path(inputs["raw"]), data.max_pixels) as source:
        pictures, quarantine = source.pictures()
        examined = _examine_all(source, pictures, data, job)
        listed = _listed(data.test_list, pictures)
        faults = {picture.name: examined[picture.id].fault for picture in pictures if examined[picture.id].fault}
        faults |= _duplicates([p for p in pictures if p.name not in faults], examined, set(listed or ()))
        quarantine |= faults
        usable = {picture.id: picture for picture in pictures if picture.name not in faults}
        if not usable:
            raise UserError(_nothing_usable(source, quarantine))
        _check_listed(data.test_list, listed, pictures, faults)
        splits = split_ids(usable, data.train, data.val, data.test, data.seed, listed)
        for split in SPLITS:
            chosen = [usable[id_] for id_ in splits[split]]
            _store(outputs[split], chosen, source, examined, data, job)
    rows = [_row(split, usable[id_], examined[id_]) for split in SPLITS for id_ in splits[split]]
    artifacts.write_csv(outputs["manifest"], COLUMNS, rows)
    artifacts.write_csv(outputs["quarantine"], ("source", "reason"), sorted(quarantine.items()))
    _report(job, outputs, splits, usable, quarantine)


def _examine_all(source: Source, pictures: list[Picture], data: Any, job: Job) -> dict[str, _Examined]:
    found = _parallel(lambda p: _examine(source, p, data), pictures, job, "faces read")
    return {picture.id: result for picture, result in zip(pictures, found, strict=True)}


def _examine(source: Source, picture: Picture, data: Any) -> _Examined:
    try:
        content = source.read(picture.name)
        image, (width, height) = normalise(content, data.native_size, data.max_pixels)
    except Unreadable as error:
        return _Examined(fault=error.reason)
    fault = _sketch_fault(source, picture.sketch, width / height, data) if picture.sketch else ""
    return _Examined(hashlib.sha256(content).hexdigest(), _digest(image), width, height, fault)


def _sketch_fault(source: Source, sketch: str, proportion: float, data: Any) -> str:
    """Why a given sketch cannot serve; checked here, so that no face is kept whose sketch fails later."""
    try:
        _, (width, height) = normalise_grey(source.read(sketch), data.native_size, data.max_pixels)
    except Unreadable as error:
        return f"its sketch {sketch}: {error.reason}"
    if abs(width / height / proportion - 1) > _PROPORTION:
        return f"its sketch {sketch}: {width} × {height}, other proportions than the face"
    return ""


def _duplicates(pictures: list[Picture], examined: dict[str, _Examined], first: set[str]) -> dict[str, str]:
    """{name: reason} of every image that repeats one before it; ids in `first` come before all others."""
    owners: dict[str, str] = {}
    faults = {}
    for picture in sorted(pictures, key=lambda p: (p.id not in first, p.name)):
        seen = examined[picture.id]
        if seen.pixels in owners:
            faults[picture.name] = f"duplicate of {owners[seen.pixels]}"
        else:
            owners[seen.pixels] = picture.name
    return faults


def _listed(test_list: str | None, pictures: list[Picture]) -> list[str] | None:
    if test_list is None:
        return None
    try:
        text = Path(test_list).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{test_list}: cannot be read ({error}); check data.test_list") from None
    return find_listed(read_list(text), {p.id: p.name for p in pictures}, test_list)


def _check_listed(
    test_list: str | None, listed: list[str] | None, pictures: list[Picture], faults: dict[str, str]
) -> None:
    """Raise for a listed image that cannot be used: a given test set must not shrink in silence."""
    names = {picture.id: picture.name for picture in pictures}
    for id_ in listed or ():
        if names[id_] in faults:
            raise UserError(
                f"{test_list}: {names[id_]} cannot be used ({faults[names[id_]]}); mend the image or take its line out"
            )


def _store(
    path: Path, chosen: list[Picture], source: Source, examined: dict[str, _Examined], data: Any, job: Job
) -> None:
    """(N, S, S, 3) uint8, written row by row into a memory map under a temporary name."""
    side = data.native_size
    with artifacts.replacing(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(chosen), side, side, 3))

        def put(row: int) -> None:
            picture = chosen[row]
            try:
                image, _ = normalise(source.read(picture.name), side, data.max_pixels)
            except Unreadable:
                image = None
            if image is None or _digest(image) != examined[picture.id].pixels:
                raise UserError(f"{source.where}: {picture.name} changed while it was being read; run again")
            array[row] = image

        _parallel(put, range(len(chosen)), job, f"{path.stem} faces stored")
        array.flush()


def _parallel(function: Callable, items: Sequence, job: Job, unit: str) -> list:
    """Results in the order of the items. Threads suffice: Pillow works without the interpreter lock."""
    results = []
    with job.progress(len(items), unit) as bar:
        for result in ordered_map(lambda _, item: function(item), items, range(max(1, job.threads))):
            results.append(result)
            bar.update(1)
    return results


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _row(split: str, picture: Picture, seen: _Examined) -> tuple:
    return (picture.id, split, picture.name, seen.sha256, seen.width, seen.height, picture.sketch)


def _nothing_usable(source: Source, quarantine: dict[str, str]) -> str:
    if not quarantine:
        return f"{source.where}: holds no image; put PNG, JPEG, WebP, BMP or GIF files there or change data.path"
    first = "; ".join(f"{name}: {reason}" for name, reason in sorted(quarantine.items())[:3])
    return f"{source.where}: none of {len(quarantine)} files is a usable image ({first}); check data.path"


def _report(job: Job, outputs: dict, splits: dict, usable: dict, quarantine: dict[str, str]) -> None:
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    left = len(usable) - sum(map(len, splits.values()))
    job.say(f"faces: {counts} -> {outputs['manifest']} ({left} more not asked for)")
    job.say(f"faces: {len(quarantine)} quarantined -> {outputs['quarantine']}")
