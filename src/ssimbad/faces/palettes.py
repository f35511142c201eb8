"""Palettes of the embedded faces: four free colours, and every other colour a fixed shade of one of them.

The four free colours cover areas that every face shows. Whoever sees one face of a palette therefore knows
every colour of any other face of that palette: the true answer of a cross-reference is determined by its
reference.
"""

import colorsys
import itertools
import math
from collections.abc import Sequence

import numpy as np

FREE = ("background", "hair", "skin", "eyes")

# Name of the style's colour → (free colour, share of its brightness).
_SHADES = {
    "lips": ("skin", 0.6),
    "throat": ("skin", 0.35),
    "tongue": ("skin", 0.75),
    "uvula": ("skin", 0.5),
    "blush": ("skin", 0.8),
    "freckles": ("skin", 0.55),
    "glasses": ("eyes", 0.6),
    "earrings": ("eyes", 1.0),
    "petals": ("eyes", 1.0),
    "ribbon": ("background", 0.75),
    "leaves": ("eyes", 0.6),
}

# Ranges of (hue, lightness, saturation). Hair, background and eyes take any hue; skin the warm ones, from pale to dark,
# so that faces look like faces. Lightness stays clear of the white of eyes and paper, luma (ITU-R BT.601; a full blue
# has only 0.11) of the black outlines, saturation of grey.
_RANGES = {
    "background": ((0.0, 1.0), (0.5, 0.85), (0.3, 0.8)),
    "hair": ((0.0, 1.0), (0.4, 0.75), (0.35, 0.9)),
    "skin": ((0.02, 0.12), (0.45, 0.88), (0.3, 0.8)),
    "eyes": ((0.0, 1.0), (0.4, 0.75), (0.4, 1.0)),
    "far": ((0.0, 1.0), (0.4, 0.8), (0.3, 0.9)),
    "near": ((0.0, 1.0), (0.4, 0.8), (0.3, 0.9)),
}
_LUMA = (0.299, 0.587, 0.114)
_LEAST_LUMA = 0.3
_LEAST_DISTANCE = 0.25


def draw_palette(rng: np.random.Generator) -> dict[str, str]:
    """Four independent colours `#rrggbb`, all drawn again until every two differ.

    Returns:
        The colours of `FREE`; any two are at least 0.25 apart in the RGB unit cube, and none is darker than
        luma 0.3.
    """
    while True:
        colours = [_draw_colour(rng, name) for name in FREE]
        if _apart(colours):
            return {name: _hex(colour) for name, colour in zip(FREE, colours, strict=True)}


def with_scene(palette: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The palette and two colours of a scene, `far` and `near`: these and the background are as far apart as those of a
    palette."""
    backdrop = tuple(value / 255 for value in bytes.fromhex(palette["background"][1:]))
    while True:
        far, near = (_draw_colour(rng, name) for name in ("far", "near"))
        if _apart([backdrop, far, near]):
            return {**palette, "far": _hex(far), "near": _hex(near)}


def _apart(colours: Sequence[tuple[float, ...]]) -> bool:
    return min(math.dist(a, b) for a, b in itertools.combinations(colours, 2)) >= _LEAST_DISTANCE


def all_colours(palette: dict[str, str]) -> dict[str, str]:
    """The free colours and their shades: every colour of the style that is neither ink nor white."""
    shades = {name: _shade(palette[root], share) for name, (root, share) in _SHADES.items()}
    return {**palette, **shades}


def _draw_colour(rng: np.random.Generator, name: str) -> tuple[float, float, float]:
    while True:
        hue, lightness, saturation = (low + rng.random() * (high - low) for low, high in _RANGES[name])
        colour = colorsys.hls_to_rgb(hue, lightness, saturation)
        if sum(w * c for w, c in zip(_LUMA, colour, strict=True)) >= _LEAST_LUMA:
            return colour


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in colour)


def _shade(colour: str, share: float) -> str:
    return "#" + "".join(f"{round(share * value):02x}" for value in bytes.fromhex(colour[1:]))
