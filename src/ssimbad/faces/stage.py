"""Stage faces: raw images of any source → one array per split, the manifest and the quarantine report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ssimbad import artifacts, files
from ssimbad.errors import UserError
from ssimbad.faces import examining, framing, shards
from ssimbad.faces.examining import Looks, Seen
from ssimbad.faces.reading import FORMATS, Unreadable
from ssimbad.faces.sources.contract import Picture, Source
from ssimbad.faces.splits import SPLITS, find_listed, offered_ids, read_list, split_ids
from ssimbad.pairing.references import require_apart
from ssimbad.params.blocks import Data
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job

COLUMNS = ("id", "split", "source", "sha256", "width", "height", "sketch")
FURTHER = ("mask", "identity", "box")
"""Columns that are there only where a face has such a thing."""

_STRAY = 0.05
"""Share of drawings among faces, from which on they are no chance."""


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Read, check, split and store every image of the source.

    Images are read twice, first to check them and then to store the chosen ones straight into their place:
    no copy of the data set is held in memory or in a scratch file (31,000 faces of 256² are 6 GB). Where shards have
    read them (`data.shards`), both is taken from these; the bytes are the same. Of identical images, by file or by
    normalised pixels, the first by name stays (one that the test list names stays before others).

    inputs: `raw` (folder or archive), and `shard_seen`, `shard_faces`, `shard_given` where there are shards (see
    `shards.run`). outputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy in manifest
    order), of sources that may have sketches `given_train`, `given_val`, `given_test` ((M, S, S) uint8 .npy, those of
    the rows that have one, in their order), `manifest` (CSV: id, split, source, sha256 of the file, width, height
    upright, sketch, and mask, identity and box where there are any) and `quarantine` (CSV: source, reason).

    Raises:
        UserError: no usable image, too few for the splits, the test list does not fit, or the source is not what it
            is said or seems to be.
    """
    data = params.data
    with examining.opened(data, Path(inputs["raw"]), job) as reader:
        source: Source = reader.source
        looks: Looks = shards.Gathered(inputs, reader) if "shard_seen" in inputs else reader
        pictures, seen = _faces(reader.pictures, looks.seen(job))
        if data.identity == "none":
            pictures = [replace(picture, identity="") for picture in pictures]
        listed = _listed(data.test_list, pictures)
        faults = {picture.name: seen[picture.id].fault for picture in pictures if seen[picture.id].fault}
        faults |= _drawings(source, [p for p in pictures if p.name not in faults], seen, data.drawings, job)
        first = {p.id for p in pictures if p.split == "test"} if data.splits == "path" else set()
        faults |= _duplicates([p for p in pictures if p.name not in faults], seen, first | set(listed or ()))
        quarantine = dict(source.listing.unused) | faults
        usable = {picture.id: picture for picture in pictures if picture.name not in faults}
        if not usable:
            raise UserError(_nothing_usable(source, quarantine))
        _check_listed(data.test_list, listed, pictures, faults)
        splits = _splits(data, usable, listed)
        require_apart(usable[id_].identity for id_ in splits["test"])
        refuse = partial(examining.changed, source.where, again=looks.again)
        for split in SPLITS:
            chosen, side = [usable[id_] for id_ in splits[split]], data.native_size
            _store(outputs[split], (side, side, 3), chosen, seen, looks.face, refuse, job)
            if given := outputs.get(f"given_{split}"):
                with_one = [picture for picture in chosen if picture.sketch]
                _store(given, (side, side), with_one, seen, looks.sketch, refuse, job)
    _write_manifest(outputs["manifest"], [(split, usable[id_]) for split in SPLITS for id_ in splits[split]], seen)
    artifacts.write_csv(outputs["quarantine"], ("source", "reason"), sorted(quarantine.items()))
    _report(job, outputs, splits, usable, quarantine)


def _splits(data: Data, usable: dict[str, Picture], listed: list[str] | None) -> dict[str, list[str]]:
    asked = (data.train, data.val, data.test, data.seed, listed)
    if data.splits == "drawn":
        return split_ids(usable, *asked)
    offered = {id_: picture.split for id_, picture in usable.items()}
    if not any(offered.values()):
        raise UserError("data.splits: path, but no folder of the source is called train, val or test; set it to drawn")
    return offered_ids(offered, *asked)


def _faces(pictures: list[Picture], found: list[list[Seen]]) -> tuple[list[Picture], dict[str, Seen]]:
    """Every face of every picture, and what is to be said of it by its id."""
    taken = {picture.id.casefold() for picture in pictures}
    faces, seen = [], {}
    for picture, ones in zip(pictures, found, strict=True):
        for number, one in enumerate(ones, 1):
            face = replace(picture, box=one.box)
            if number > 1:
                id_, name = _further_id(picture.id, number, taken), f"{picture.name} (face {number})"
                face = replace(face, id=id_, name=name, file=picture.name)
            faces.append(face)
            seen[face.id] = one
    return faces, seen


