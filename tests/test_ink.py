"""Lines are found in drawings of any kind, whole or cut out; clean drawings stay as they are."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from ssimbad.colorize import ink
from ssimbad.colorize.painter import Painter
from ssimbad.colorize.pictures import Wrong, to_square
from ssimbad.pairing import xdog

from .conftest import ROOT

_spec = importlib.util.spec_from_file_location("ink_benchmark", ROOT / "benchmarks/ink.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("name", made.SPOILT)
def test_ink_is_found_in_the_whole_and_in_a_part(name):
    assert min(made.score(name, 1, 240)) > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_a_sketch_of_the_training_is_seen_as_it_is(seed):
    generator = np.random.default_rng(seed)
    image = np.full((128, 128, 3), 200, np.uint8)
    for _ in range(12):
        top, left, high, wide = generator.integers(0, 100, 4)
        image[top : top + high, left : left + wide] = generator.integers(0, 256, 3)
    config = type("Config", (), {"sigmas": [0.4], "k": 3.5, "p": 10.0, "epsilon": 0.01, "phi": 1.0e9})
    sketch = xdog.sketch(image[None], np.array([0.4]), config)[0]
    drawing = ink.read(rgb(sketch), None)
    assert np.array_equal(drawing.lines, sketch)
    square = to_square(sketch, 64)
    assert np.array_equal(drawing.seen(square, 64), square)


def test_thin_lines_of_a_large_drawing_are_seen_as_those_of_the_training():
    share = made.drawing(3, 700, (0.7, 1.2))
    drawing = ink.read(made.grey(1 - share), None)
    square = to_square(drawing.lines, 64)
    seen = drawing.seen(square, 64)
    assert square.min() > 100 and seen.min() < 60
    assert (seen[square == 255] == 255).all()
    blacker = ink.read(made.grey(1 - made.drawing(3, 700, (11.0, 14.0))), None)
    assert np.array_equal(blacker.seen(square, 64), square)


@pytest.mark.parametrize("how", ["auto", "clean", "invert"])
@pytest.mark.parametrize("level", [0, 130, 255])
@pytest.mark.parametrize("noise", [0, 3])
def test_blank_paper_is_an_error(how, level, noise):
    grain = noise * np.random.default_rng(0).standard_normal((90, 120))
    with pytest.raises(ink.Blank):
        ink.read(rgb(np.clip(level + grain, 0, 255).astype(np.uint8)), None, how)


def test_a_blank_sketch_names_the_remedy(weights):
    painter, sheet = Painter(weights, "cpu"), np.full((50, 50), 255, np.uint8)
    with pytest.raises(Wrong, match=r"sketch: no lines found \(lines: auto\); .*as-is, clean, invert"):
        painter.colour(sheet, rgb(sheet))
    with pytest.raises(Wrong, match="sketch: one grey everywhere"):
        painter.colour(sheet, rgb(sheet), lines="as-is")
    with pytest.raises(Wrong, match="lines sharp: expected auto, as-is, clean or invert"):
        painter.colour(sheet, rgb(sheet), lines="sharp")


def test_what_is_found_can_be_overruled():
    share = made.drawing(0, 200)
    black, white = made.grey(1 - share), made.grey(share)
    true = share >= 0.5
    assert made.f1(ink.read(white, None, "invert").lines < 128, true) > 0.95
    assert made.f1(ink.read(black, None, "clean").lines < 128, true) > 0.95
    assert np.array_equal(ink.read(white, None, "as-is").lines, white[..., 0])
    assert made.f1(ink.read(white, None, "auto").lines < 128, true) > 0.95
    with pytest.raises(ink.Blank):
        ink.read(np.full((60, 60, 3), 255, np.uint8), None, "invert")


def test_a_part_within_black_hair_is_not_a_negative():
    sheet = np.full((200, 200), 255, np.uint8)
    sheet[:130] = 0
    sheet[140:190:12, 20:180] = 0
    assert np.array_equal(ink.read(rgb(sheet), None).lines, sheet)
    assert np.array_equal(ink.read(rgb(255 - sheet), None).lines, sheet)


def test_rounded_corners_of_nothing_are_no_lines():
    sheet = np.zeros((120, 120, 4), np.uint8)
    sheet[8:-8, 8:-8] = 255
    sheet[50:53, 30:90, :3] = 0
    colours = np.asarray(Image.alpha_composite(Image.new("RGBA", (120, 120), "white"), Image.fromarray(sheet)))
    lines = ink.read(colours[..., :3], sheet[..., 3]).lines
    assert (lines[50:53, 30:90] == 0).all() and (lines < 128).sum() == 3 * 60
