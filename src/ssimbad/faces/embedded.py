"""The embedded data set: cartoon faces from the DiceBear style "adventurer".

The artwork is by Lisa Wischofsky, CC BY 4.0. A face is a shape (which hair, eyes, mouth ...) times a
palette (palettes.py). The two are drawn from independent streams, so no colour can be guessed from a shape.
Outlines are black and fills flat, as in cel animation. Before scenes (scenes.py) the shape has the scene's geometry
too, and the palette its colours.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from ssimbad.artifacts import png_bytes
from ssimbad.errors import UserError, there
from ssimbad.faces import scenes
from ssimbad.faces.palettes import all_colours, draw_palette, with_scene
from ssimbad.seeding import derive

Shape = dict[str, str | None]
Palette = dict[str, str]

PARTS = ("hair", "eyes", "eyebrows", "mouth", "details", "earrings", "glasses")
SCENE = "scene"
"""Of a shape before a scene: its geometry."""

# Left out, because a face without hair or with shut or pinched eyes (iris under 10 of 128² pixels) hides a
# colour of its palette.
_COLOURLESS = {"hair": {"short19"}, "eyes": {"variant06", "variant07", "variant08", "variant19", "variant20"}}

# The style paints these with literal colours; they get names, so that the palette reaches them too.
_LITERAL = {
    "#CA8D87": "blush",
    "#7A624E": "freckles",
    "#C0ACEB": "petals",
    "#F0DF83": "petals",
    "#E67E5E": "ribbon",
    "#E57E5E": "ribbon",
    "#A0CC59": "leaves",
    "#6FA942": "leaves",
}


def face_ids(count: int) -> list[str]:
    """`face-00001` … in order."""
    return [f"face-{number:05d}" for number in range(1, count + 1)]


def draw_faces(ids: list[str], style: str, seed: int, background: str = "flat") -> dict[str, tuple[Shape, Palette]]:
    """A shape and a palette per id; no two ids share a shape, nor a palette.

    A draw that an earlier id already has is drawn again; the first n faces are the same whatever the number
    asked, and before whatever `background` ("flat", "scene").

    Raises:
        UserError: more faces are asked than half of the shapes there are.
    """
    choices = choices_of(style)
    there_are = math.prod(len(variants) + (chance < 1) for variants, chance in choices.values())
    if len(ids) > there_are // 2:
        raise UserError(
            f"data.train: {len(ids)} embedded faces in all, but {style} has only {there_are} shapes; "
            f"ask for at most {there_are // 2}"
        )
    shapes: set[tuple] = set()
    palettes: set[tuple] = set()
    faces = {}
    for id_ in ids:
        shape = next(s for s in _shapes(choices, seed, id_) if tuple(s.values()) not in shapes)
        palette = next(p for p in _palettes(seed, id_) if tuple(p.values()) not in palettes)
        shapes.add(tuple(shape.values()))
        palettes.add(tuple(palette.values()))
        faces[id_] = (shape, palette) if background == "flat" else _before_a_scene(shape, palette, seed, id_)
    return faces


def _before_a_scene(shape: Shape, palette: Palette, seed: int, id_: str) -> tuple[Shape, Palette]:
    colours = with_scene(palette, np.random.default_rng(derive(seed, "scene colours", id_)))
    return {**shape, SCENE: scenes.draw_geometry(np.random.default_rng(derive(seed, "scene", id_)))}, colours


def render(style: str, shape: Shape, palette: Palette, size: int) -> bytes:
    """One opaque square PNG of `size` pixels; the same bytes on every call."""
    if SCENE not in shape:
        return _drawn(style, shape, all_colours(palette), size)
    behind, figure = _pixels(render_landscape(shape, palette, size)), _pixels(_figure(style, shape, palette, size))
    opacity = figure[..., 3:].astype(np.uint32)
    mixed = (opacity * figure[..., :3] + (255 - opacity) * behind[..., :3] + 127) // 255
    return png_bytes(mixed.astype(np.uint8))


def render_landscape(shape: Shape, palette: Palette, size: int) -> bytes:
    """The scene of `render` without the figure, of a face before a scene."""
    return scenes.render(there(shape[SCENE]), palette, size)


def render_mask(style: str, shape: Shape, palette: Palette, size: int) -> bytes:
    """The figure of `render` as a grey PNG, 255 = figure: what is opaque when no background is drawn."""
    return png_bytes(_pixels(_figure(style, shape, palette, size))[..., 3])


def _figure(style: str, shape: Shape, palette: Palette, size: int) -> bytes:
    """On nothing."""
    colours = {name: colour for name, colour in all_colours(palette).items() if name not in scenes.COLOURS}
    return _drawn(style, shape, colours, size)


def _pixels(png: bytes) -> np.ndarray:
    """(S, S, 4) uint8."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def _drawn(style: str, shape: Shape, colours: Mapping[str, str], size: int) -> bytes:
    """Without a colour of that name there is no background."""
    options: dict[str, Any] = {"size": size}
    for part, variant in ((part, shape[part]) for part in PARTS):
        options[f"{part}Probability"] = 0 if variant is None else 100
        options[f"{part}Variant"] = [] if variant is None else [variant]
    options["backgroundColor"] = []
    for name, colour in colours.items():
        options[f"{name}Color"] = colour
    svg = Avatar(_style(style), options).to_string()
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))


def credit(style: str) -> str:
    """Title, author and licence of the artwork, as the licence asks."""
    return _definition(style)["meta"]["license"]["text"] + "\n"


def _shapes(choices: dict[str, tuple[list[str], float]], seed: int, id_: str) -> Iterator[Shape]:
    rng = np.random.default_rng(derive(seed, "shape", id_))
    while True:
        shape: Shape = {}
        for part, (variants, chance) in choices.items():
            shown, which = rng.random() < chance, rng.random()
            shape[part] = variants[int(which * len(variants))] if shown else None
        yield shape


def _palettes(seed: int, id_: str) -> Iterator[Palette]:
    rng = np.random.default_rng(derive(seed, "palette", id_))
    while True:
        yield draw_palette(rng)


@cache
def choices_of(style: str) -> dict[str, tuple[list[str], float]]:
    """Of a style, per part: its variants, and the chance (as the artist set it) that it is there at all."""
    components = _definition(style)["components"]
    return {
        part: (
            sorted(set(components[part]["variants"]) - _COLOURLESS.get(part, set())),
            components[part].get("probability", 100) / 100,
        )
        for part in PARTS
    }


@cache
def _definition(style: str) -> dict[str, Any]:
    return json.loads(files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8"))


@cache
def _style(style: str) -> Style:
    """The style with names for its literal colours; its schema check takes about 2 s, once per process."""
    definition = _with_names(_definition(style))
    for literal, name in _LITERAL.items():
        definition["colors"].setdefault(name, {"values": [literal.lower()]})
    return Style(definition)


def _with_names(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _with_names(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_names(value) for value in node]
    return {"type": "color", "name": _LITERAL[node]} if node in _LITERAL else node
