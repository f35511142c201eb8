"""Stage faces: raw images of any source → one array per split, the manifest and the quarantine report."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import framing, halves
from ssimbad.faces.reading import FORMATS, Unreadable, opaque, resized
from ssimbad.faces.sources import registry
from ssimbad.faces.sources.contract import Picture, Source
from ssimbad.faces.splits import SPLITS, find_listed, offered_ids, read_list, split_ids
from ssimbad.pairing.references import require_apart
from ssimbad.params.view import View
from ssimbad.runtime.job import Job
from ssimbad.runtime.pool import ordered_map

COLUMNS = ("id", "split", "source", "sha256", "width", "height", "sketch")
FURTHER = ("mask", "identity", "box")
"""Columns that are there only where a face has such a thing."""

# A given sketch may be scaled, but not cut differently from its face: the share by which its proportions
# may differ.
_PROPORTION = 0.02
_LONGEST = 4
"""Of a picture's sides, how often the long one may hold the short one."""
_ENLARGED = 4
"""How often `native_size` may hold a picture's short side."""
_FLAT = 3
"""Levels of 255 within which one colour is one colour, JPEG's rounding included."""
_STRAY = 0.05
"""Share of drawings among faces, from which on they are no chance."""


@dataclass(frozen=True)
class _Examined:
    """What the first reading leaves behind: digests of file and pixels, size, and what is wrong."""

    sha256: str = ""
    pixels: str = ""
    width: int = 0
    height: int = 0
    fault: str = ""
    drawing: bool = False


@dataclass(frozen=True)
class _Reader:
    """How pictures of a source become faces and sketches."""

    source: Source
    size: int
    max_pixels: int
    crop: str
    asked: framing.Faces
    half: str = ""
    """Which half of every picture is the face; "" where each is one whole picture."""

    def whole(self, name: str) -> Image.Image:
        return opaque(self.source.read(name), self.max_pixels)

    def sketch(self, picture: Picture) -> Image.Image:
        """Grey, as it was given. Raises Unreadable."""
        image = self.whole(picture.sketch)
        return (halves.part(image, halves.SIDES[self.half]) if self.half else image).convert("L")

    def face(self, content: bytes) -> Image.Image:
        image = opaque(content, self.max_pixels)
        return halves.part(image, self.half) if self.half else image

    def square(self, image: Image.Image, picture: Picture, of: tuple[int, int] | None = None) -> np.ndarray:
        """Of a face, or of its sketch where `of` is the size of the face."""
        return resized(framing.square(image, self.crop, picture.box, of), self.size)


