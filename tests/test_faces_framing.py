"""Which square of a picture is kept, and that of its sketch and mask the same."""

import numpy as np
import pytest
from PIL import Image

from ssimbad.faces import framing
from ssimbad.faces.reading import normalise

from .pictures import anime_face, face, fill, png
from .test_faces_stage import run, table

ASKED = framing.Faces(factor=1.5, least=60, most=1)


def illustration(*faces: tuple[int, int, int, int], size: tuple[int, int] = (420, 300)) -> Image.Image:
    """Faces (number, side, left, top) on one ground."""
    image = Image.new("RGB", size, (210, 220, 230))
    for number, side, left, top in faces:
        image.paste(anime_face(number, side), (left, top))
    return image


def test_a_face_is_found_with_what_is_around_it():
    ((left, top, width, height),) = framing.found(illustration((0, 110, 200, 90)), ASKED)
    assert width == height and 1.3 * 110 < width < 2 * 110
    assert abs(left + width / 2 - 271) < 15 and abs(top + height / 2 - 165) < 25
    (narrower,) = framing.found(illustration((0, 110, 200, 90)), framing.Faces(1.0, 60, 1))
    assert narrower[2] < width


def test_a_square_lies_within_the_picture():
    for place in ((0, 0), (277, 157)):
        ((left, top, width, height),) = framing.found(illustration((0, 110, *place)), ASKED)
        assert left >= 0 and top >= 0 and left + width <= 420 and top + height <= 300
    ((left, top, *sides),) = framing.found(illustration((0, 110, 25, 15), size=(200, 170)), framing.Faces(4.0, 60, 1))
    assert top == 0 and 0 <= left <= 30 and sides == [170, 170]


def test_the_largest_faces_of_several():
    picture = illustration((3, 80, 20, 20), (4, 130, 200, 60))
    both = framing.found(picture, framing.Faces(1.5, 40, 5))
    assert len(both) == 2 and both[0][2] > both[1][2] and both[0][0] > both[1][0]
    assert framing.found(picture, framing.Faces(1.5, 40, 1)) == both[:1]
    assert len(framing.found(picture, framing.Faces(1.5, 100, 5))) == 1
    assert framing.found(illustration(), ASKED) == framing.found(Image.new("RGB", (20, 20)), ASKED) == []


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_whole_picture_on_paper(mode):
    image = Image.new(mode, (30, 50))
    whole = np.asarray(framing.square(image, "none"))
    assert whole.shape[:2] == (50, 50) and (whole[:, 10:40] == 0).all()
    assert (whole[:, :10] == 255).all() and (whole[:, 40:] == 255).all()
    assert np.asarray(framing.square(image, "none", paper="black")).max() == 0
    assert framing.square(image, "centre").size == (30, 30)


def test_a_sketch_of_another_size_is_cut_where_its_face_is():
    picture = illustration((0, 110, 200, 90))
    (box,) = framing.found(picture, ASKED)
    half = picture.resize((210, 150), Image.Resampling.BOX)
    of, own = (
        np.asarray(framing.square(image, "face", box, picture.size).resize((64, 64))).astype(int)
        for image in (half, picture)
    )
    assert np.abs(of - own).mean() < 6
    edge = framing.square(Image.new("L", (211, 151), 255), "face", (200, 100, 220, 200), (420, 300))
    assert np.asarray(edge).min() == 255
    assert framing.read(framing.written(box)) == box and framing.read("") is framing.read(None) is None


def test_faces_of_whole_illustrations(tmp_path):
    pictures = {f"{n}.png": illustration((n, 110, 20 * n, 40)) for n in range(4)}
    pictures["two.png"] = illustration((8, 100, 10, 60), (9, 130, 190, 60))
    files = {name: png(picture) for name, picture in pictures.items()} | {"cartoon.png": png(face(3, 128)[0])}
    raw = fill(tmp_path / "raw", files)
    outputs = run(raw, tmp_path / "out", max_pixels=10**6, crop="face", crop_least=60, crop_most=2, val=0)
    rows = table(outputs["manifest"])
    assert {row["id"] for row in rows} == {"0", "1", "2", "3", "two", "two-2"}
    assert {row["source"] for row in rows} == {*pictures, "two.png (face 2)"}
    assert table(outputs["quarantine"]) == [
        {"source": "cartoon.png", "reason": "no face of 60 pixels or more was found (data.crop)"}
    ]
    train = [row for row in rows if row["split"] == "train"]
    for stored, row in zip(np.load(outputs["train"]), train, strict=True):
        box = framing.read(row["box"])
        cut = framing.square(pictures[row["source"].partition(" (")[0]], "face", box)
        assert (stored == normalise(png(cut), 32, 10**6)[0]).all()


def test_the_whole_and_the_centre_of_a_picture(tmp_path):
    files = {f"{n}.png": png(illustration((n, 110, 20 * n, 40))) for n in range(4)}
    raw = fill(tmp_path / "raw", files)
    whole, centre = (
        np.load(run(raw, tmp_path / crop, max_pixels=10**6, crop=crop, val=0)["test"]) for crop in ("none", "centre")
    )
    assert (whole[:, 0] == 255).all() and not (centre[:, 0] == 255).all()
