"""What a picture of a source holds: its faces, what is to be said of each, and the squares that are kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from ssimbad.errors import UserError
from ssimbad.faces import framing, halves
from ssimbad.faces.reading import Unreadable, opaque, resized
from ssimbad.faces.sources import registry
from ssimbad.faces.sources.contract import Picture, Source
from ssimbad.params.blocks import Data
from ssimbad.runtime.job import Job
from ssimbad.runtime.pool import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")

# A given sketch may be scaled, but not cut differently from its face: the share by which its proportions
# may differ.
_PROPORTION = 0.02
_LONGEST = 4
"""Of a picture's sides, how often the long one may hold the short one."""
_ENLARGED = 4
"""How often `native_size` may hold a picture's short side."""
_FLAT = 3
"""Levels of 255 within which one colour is one colour, JPEG's rounding included."""


@dataclass(frozen=True)
class Seen:
    """What is remembered of a face: where it is, digests of file and pixels, size, and what is wrong."""

    box: framing.Box | None = None
    """None where pictures are not searched."""
    sha256: str = ""
    pixels: str = ""
    width: int = 0
    height: int = 0
    fault: str = ""
    drawing: bool = False
    sketch: str = ""
    """SHA-256 of the file of its given sketch."""


@dataclass(frozen=True)
class Look:
    """A face while its picture is open."""

    seen: Seen
    square: np.ndarray | None = None
    """(S, S, 3) uint8; None of one that has a fault."""
    sketch: Callable[[], np.ndarray] | None = None
    """(S, S) uint8: its given sketch, where it has one."""