def run(params: View, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Read, check, split and store every image of the source.

    Images are read twice, first to check them and then to store the chosen ones straight into their place:
    no copy of the data set is held in memory or in a scratch file (31,000 faces of 256² are 6 GB). Of
    identical images, by file or by normalised pixels, the first by name stays (one that the test list names
    stays before others).

    inputs: `raw` (folder or archive). outputs: `train`, `val`, `test` ((N, S, S, 3) uint8 .npy in manifest
    order), of sources that may have sketches `given_train`, `given_val`, `given_test` ((M, S, S) uint8 .npy, those of
    the rows that have one, in their order), `manifest` (CSV: id, split, source, sha256 of the file, width, height
    upright, sketch, and mask, identity and box where there are any) and `quarantine` (CSV: source, reason).

    Raises:
        UserError: no usable image, too few for the splits, the test list does not fit, or the source is not what it
            is said or seems to be.
    """
    data = params.data
    config = registry.config(data.source, data.path)
    with registry.of(config).opened(config, Path(inputs["raw"]), data.max_pixels) as source:
        for line in source.listing.said:
            job.say(f"faces: {source.where}: {line}")
        asked = framing.Faces(data.crop_factor, data.crop_least or -(-data.native_size // _ENLARGED), data.crop_most)
        reader = _Reader(source, data.native_size, data.max_pixels, data.crop, asked)
        reader = replace(reader, half=_half(reader, job))
        pictures, quarantine = source.listing.pictures, dict(source.listing.unused)
        if reader.half:
            pictures = [replace(picture, sketch=picture.name) for picture in pictures]
        if data.identity == "none":
            pictures = [replace(picture, identity="") for picture in pictures]
        pictures, examined = _examine_all(reader, pictures, job)
        listed = _listed(data.test_list, pictures)
        faults = {picture.name: examined[picture.id].fault for picture in pictures if examined[picture.id].fault}
        faults |= _drawings(source, [p for p in pictures if p.name not in faults], examined, data.drawings, job)
        first = {p.id for p in pictures if p.split == "test"} if data.splits == "path" else set()
        faults |= _duplicates([p for p in pictures if p.name not in faults], examined, first | set(listed or ()))
        quarantine |= faults
        usable = {picture.id: picture for picture in pictures if picture.name not in faults}
        if not usable:
            raise UserError(_nothing_usable(source, quarantine))
        _check_listed(data.test_list, listed, pictures, faults)
        splits = _splits(data, usable, listed)
        require_apart(usable[id_].identity for id_ in splits["test"])
        for split in SPLITS:
            chosen = [usable[id_] for id_ in splits[split]]
            _store(outputs[split], chosen, reader, examined, job)
            if f"given_{split}" in outputs:
                _store_given(outputs[f"given_{split}"], [p for p in chosen if p.sketch], reader, examined, job)
    _write_manifest(outputs["manifest"], [(split, usable[id_]) for split in SPLITS for id_ in splits[split]], examined)
    artifacts.write_csv(outputs["quarantine"], ("source", "reason"), sorted(quarantine.items()))
    _report(job, outputs, splits, usable, quarantine)


def _splits(data: View, usable: dict[str, Picture], listed: list[str] | None) -> dict[str, list[str]]:
    asked = (data.train, data.val, data.test, data.seed, listed)
    if data.splits == "drawn":
        return split_ids(usable, *asked)
    offered = {id_: picture.split for id_, picture in usable.items()}
    if not any(offered.values()):
        raise UserError("data.splits: path, but no folder of the source is called train, val or test; set it to drawn")
    return offered_ids(offered, *asked)


def _half(reader: _Reader, job: Job) -> str:
    """Which half of every picture is its face: as the source says, or as its pictures tell."""
    asked, where = reader.source.listing.halves, reader.source.where
    if asked in ("", *halves.SIDES):
        return asked

    def opened(name: str) -> Image.Image | None:
        try:
            return reader.whole(name)
        except Unreadable:
            return None

    found = halves.probe([p.name for p in reader.source.listing.pictures], opened)
    if found.side in halves.SIDES:
        job.say(
            f"faces: {where}: pictures hold a face and its sketch side by side ({found.pairs} of {found.seen} looked "
            f"at, the first {found.first}): the face is {found.side}, the sketch {halves.SIDES[found.side]}"
        )
        return found.side
    if found.side or asked == "pairs":
        raise UserError(
            f"{where}: {found.pairs} of {found.seen} pictures looked at might be a face and its sketch side by side"
            f"{f', such as {found.first}' if found.first else ''}, and it is not clear which half is which; set "
            "data.source: {kind: pairs, path: …, colour: left} (or right, top, bottom), or {kind: folder, path: …, "
            "layout: plain} if each is one whole picture"
        )
    return ""


def _examine_all(reader: _Reader, pictures: list[Picture], job: Job) -> tuple[list[Picture], dict[str, _Examined]]:
    """Every face of every picture, and what is to be said of it by its id."""
    found = _parallel(lambda p: _examine(reader, p), pictures, job, "pictures read")
    taken = {picture.id.casefold() for picture in pictures}
    faces, examined = [], {}
    for picture, (boxes, seen) in zip(pictures, found, strict=True):
        for number, (box, one) in enumerate(zip(boxes, seen, strict=True), 1):
            face = replace(picture, box=box)
            if number > 1:
                id_, name = _further_id(picture.id, number, taken), f"{picture.name} (face {number})"
                face = replace(face, id=id_, name=name, file=picture.name)
            faces.append(face)
            examined[face.id] = one
    return faces, examined


def _further_id(id_: str, number: int, taken: set[str]) -> str:
    """Of the second and further faces of a picture: `id-2`, or what is like it and not `taken`; it is added there."""
    found = f"{id_}-{number}"
    while found.casefold() in taken:
        found = f"{found}-{number}"
    taken.add(found.casefold())
    return found


def _examine(reader: _Reader, picture: Picture) -> tuple[list[framing.Box | None], list[_Examined]]:
    """Where its faces are, None for a picture that is not searched, and what is to be said of each."""
    try:
        content = reader.source.read(picture.content)
        whole = opaque(content, reader.max_pixels)
    except Unreadable as error:
        return [None], [_Examined(fault=error.reason)]
    face = halves.part(whole, reader.half) if reader.half else whole
    fault = _half_fault(reader, whole) or _shape_fault(face, reader.size)
    if not fault and picture.sketch:
        fault = _sketch_fault(reader, picture, face)
    if fault:
        return [None], [_Examined(fault=fault)]
    boxes: list[framing.Box | None] = [None]
    if reader.crop == "face":
        boxes = list(framing.found(face, reader.asked))
        if not boxes:
            return [None], [_Examined(fault=f"no face of {reader.asked.least} pixels or more was found (data.crop)")]
    digest = hashlib.sha256(content).hexdigest()
    return boxes, [_face(reader, replace(picture, box=box), face, digest) for box in boxes]


def _face(reader: _Reader, picture: Picture, face: Image.Image, digest: str) -> _Examined:
    image = reader.square(face, picture)
    if picture.box and _flat(Image.fromarray(image)):
        return _Examined(fault="one flat colour")
    return _Examined(digest, _digest(image), *face.size, drawing=halves.look(image).drawing)


def _half_fault(reader: _Reader, whole: Image.Image) -> str:
    """Why a picture is no pair where all are, or one where none is."""
    if reader.half:
        fits = halves.double(*whole.size, reader.half)
        return "" if fits else f"{whole.width} × {whole.height}: not two squares side by side, as the others are"
    if reader.source.listing.halves == "auto" and halves.order(whole) in halves.SIDES:
        return "a face and its sketch side by side, which the other pictures are not"
    return ""


def _shape_fault(face: Image.Image, size: int) -> str:
    """Why a picture is no face, whatever it shows."""
    width, height = face.size
    if min(face.size) * _ENLARGED < size:
        return f"too small ({width} × {height}; data.native_size {size} asks for {-(-size // _ENLARGED)} or more)"
    if max(face.size) > _LONGEST * min(face.size):
        return f"too long ({width} × {height}, more than {_LONGEST} to 1)"
    if _flat(face):
        return "one flat colour"
    return ""


def _flat(image: Image.Image) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else [extrema]
    return all(high - low <= _FLAT for low, high in bands)


def _sketch_fault(reader: _Reader, picture: Picture, face: Image.Image) -> str:
    """Why a given sketch cannot serve; checked here, so that no face is kept whose sketch fails later."""
    try:
        sketch = reader.sketch(picture)
    except Unreadable as error:
        return f"its sketch {picture.sketch}: {error.reason}"
    width, height = sketch.size
    if abs(width / height / (face.width / face.height) - 1) > _PROPORTION:
        return f"its sketch {picture.sketch}: {width} × {height}, other proportions than the face"
    return f"its sketch {picture.sketch}: blank" if _flat(sketch) else ""


def _drawings(
    source: Source, pictures: list[Picture], examined: Mapping[str, _Examined], asked: str, job: Job
) -> dict[str, str]:
    """{name: reason} of the faces that look like line drawings, where they are to be left out."""
    found = [picture.name for picture in pictures if examined[picture.id].drawing]
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


def _store(path: Path, chosen: list[Picture], reader: _Reader, examined: dict[str, _Examined], job: Job) -> None:
    """(N, S, S, 3) uint8, written row by row into a memory map under a temporary name."""

    def draw(picture: Picture) -> np.ndarray | None:
        image = reader.square(reader.face(reader.source.read(picture.content)), picture)
        return image if _digest(image) == examined[picture.id].pixels else None

    _stored(path, (reader.size, reader.size, 3), chosen, draw, reader.source.where, job, "faces")


def _store_given(path: Path, chosen: list[Picture], reader: _Reader, examined: dict[str, _Examined], job: Job) -> None:
    """(M, S, S) uint8: the sketches of those that have one."""

    def draw(picture: Picture) -> np.ndarray:
        seen = examined[picture.id]
        return reader.square(reader.sketch(picture), picture, (seen.width, seen.height))

    _stored(path, (reader.size, reader.size), chosen, draw, reader.source.where, job, "sketches")


def _stored(
    path: Path,
    shape: tuple[int, ...],
    chosen: list[Picture],
    draw: Callable[[Picture], np.ndarray | None],
    where: str,
    job: Job,
    what: str,
) -> None:
    with artifacts.replacing(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(chosen), *shape))

        def put(row: int) -> None:
            try:
                image = draw(chosen[row])
            except Unreadable:
                image = None
            if image is None:
                raise UserError(f"{where}: {chosen[row].name} changed while it was being read; run again")
            array[row] = image

        _parallel(put, range(len(chosen)), job, f"{path.stem.removeprefix('given_')} {what} stored")
        array.flush()


def _parallel(function: Callable, items: Sequence, job: Job, unit: str) -> list:
    """Results in the order of the items. Threads suffice: Pillow works without the interpreter lock."""
    results: list = []
    if not items:
        return results
    with job.progress(len(items), unit) as bar:
        for result in ordered_map(lambda _, item: function(item), items, range(max(1, job.threads))):
            results.append(result)
            bar.update(1)
    return results


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _write_manifest(path: Path, chosen: list[tuple[str, Picture]], examined: dict[str, _Examined]) -> None:
    rows = []
    for split, picture in chosen:
        seen = examined[picture.id]
        values = (picture.id, split, picture.name, seen.sha256, seen.width, seen.height, picture.sketch)
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
