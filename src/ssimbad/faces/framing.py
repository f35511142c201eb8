"""From a picture to the square that is kept of it: its centre, the whole on white paper, or a face found in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from skimage.feature import Cascade

Box = tuple[int, int, int, int]
"""Left, top, width and height, pixels of the upright picture."""

_WINDOW = 24
"""Side of the cascade's window, pixels: it finds nothing smaller."""
_MARGIN = 1.25
"""How much larger than the window the smallest face asked for is shown to it."""
_SCALES = 1.1
"""Between two sizes at which faces are looked for."""


@dataclass(frozen=True)
class Faces:
    """Which faces of a picture are kept, and how much around them."""

    factor: float
    """Side of the square, in sides of the found face."""
    least: int
    """Side of the smallest face, pixels."""
    most: int
    """Faces of one picture, the largest first."""


def square(
    image: Image.Image,
    crop: str,
    box: Box | None = None,
    of: tuple[int, int] | None = None,
    paper: str = "white",
) -> Image.Image:
    """A square part of an upright picture.

    Args:
        crop: `centre`, the central square; `none`, the whole picture centred on `paper`; `face`, the square `box`.
        of: size of the picture in which the box was found, of which this one is a sketch or a mask of another size.
    """
    if crop == "none":
        side = max(image.size)
        sheet = Image.new(image.mode, (side, side), paper)
        sheet.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return sheet
    if box is None:
        side = min(image.size)
        box = ((image.width - side) // 2, (image.height - side) // 2, side, side)
    elif of is not None and of != image.size:
        across, down = image.width / of[0], image.height / of[1]
        box = (round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down))
    left, top, width, height = box
    return image.crop((left, top, min(left + width, image.width), min(top + height, image.height)))


def found(image: Image.Image, asked: Faces) -> list[Box]:
    """Squares around the faces of an RGB picture, the largest face first; [] where none is found.

    Faces are found by nagadomi's cascade of local binary patterns for anime faces (cascade/LICENSE), on a copy in which
    the smallest that is asked for is a little larger than its window. A square that would reach beyond the picture is
    moved into it, and made smaller where it is larger than the picture.
    """
    scale = min(1.0, _MARGIN * _WINDOW / asked.least)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX, reducing_gap=None)
    least, most = max(_WINDOW, round(asked.least * scale)), min(small.size)
    if most < least:
        return []
    hits = _cascade().detect_multi_scale(
        img=np.asarray(small), scale_factor=_SCALES, step_ratio=1, min_size=(least, least), max_size=(most, most)
    )
    faces = sorted(((hit["width"], hit["height"], hit["r"], hit["c"]) for hit in hits), key=lambda f: (-f[0], f))
    return [_around(f[3] + f[0] / 2, f[2] + f[1] / 2, f[0], scale, image.size, asked) for f in faces[: asked.most]]


def _around(x: float, y: float, side: float, scale: float, size: tuple[int, int], asked: Faces) -> Box:
    """The square around a face whose centre and side are of the copy."""
    wanted = min(round(asked.factor * side / scale), *size)
    left, top = (
        min(max(0, round(at / scale - wanted / 2)), whole - wanted) for at, whole in zip((x, y), size, strict=True)
    )
    return left, top, wanted, wanted


@cache
def _cascade() -> Cascade:
    from skimage.feature import Cascade

    return Cascade(str(files("ssimbad.faces").joinpath("cascade/lbpcascade_animeface.xml")))


def written(box: Box | None) -> str:
    """For the manifest."""
    return " ".join(map(str, box)) if box else ""


def read(text: str | None) -> Box | None:
    """Of the manifest."""
    if not text:
        return None
    left, top, width, height = map(int, text.split())
    return left, top, width, height
