"""Drawn faces: unique, reproducible, and with colours that a shape does not give away."""

import io
import itertools
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import raw
from ssimbad.faces.embedded import PARTS, draw_faces, face_ids, render
from ssimbad.faces.palettes import FREE, all_colours, draw_palette
from ssimbad.params.blocks import Data, Embedded
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

STYLE = "adventurer"
PLAIN = dict.fromkeys(PARTS) | {
    "hair": "short01",
    "eyes": "variant01",
    "eyebrows": "variant01",
    "mouth": "variant01",
}
DECLARED = ("embedded", "data.train", "data.val", "data.test", "data.seed")


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def area(image: np.ndarray, colour: str) -> int:
    return int((image == np.array(rgb(colour))).all(-1).sum())


@pytest.fixture(scope="module")
def faces():
    return draw_faces(face_ids(3000), STYLE, seed=0)


def test_ids_are_numbered_from_one_in_order():
    assert face_ids(2) == ["face-00001", "face-00002"]
    assert face_ids(12000) == sorted(face_ids(12000))


def test_no_two_faces_share_a_shape_or_a_palette(faces):
    assert len({tuple(shape.items()) for shape, _ in faces.values()}) == 3000
    assert len({tuple(palette.items()) for _, palette in faces.values()}) == 3000


def test_more_faces_or_another_seed(faces):
    few = draw_faces(face_ids(20), STYLE, seed=0)
    assert few == {id_: faces[id_] for id_ in few}
    other = draw_faces(face_ids(20), STYLE, seed=1)
    assert all(other[id_][0] != few[id_][0] and other[id_][1] != few[id_][1] for id_ in few)


def test_every_part_varies(faces):
    variants = {part: {shape[part] for shape, _ in faces.values()} for part in PARTS}
    counts = {part: len(found) for part, found in variants.items()}
    assert counts == {
        "hair": 44,
        "eyes": 21,
        "eyebrows": 15,
        "mouth": 30,
        "details": 5,
        "earrings": 7,
        "glasses": 6,
    }


def test_palettes_are_wide_saturated_and_apart():
    rng = np.random.default_rng(0)
    palettes = [[np.array(rgb(c)) / 255 for c in draw_palette(rng).values()] for _ in range(500)]
    for palette in palettes:
        assert min(math.dist(a, b) for a, b in itertools.combinations(palette, 2)) > 0.24
    colours = np.array(palettes)[:, [FREE.index(name) for name in ("background", "hair", "eyes")]].reshape(-1, 3)
    assert (colours @ [0.299, 0.587, 0.114]).min() > 0.29
    assert colours.std(0).min() > 0.15
    # Each of red, yellow, green, cyan, blue and magenta leads in its sixth of the hue circle; skin stays warm.
    skin = np.array(palettes)[:, FREE.index("skin")]
    assert (skin[:, 0] >= skin[:, 1]).all()
    assert (skin[:, 1] >= skin[:, 2]).all()
    sextants = np.bincount([_sextant(c) for c in colours], minlength=6)
    assert sextants.min() > 0.6 * len(colours) / 6


def _sextant(colour: np.ndarray) -> int:
    hue = Image.fromarray(np.uint8(255 * colour).reshape(1, 1, 3)).convert("HSV").getpixel((0, 0))[0]
    return hue * 6 // 256


def test_colour_is_not_predictable_from_shape(faces):
    """A variant explains no more of the variance of a colour than chance does, about (k - 1) / n."""
    for part, colour in itertools.product(("hair", "mouth", "eyes"), FREE):
        groups: dict[str, list] = {}
        for shape, palette in faces.values():
            groups.setdefault(shape[part], []).append(rgb(palette[colour]))
        everything = np.concatenate([np.array(group) for group in groups.values()])
        within = sum(((np.array(g) - np.mean(g, 0)) ** 2).sum() for g in groups.values())
        explained = 1 - within / ((everything - everything.mean(0)) ** 2).sum()
        assert explained < 2 * (len(groups) - 1) / len(everything) + 0.005, (part, colour)


