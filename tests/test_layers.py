"""At the sketch's own size: its lines as they are, colours from beside them, none across, memory by its own pixels."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ssimbad.colorize import answers, ink, layers
from ssimbad.colorize.painter import Painter
from ssimbad.colorize.pictures import to_square

RED, BLUE = (220, 40, 30), (30, 60, 210)


def parted(column: float, thick: int = 4, side: int = 160) -> tuple[ink.Drawing, np.ndarray, np.ndarray]:
    """A drawing parted by one line; 16 pixels red and blue, with the network's blurred line; the drawing as seen."""
    sheet = np.full((side, side, 3), 255, np.uint8)
    left = int(column * side / 16)
    sheet[:, left : left + thick] = 0
    drawing = ink.read(sheet, None)
    small = np.where(np.arange(16)[:, None] < column, RED, BLUE).astype(np.float32)
    seen = to_square(drawing.lines, 16)
    seen = drawing.seen(seen, 16)
    dark = ndimage.gaussian_filter1d(1 - seen[0] / 255, 0.5)[:, None]
    return drawing, np.rint(small * (1 - dark)).astype(np.uint8)[None].repeat(16, 0), seen


@pytest.mark.parametrize("column", [5.0, 5.5, 7.3])
def test_colours_come_from_beside_the_lines_and_do_not_cross_them(column):
    drawing, small, seen = parted(column)
    layer = layers.colour_layer(small, seen, drawing).astype(int)
    bicubic = np.asarray(Image.fromarray(small).resize((160, 160), Image.Resampling.BICUBIC)).astype(int)
    line = np.flatnonzero(drawing.lines[0] == 0)
    for colour, beside in ((RED, slice(line[0] - 8, line[0])), (BLUE, slice(line[-1] + 1, line[-1] + 9))):
        errors = [np.abs(picture[:, beside] - colour) for picture in (layer, bicubic)]
        assert errors[0].max() < 60 and errors[0].mean() < 0.6 * errors[1].mean(), column
    under = layer[:, line].reshape(-1, 3)
    assert (np.minimum(*(np.abs(under - colour).max(axis=1) for colour in (RED, BLUE))) < 100).all()
    assert under.max(axis=1).min() > 100  # of the network's line nothing is left


def test_every_pixel_of_a_line_is_the_sketchs_own(weights):
    sheet = np.full((90, 120, 3), 255, np.uint8)
    sheet[20:24, 10:110] = (200, 30, 40)
    sheet[50:53, 10:110] = (20, 30, 160)
    sheet[53, 10:110] = (140, 145, 205)
    answer = Painter(weights, "cpu").colour(sheet, np.full((20, 20, 3), (90, 160, 90), np.uint8), fit="sketch")
    full = answer.drawing.lines == 0
    assert full[20:24, 10:110].all() and full[50:53, 10:110].all()
    assert np.array_equal(answer.image[full], sheet[full])
    paper = answer.drawing.lines == 255
    assert np.array_equal(answer.image[paper], answer.colours[paper])
    assert answer.image.shape == sheet.shape and answer.layer.shape == (90, 120, 4)
    assert (answer.layer[..., 3] == 255).all() and np.array_equal(answer.layer[..., :3], answer.colours)


def test_half_covered_pixels_carry_half_the_colour():
    sheet = np.full((60, 60, 3), 255, np.uint8)
    sheet[30:33] = 0
    sheet[29], sheet[33] = 128, 64
    drawing = ink.read(sheet, None)
    out = layers.composed(np.full((60, 60, 3), (200, 100, 40), np.uint8), drawing)
    for row, share in ((29, 128 / 255), (33, 64 / 255)):
        assert np.abs(out[row] - share * np.array([200, 100, 40])).max() <= 1


