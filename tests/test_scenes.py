"""Faces before scenes: how they are drawn, which settings they bring, and a miniature of split attention on them."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import ParameterError
from ssimbad.faces import embedded, manifest, scenes
from ssimbad.faces.reading import normalise
from ssimbad.pairing import resize, tps
from ssimbad.params import tree as params
from ssimbad.pipeline import rows, table

from .conftest import lived_in, miniature, preset_tree, write_params

IDS = embedded.face_ids(40)
FACES = embedded.draw_faces(IDS, "adventurer", 0, "scene")
SIDE = 128


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_scene_adds_to_shape_and_palette_and_changes_neither():
    flat = embedded.draw_faces(IDS, "adventurer", 0)
    for id_, (shape, palette) in FACES.items():
        assert {**shape, "scene": None} == {**flat[id_][0], "scene": None} and "scene" not in flat[id_][0]
        assert {name: palette[name] for name in flat[id_][1]} == flat[id_][1]
    assert len({shape["scene"] for shape, _ in FACES.values()}) == len(FACES)


def test_every_kind_shows_its_three_colours_beside_the_figure_and_behind_it_nothing_else():
    kinds = set()
    for shape, palette in FACES.values():
        kind = shape["scene"].partition("-")[0]
        kinds.add(kind)
        face = pixels(embedded.render("adventurer", shape, palette, SIDE))
        landscape = pixels(embedded.render_landscape(shape, palette, SIDE))
        figure = np.asarray(Image.open(io.BytesIO(embedded.render_mask("adventurer", shape, palette, SIDE))))
        assert 0.1 < (figure == 255).mean() < 0.9
        np.testing.assert_array_equal(face[figure == 0], landscape[figure == 0])
        for name in scenes.COLOURS:
            colour = np.array(list(bytes.fromhex(palette[name][1:])))
            assert (np.abs(face - colour).max(axis=-1) <= 6)[figure == 0].sum() > 0.005 * SIDE**2, (kind, name)
        lines = (landscape.max(axis=-1) < 100).mean()
        assert lines > (0.005 if kind == "gradient" else 0.01)
    assert kinds == {"stripes", "checks", "dots", "gradient", "hills", "city", "things"}


def test_the_figure_is_the_one_before_a_flat_background():
    shape, palette = FACES[IDS[3]]
    flat = {part: variant for part, variant in shape.items() if part != "scene"}
    inside = np.asarray(Image.open(io.BytesIO(embedded.render_mask("adventurer", flat, palette, SIDE)))) == 255
    before, plain = (pixels(embedded.render("adventurer", s, palette, SIDE)) for s in (shape, flat))
    apart = np.abs(before - plain).max(axis=-1)[inside]
    assert (apart > 0).mean() < 0.01 and apart.max() < 64  # a few pixels of outlines are blended in another order
    assert embedded.render("adventurer", shape, palette, SIDE) == embedded.render("adventurer", shape, palette, SIDE)


def tree() -> dict:
    small = miniature("demo-scenes")
    for name in ("split-attention-bg2fig", "split-attention-bare", "split-attention-terms"):
        del small["methods"][name]
    small["report"]["modes"]["images"] = 2
    return small


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with lived_in(tmp_path_factory.mktemp("scenes"), tree(), without=["compute"]) as folder:
        yield folder


def test_references_are_the_partners_landscapes_warped_as_their_faces_and_answers_have_the_sketchs_scene(house):
    p = params.load()
    shapes = json.loads((house / "data/raw/embedded.json").read_text())
    ids = manifest.ids(house / "data/faces/manifest.csv", "test")
    with (house / "data/references/pairing.csv").open(newline="") as file:
        cross = {row["id"]: row["cross"] for row in csv.DictReader(file)}
    found, true = (artifacts.read_array(house / f"data/references/{name}.npy") for name in ("scene", "cross_true"))
    for i, id_ in enumerate(ids):
        own, other = shapes[id_], shapes[cross[id_]]
        landscape = embedded.render_landscape(other["shape"], other["palette"], p.embedded.size)
        side = normalise(landscape, p.data.native_size, 10**6)[0]
        warp = tps.draw(p.references.seed, [cross[id_]], p.references)
        np.testing.assert_array_equal(found[i], resize.to_bytes(tps.warp(resize.to_unit(side[None]).double(), warp))[0])
        answer = embedded.render("adventurer", own["shape"], other["palette"], p.embedded.size)
        np.testing.assert_array_equal(true[i], normalise(answer, p.data.native_size, 10**6)[0])
    assert not artifacts.read_array(house / "data/masks/scene.npy").any()


def test_rows_are_judged_by_landscapes_figure_and_background_apart_beside_the_mean_colour(house):
    summary = json.loads((house / "reports/metrics/split-attention/finetune/seed-0/scene.json").read_text())
    assert {"psnr", "psnr_fg", "psnr_bg"} <= summary["metrics"].keys() and "line_fidelity" not in summary["metrics"]
    baselines = json.loads((house / "reports/metrics/baselines.json").read_text())["rows"]
    assert {"cross-true", "scene"} <= baselines["mean_color"].keys()
    assert baselines["mean_color"]["scene"] == baselines["mean_color"]["cross-true"]
    assert baselines["reference"]["scene"]["psnr_bg"]["value"] is not None
    text = (house / "reports/tables/main.md").read_text()
    assert "landscape without a figure" in text and "PSNR, background" in text
    lines = (house / "reports/tables/differences.csv").read_text()
    assert "scene,psnr_bg,split-attention-fig2fig,finetune,split-attention,finetune" in lines


def test_the_figure_of_modes_has_each_kind_of_reference(house):
    with Image.open(house / "reports/figures/modes.png") as image:
        width, height = image.size
    assert width > height  # five rows of pictures: sketch, reference, two modes, truth; three kinds of two faces
    assert (house / "reports/figures/qualitative_scene.png").is_file()
    shown = {w["setting"] for w in rows.moded(params.load())}
    assert shown == {"same", "cross", "scene"}


def test_without_scenes_there_is_no_such_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat = tree() | {"embedded": preset_tree("demo")["embedded"]}
    write_params(tmp_path, flat)
    files = [file for i in table.instances(params.load()) for file in (*i.files, *i.outputs.values())]
    assert not [file for file in files if "scene" in file or "landscape" in file]


def test_modes_of_weights_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = tree()
    wrong["report"]["modes"]["weights"] = "split-attention/encoder"
    write_params(tmp_path, wrong)
    with pytest.raises(ParameterError, match=r"report\.modes\.weights: split-attention/encoder is no training"):
        params.load()
