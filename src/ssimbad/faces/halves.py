"""Pictures that hold a face and its sketch side by side, and drawings among faces: told by the pixels alone.

A drawing has nearly no colour, much white and few greys; a coloured face has some colour. Where a picture is twice as
wide as high (or twice as high as wide) and one half is a drawing of which the other is not, it is a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
"""Where the face is, and where then its sketch."""

_CHROMA, _WHITE, _BLACK = 40, 225, 40
"""Of 255: a pixel whose channels differ by more has colour; with all of them above, or below, it is white or black."""
_GREYISH, _COLOURED = 0.01, 0.03
"""Shares of pixels with colour: drawings have less than the first, pairs' faces more than the second."""
_PAPER, _GREYS = 0.3, 0.4
"""Shares of white that drawings have at least, and of greys that they have at most."""
_TOLERANCE = 0.02
"""By which the two halves may differ from squares, as a share."""
_LEAST_SHARE = 0.9
"""Of the pictures, that must be pairs of the same order for all to be."""
_SIDE = 128
_PROBES = 48


@dataclass(frozen=True)
class Look:
    """Shares of pixels."""

    coloured: float
    white: float
    grey: float

    @property
    def drawing(self) -> bool:
        return self.coloured < _GREYISH and self.white > _PAPER and self.grey < _GREYS


def look(pixels: np.ndarray) -> Look:
    """Of (H, W, 3) uint8."""
    # Channel by channel: to reduce the last axis of three takes NumPy twenty times as long.
    red, green, blue = (pixels[..., i] for i in range(3))
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    coloured = high - low > _CHROMA
    white, black = low >= _WHITE, high <= _BLACK
    shares = (int(np.count_nonzero(which)) / coloured.size for which in (coloured, white, ~(coloured | white | black)))
    return Look(*shares)


def part(image: Image.Image, side: str) -> Image.Image:
    """The half of a picture that lies there."""
    width, height = image.size
    boxes = {
        "left": (0, 0, width // 2, height),
        "right": (width - width // 2, 0, width, height),
        "top": (0, 0, width, height // 2),
        "bottom": (0, height - height // 2, width, height),
    }
    return image.crop(boxes[side])


def double(width: int, height: int, side: str) -> bool:
    """Whether both halves would be squares."""
    long, short = (width, height) if side in ("left", "right") else (height, width)
    return abs(long / (2 * short) - 1) <= _TOLERANCE


def order(image: Image.Image) -> str:
    """Where the face of a pair is; "" of a picture that is none, "?" of one that might be."""
    for first, second in (("left", "right"), ("top", "bottom")):
        if double(*image.size, first):
            looks = {side: look(_small(part(image, side))) for side in (first, second)}
            return _order(looks)
    return ""


def _small(half: Image.Image) -> np.ndarray:
    """Reduced for speed, without mixing colours: what is a line stays one."""
    half.thumbnail((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return np.asarray(half)


def _order(looks: dict[str, Look]) -> str:
    drawings = [side for side, seen in looks.items() if seen.drawing]
    plain, bright = sorted(looks, key=lambda side: looks[side].coloured)
    if len(drawings) == 1 and looks[SIDES[drawings[0]]].coloured > _COLOURED:
        return SIDES[drawings[0]]
    # One half without any colour beside a coloured one is no chance, though it is no line drawing.
    unlike = looks[plain].coloured < _GREYISH and looks[bright].coloured > 10 * _COLOURED
    return "?" if drawings or unlike else ""


@dataclass(frozen=True)
class Found:
    """`side` as `order`; `pairs` of `seen` pictures are of it, of which `first` is one."""

    side: str
    pairs: int
    seen: int
    first: str


def probe(names: Sequence[str], opened: Callable[[str], Image.Image | None]) -> Found:
    """Whether pictures are pairs: a sample of them, spread over their names.

    Args:
        opened: a picture by its name, None where it cannot be read.

    Returns:
        `side` "" where fewer than half might be pairs, "?" where they might and do not agree.
    """
    step = max(1, len(names) // _PROBES)
    orders = {name: order(image) for name in names[::step] if (image := opened(name)) is not None}
    votes = [o for o in orders.values() if o]
    if not votes:
        return Found("", 0, len(orders), "")
    best = max(sorted(set(votes)), key=votes.count)
    first = next(name for name, o in orders.items() if o == best)
    if best != "?" and votes.count(best) >= _LEAST_SHARE * len(orders):
        return Found(best, votes.count(best), len(orders), first)
    unsure = len(votes) >= len(orders) / 2
    return Found("?" if unsure else "", len(votes), len(orders), first)