def test_one_colour_of_a_palette_does_not_tell_another(faces):
    palettes = np.array([[rgb(palette[name]) for name in FREE] for _, palette in faces.values()])
    correlation = np.corrcoef(palettes.reshape(3000, -1).T)
    pairs = itertools.combinations(range(len(FREE)), 2)
    between = [abs(correlation[3 * a : 3 * a + 3, 3 * b : 3 * b + 3]).max() for a, b in pairs]
    assert max(between) < 0.25


def test_more_faces_than_shapes_is_refused(monkeypatch):
    monkeypatch.setattr("ssimbad.faces.embedded.choices_of", lambda style: {"hair": (["a", "b", "c"], 0.5)})
    assert len(draw_faces(face_ids(2), STYLE, 0)) == 2
    with pytest.raises(UserError, match=r"data\.train.*only 4 shapes"):
        draw_faces(face_ids(3), STYLE, 0)


def test_rendering_is_opaque_square_and_repeatable():
    palette = draw_palette(np.random.default_rng(1))
    png = render(STYLE, PLAIN, palette, 96)
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG" and image.size == (96, 96)
    assert image.convert("RGBA").getextrema()[3] == (255, 255)
    assert render(STYLE, PLAIN, palette, 96) == png


def test_palette_reaches_every_part_and_only_colours():
    first, second = (draw_palette(np.random.default_rng(seed)) for seed in (1, 2))
    one, two = (pixels(render(STYLE, PLAIN, p, 128)) for p in (first, second))
    for name in FREE:
        assert area(one, first[name]) > 20
        assert area(one, first[name]) == area(two, second[name])
        assert area(one, second[name]) == 0
    assert ((one == 0).all(-1) == (two == 0).all(-1)).all()


@pytest.mark.parametrize(
    ("part", "variant", "colour"),
    [
        ("details", "blush", "blush"),
        ("hair", "long03", "petals"),
        ("hair", "long18", "ribbon"),
        ("glasses", "variant01", "glasses"),
    ],
)
def test_colours_that_the_style_fixes_follow_the_palette(part, variant, colour):
    palette = draw_palette(np.random.default_rng(3))
    assert area(pixels(render(STYLE, PLAIN | {part: variant}, palette, 256)), all_colours(palette)[colour]) > 20


def test_every_face_shows_every_free_colour(faces):
    for id_ in list(faces)[:120]:
        shape, palette = faces[id_]
        image = pixels(render(STYLE, shape, palette, 128))
        seen = {name: area(image, palette[name]) for name in FREE}
        seen["eyes"] += area(image, all_colours(palette)["glasses"])  # dark glasses show a shade of it
        assert min(seen.values()) >= 3, (id_, seen)


def view(train=6, **embedded) -> View:
    class Node:
        pass

    node = Node()
    node.data = Data(
        source="embedded",
        path=None,
        test_list=None,
        native_size=64,
        size=32,
        train=train,
        val=1,
        test=4,
        seed=5,
        max_pixels=10**6,
    )
    node.embedded = Embedded(style="adventurer", size=64, seed=0)
    return View(node, DECLARED)


def make(folder: Path, threads: int) -> dict[str, Path]:
    outputs = {"zip": folder / "embedded.zip", "shapes": folder / "embedded.json"}
    raw.run(view(), {}, outputs, Job("raw", folder, threads))
    return outputs


def test_stage_raw(tmp_path):
    outputs = make(tmp_path / "one", 1)
    faces = artifacts.read_png_zip(outputs["zip"])
    assert list(faces) == face_ids(11)
    assert b"Lisa Wischofsky" in zipfile.ZipFile(outputs["zip"]).read("CREDITS.txt")

    told = artifacts.read_json(outputs["shapes"])
    assert list(told) == face_ids(11)
    for id_, image in faces.items():
        assert (pixels(render(STYLE, told[id_]["shape"], told[id_]["palette"], 64)) == image).all()

    again = make(tmp_path / "two", 2)
    assert all(again[name].read_bytes() == outputs[name].read_bytes() for name in outputs)