def _further_id(id_: str, number: int, taken: set[str]) -> str:
    """Of the second and further faces of a picture: `id-2`, or what is like it and not `taken`; it is added there."""
    found = f"{id_}-{number}"
    while found.casefold() in taken:
        found = f"{found}-{number}"
    taken.add(found.casefold())
    return found


def _drawings(
    source: Source, pictures: list[Picture], seen: Mapping[str, Seen], asked: str, job: Job
) -> dict[str, str]:
    """{name: reason} of the faces that look like line drawings, where they are to be left out."""
    found = [picture.name for picture in pictures if seen[picture.id].drawing]
    if not found or asked == "keep":
        return {}
    what = f"{len(found)} of {len(pictures)} faces look like line drawings (hardly any colour, much white)"
    if asked == "quarantine":
        job.say(f"faces: {source.where}: {what}: quarantined")
        return dict.fromkeys(found, "looks like a line drawing (data.drawings)")
    if len(found) >= _STRAY * len(pictures):
        raise UserError(
            f"{source.where}: {what}, such as {found[0]}; if they are sketches of the others, say what marks them: "
            "data.source: {kind: folder, path: …, colour: …, sketch: …}; else set data.drawings to quarantine, or to "
            "keep if they are faces"
        )
    job.say(
        f"faces: {source.where}: {what}, such as {found[0]}; they are kept (data.drawings: quarantine takes them out)"
    )
    return {}


def _duplicates(pictures: list[Picture], seen: Mapping[str, Seen], first: set[str]) -> dict[str, str]:
    """{name: reason} of every image that repeats one before it; ids in `first` come before all others."""
    owners: dict[str, str] = {}
    faults = {}
    for picture in sorted(pictures, key=lambda p: (p.id not in first, p.name)):
        pixels = seen[picture.id].pixels
        if pixels in owners:
            faults[picture.name] = f"duplicate of {owners[pixels]}"
        else:
            owners[pixels] = picture.name
    return faults


def _listed(test_list: str | None, pictures: list[Picture]) -> list[str] | None:
    if test_list is None:
        return None
    try:
        with Path(test_list).open("rb") as file:
            listed = read_list(files.lines(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{test_list}: cannot be read ({error}); check data.test_list") from None
    return find_listed(listed, {p.id: p.name for p in pictures}, test_list)


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
    path: Path,
    row: tuple[int, ...],
    chosen: list[Picture],
    seen: Mapping[str, Seen],
    square: Callable[[Picture, Seen], np.ndarray | None],
    refuse: Callable[[str], UserError],
    job: Job,
) -> None:
    """(N, *row) uint8, written row by row under a temporary name."""

    lines = len(row) == 2

    def drawn(picture: Picture) -> np.ndarray:
        try:
            image = square(picture, seen[picture.id])
        except Unreadable:
            image = None
        if image is None:
            raise refuse(picture.sketch if lines else picture.name)
        return image

    what = "sketches" if lines else "faces"
    with artifacts.growing(path, row) as put:
        for image in examining.parallel(drawn, chosen, job, f"{path.stem.removeprefix('given_')} {what} stored"):
            put(image)


def _write_manifest(path: Path, chosen: list[tuple[str, Picture]], seen: Mapping[str, Seen]) -> None:
    rows = []
    for split, picture in chosen:
        one = seen[picture.id]
        values = (picture.id, split, picture.name, one.sha256, one.width, one.height, picture.sketch)
        rows.append(dict(zip(COLUMNS, values, strict=True)) | {"mask": picture.mask, "identity": picture.identity})
        rows[-1]["box"] = framing.written(picture.box)
    further = [name for name in FURTHER if any(row[name] for row in rows)]
    artifacts.write_csv(path, [*COLUMNS, *further], rows)


def _nothing_usable(source: Source, quarantine: dict[str, str]) -> str:
    if not quarantine:
        return f"{source.where}: holds no image; put {', '.join(FORMATS)} files there or change data.path"
    first = "; ".join(f"{name}: {reason}" for name, reason in sorted(quarantine.items())[:3])
    return f"{source.where}: none of {len(quarantine)} files is a usable image ({first}); check data.path"


def _report(job: Job, outputs: dict, splits: dict, usable: dict, quarantine: dict[str, str]) -> None:
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    left = len(usable) - sum(map(len, splits.values()))
    job.say(f"faces: {counts} -> {outputs['manifest']} ({left} more not asked for)")
    job.say(f"faces: {len(quarantine)} quarantined -> {outputs['quarantine']}")