def test_an_enclosed_black_area_takes_the_nearest_colour():
    drawing, small, seen = parted(6.0, thick=60)
    layer = layers.colour_layer(small, seen, drawing)
    under = layer[80, 62:118].astype(int)
    assert (np.minimum(*(np.abs(under - colour).max(axis=1) for colour in (RED, BLUE))) < 60).all()


def test_areas_closed_by_lines_are_flat_in_their_median():
    sheet = np.full((40, 60, 3), 255, np.uint8)
    sheet[5:35, 10], sheet[5:35, 40], sheet[5, 10:41], sheet[34, 10:41] = 0, 0, 0, 0
    drawing = ink.read(sheet, None, "clean")
    layer = np.full((40, 60, 3), BLUE, np.uint8)
    layer[6:34, 11:40] = RED
    layer[6:16, 11:40] = (0, 255, 0)  # less than half of the area
    found = layers.flat(layer, drawing)
    assert (found[6:34, 11:40] == RED).all() and (found[:5] == BLUE).all() and (found[:, 42:] == BLUE).all()
    assert {tuple(colour) for colour in found.reshape(-1, 3)} == {RED, BLUE}
    assert np.array_equal(layers.flat(layer, ink.Drawing(sheet, np.zeros((40, 60), np.uint8), 1.0)), layer)


def test_an_open_raster_file_reads_back_as_specified(weights, tmp_path):
    """https://www.freedesktop.org/wiki/Specifications/OpenRaster: file layout, layer stack."""
    sheet = np.full((90, 300, 3), 255, np.uint8)
    sheet[20:24, 10:290] = (200, 30, 40)
    sheet[50:53, 10:290], sheet[53, 10:290] = (20, 30, 160), (140, 145, 205)
    answer = Painter(weights, "cpu").colour(sheet, np.full((20, 20, 3), (90, 160, 90), np.uint8), fit="sketch")
    answers.write(tmp_path / "a.ora", answer.raster)
    assert (tmp_path / "a.ora").read_bytes()[30:54] == b"mimetypeimage/openraster"  # first, stored, no extra field
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        stored = {info.filename: info.compress_type for info in archive.infolist()}
        pictures = {
            name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith(".png")
        }
    assert stored["mimetype"] == zipfile.ZIP_STORED
    assert (stack.tag, stack.get("w"), stack.get("h")) == ("image", "300", "90")
    found = {layer.get("name"): pictures[layer.get("src")] for layer in stack.find("stack").findall("layer")}
    assert list(found) == ["lines", "colours", "flat"]  # from the topmost
    assert all((picture.mode, picture.size) == ("RGBA", (300, 90)) for picture in found.values())
    assert np.array_equal(np.asarray(found["lines"])[..., 3], 255 - answer.drawing.lines)
    assert np.array_equal(np.asarray(found["colours"]), answer.layer)
    merged = Image.alpha_composite(Image.alpha_composite(found["flat"], found["colours"]), found["lines"])
    assert np.array_equal(np.asarray(pictures["mergedimage.png"]), np.asarray(merged))
    assert np.abs(np.asarray(merged)[..., :3].astype(int) - answer.image).max() <= 1
    assert pictures["Thumbnails/thumbnail.png"].size == (256, 77)


def test_work_and_memory_follow_the_sketchs_own_pixels(weights):
    painter, design = Painter(weights, "cpu"), np.full((20, 20, 3), (90, 160, 90), np.uint8)

    def peak(height: int, width: int) -> float:
        sheet = np.full((height, width), 255, np.uint8)
        sheet[height // 2 : height // 2 + 3, width // 4 : -width // 4] = 0
        tracemalloc.start()
        try:
            assert painter.colour(sheet, design, fit="sketch").image.shape == (height, width, 3)
            return tracemalloc.get_traced_memory()[1] / (height * width)
        finally:
            tracemalloc.stop()

    square, strip, column = peak(400, 400), peak(126, 1264), peak(1264, 126)
    assert max(strip, column) < 1.3 * square
    assert peak(800, 800) < 1.1 * square