class Looks(Protocol):
    """What was seen of pictures, and the squares of faces: by reading the source, or by those who have read it."""

    @property
    def again(self) -> str:
        """What to do where the source is not what was seen."""
        ...

    def seen(self, job: Job) -> list[list[Seen]]:
        """The faces of each picture of the source, in the order of its listing."""
        ...

    def face(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        """(S, S, 3) uint8; None where the file is not what was seen. Raises `Unreadable`."""
        ...

    def sketch(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        """(S, S) uint8: the given one of a face that has one; None and `Unreadable` as `face`."""
        ...


@dataclass(frozen=True)
class Reader:
    """How pictures of a source become faces and sketches."""

    source: Source
    size: int
    max_pixels: int
    crop: str
    asked: framing.Faces
    half: str = ""
    """Which half of every picture is the face; "" where each is one whole picture."""
    again: str = "run again"

    @property
    def pictures(self) -> list[Picture]:
        found = self.source.listing.pictures
        return [replace(picture, sketch=picture.name) for picture in found] if self.half else found

    def whole(self, name: str) -> Image.Image:
        return opaque(self.source.read(name), self.max_pixels)

    def part(self, image: Image.Image) -> Image.Image:
        """The face's half of a picture."""
        return halves.part(image, self.half) if self.half else image

    def grey(self, content: bytes) -> Image.Image:
        """A sketch as it was given. Raises Unreadable."""
        image = opaque(content, self.max_pixels)
        return (halves.part(image, halves.SIDES[self.half]) if self.half else image).convert("L")

    def square(self, image: Image.Image, box: framing.Box | None, of: tuple[int, int] | None = None) -> np.ndarray:
        """Of a face, or of its sketch where `of` is the size of the face."""
        return resized(framing.square(image, self.crop, box, of), self.size)

    def seen(self, job: Job) -> list[list[Seen]]:
        """See `Looks`. The squares are dropped: a data set of 31,000 faces of 256² is 6 GB."""
        return list(parallel(lambda p: [look.seen for look in examine(self, p)], self.pictures, job, "pictures read"))

    def face(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        """See `Looks`."""
        image = self.square(self.part(self.whole(picture.content)), picture.box)
        return image if digest(image.tobytes()) == seen.pixels else None

    def sketch(self, picture: Picture, seen: Seen) -> np.ndarray | None:
        """See `Looks`."""
        content = self.source.read(picture.sketch)
        if digest(content) != seen.sketch:
            return None
        return self.square(self.grey(content), picture.box, (seen.width, seen.height))


@contextmanager
def opened(data: Data, raw: Path, job: Job) -> Iterator[Reader]:
    """The source that the parameters name, and how it is read; what was recognised is said.

    Raises:
        UserError: it cannot be opened, or is not what it is said or seems to be.
    """
    config = registry.config(data.source, data.path)
    with registry.of(config).opened(config, raw, data.max_pixels) as source:
        for line in source.listing.said:
            job.say(f"{job.stage}: {source.where}: {line}")
        asked = framing.Faces(data.crop_factor, data.crop_least or -(-data.native_size // _ENLARGED), data.crop_most)
        reader = Reader(source, data.native_size, data.max_pixels, data.crop, asked)
        yield replace(reader, half=_half(reader, job))


def _half(reader: Reader, job: Job) -> str:
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
            f"{job.stage}: {where}: pictures hold a face and its sketch side by side ({found.pairs} of {found.seen} "
            f"looked at, the first {found.first}): the face is {found.side}, the sketch {halves.SIDES[found.side]}"
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


def parallel(function: Callable[[Item], Result], items: Sequence[Item], job: Job, unit: str) -> Iterator[Result]:
    """Results in the order of the items. Threads suffice: Pillow works without the interpreter lock."""
    if not items:
        return
    with job.progress(len(items), unit) as bar:
        for result in ordered_map(lambda _, item: function(item), items, range(max(1, job.threads))):
            yield result
            bar.update(1)


def changed(where: str, name: str, again: str) -> UserError:
    return UserError(f"{where}: {name} changed while it was being read; {again}")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def examine(reader: Reader, picture: Picture) -> list[Look]:
    """The faces of a picture: one, with or without a fault, or as many as are found where pictures are searched."""
    try:
        content = reader.source.read(picture.content)
        whole = opaque(content, reader.max_pixels)
    except Unreadable as error:
        return _unfit(error.reason)
    face = reader.part(whole)
    if fault := _half_fault(reader, whole) or _shape_fault(face, reader.size):
        return _unfit(fault)
    grey, drawn = None, b""
    if picture.sketch:
        try:
            drawn = content if picture.sketch == picture.content else reader.source.read(picture.sketch)
            grey = reader.grey(drawn)
        except Unreadable as error:
            return _unfit(f"its sketch {picture.sketch}: {error.reason}")
        if fault := _sketch_fault(grey, face):
            return _unfit(f"its sketch {picture.sketch}: {fault}")
    boxes: list[framing.Box | None] = [None]
    if reader.crop == "face":
        boxes = list(framing.found(face, reader.asked))
        if not boxes:
            return _unfit(f"no face of {reader.asked.least} pixels or more was found (data.crop)")
    said = Seen(sha256=digest(content), width=face.width, height=face.height, sketch=digest(drawn) if drawn else "")
    return [_face(reader, replace(said, box=box), face, grey) for box in boxes]


def _unfit(reason: str) -> list[Look]:
    return [Look(Seen(fault=reason))]


def _face(reader: Reader, seen: Seen, face: Image.Image, grey: Image.Image | None) -> Look:
    image = reader.square(face, seen.box)
    if seen.box and _flat(Image.fromarray(image)):
        return Look(Seen(seen.box, fault="one flat colour"))
    seen = replace(seen, pixels=digest(image.tobytes()), drawing=halves.look(image).drawing)
    return Look(seen, image, (lambda: reader.square(grey, seen.box, face.size)) if grey else None)


def _half_fault(reader: Reader, whole: Image.Image) -> str:
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


def _sketch_fault(sketch: Image.Image, face: Image.Image) -> str:
    """Why a given sketch cannot serve; checked here, so that no face is kept whose sketch fails later."""
    width, height = sketch.size
    if abs(width / height / (face.width / face.height) - 1) > _PROPORTION:
        return f"{width} × {height}, other proportions than the face"
    return "blank" if _flat(sketch) else ""
