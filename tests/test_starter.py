"""The weights that come with the package: small, described, found by their name, and worth starting with."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.colorize import at_hand, load, recipe, user
from ssimbad.colorize.painter import Painter
from ssimbad.errors import UserError
from ssimbad.faces import embedded
from ssimbad.metrics.psnr import psnr
from ssimbad.web import examples


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield Painter("ssimbad:starter")


def test_they_are_small_and_their_card_tells_all():
    assert (load.SHIPPED / load.TENSORS).stat().st_size <= 6_000_000
    card = (load.SHIPPED / "README.md").read_text()
    for said in ("stored as float16", "images seen", "cross-true", "CC BY 4.0", "Limits", "PSNR", "Line fidelity"):
        assert said in card
    data = card.partition("## Data")[2].partition("##")[0]
    assert "styles xdog, thick, thin, broken, grey, vector" in data and "50% of them of other faces" in data
    assert sum(p.stat().st_size for p in load.SHIPPED.iterdir()) < 6_100_000


def test_they_colour_a_face_that_they_never_saw_in_the_colours_of_another(painter):
    """By 20 dB at least: the mean colour has 13. Faces of another seed than the training's, the page's examples."""
    style, ids = examples.STYLE, embedded.face_ids(2 * examples.COUNT)
    shapes = list(embedded.draw_faces(ids, style, examples.SEED).values())
    found = []
    for number in range(examples.COUNT):
        (shape, _), (_, palette) = shapes[number], shapes[number + examples.COUNT]
        with Image.open(io.BytesIO(embedded.render(style, shape, palette, painter.options.size))) as image:
            truth = np.asarray(image.convert("RGB"))[None]
        answer = painter.colour(examples.picture(number, "sketch"), examples.picture(number, "reference")).image[None]
        found.append(float(psnr(answer, truth).mean()))
    assert np.mean(found) > 20, found


def test_the_command_takes_them_where_nothing_is_trained_and_its_note_names_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in examples.KINDS:
        (tmp_path / f"{kind}.png").write_bytes(examples.picture(0, kind))
    given = {"sketch": tmp_path / "sketch.png", "reference": [tmp_path / "reference.png"]}
    user.command(given | {"out": tmp_path / "a.png"}, note=tmp_path / "notes/a.json")
    assert "ssimbad:starter, which come with ssimbad" in capsys.readouterr().err
    assert artifacts.parsed_json(tmp_path / "notes/a.json")["weights"] == "ssimbad:starter"
    user.command({"out": tmp_path / "b.png"}, repeated=tmp_path / "notes/a.json")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["starter", "./starter", "ssimbad"])
def test_a_folder_of_ones_own_is_not_mistaken_for_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such weights"):
        Painter(name)
    (tmp_path / name).mkdir()
    assert at_hand.best() == load.STARTER and Painter.from_pretrained("ssimbad:starter").options.size == 64
    with pytest.raises(UserError, match=re.escape("model.safetensors: no such weights")):
        Painter.from_pretrained(name)


def test_a_sketch_of_their_name_keeps_its_place_in_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"weights": load.STARTER, "sketch": Path("starter"), "reference": [Path("starter")]}
    told = recipe.written(Path("notes/a.json"), given)
    assert told == {"weights": "ssimbad:starter", "sketch": "../starter", "references": ["../starter"]}
