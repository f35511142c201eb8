"""Stages sketches and references on a handful of faces."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import embedded
from ssimbad.faces.reading import normalise
from ssimbad.pairing import references, resize, stage_references, stage_sketches, styles, tps, xdog
from ssimbad.params import tree as params
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

SIDE = 32
COUNTS = {"train": 5, "val": 0, "test": 6}
DECLARED = ("sketches", "references", "data.native_size", "data.source", "data.max_pixels", "embedded")


@pytest.fixture
def view() -> View:
    tree = params.load(Path("presets/demo.yaml"))
    small = tree.data.model_copy(update={"native_size": SIDE, "size": SIDE})
    return View(tree.model_copy(update={"data": small}), DECLARED)


def _faces(count: int, first: int) -> np.ndarray:
    picture = data.astronaut()
    return np.stack([picture[9 * i : 9 * i + SIDE, 200 : 200 + SIDE] for i in range(first, first + count)])


@pytest.fixture
def inputs(tmp_path) -> dict[str, Path]:
    _manifest(tmp_path / "manifest.csv", {})
    paths = {"manifest": tmp_path / "manifest.csv"}
    for n, (split, count) in enumerate(COUNTS.items()):
        paths[split] = tmp_path / "faces" / f"{split}.npy"
        faces = _faces(count, 10 * n) if count else np.empty((0, SIDE, SIDE, 3), np.uint8)
        artifacts.write_array(paths[split], faces)
    return paths


def _ids(split: str) -> list[str]:
    return [f"{split}-{i}" for i in range(COUNTS[split])]


def _manifest(path: Path, given: dict[str, str]) -> None:
    rows = [f"{i},{split},{i}.png,0,9,9,{given.get(i, '')}" for split in COUNTS for i in _ids(split)]
    path.write_text("\n".join(["id,split,source,sha256,width,height,sketch", *rows]) + "\n", encoding="utf-8")


def _outputs(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / (f"{name}.csv" if name == "pairing" else f"{name}.npy") for name in names}


def _job(folder: Path, threads: int = 1) -> Job:
    return Job("pairing", folder, threads=threads)


def _bytes(paths: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in paths.items()}


def test_sketches_are_the_xdog_of_the_faces_whatever_the_threads(view, inputs, tmp_path, monkeypatch):
    one, many = _outputs(tmp_path / "one", *COUNTS), _outputs(tmp_path / "many", *COUNTS)
    stage_sketches.run(view, inputs, one, _job(tmp_path))
    monkeypatch.setattr(stage_sketches, "CHUNK", 2)
    stage_sketches.run(view, inputs, many, _job(tmp_path, threads=3))
    assert _bytes(one) == _bytes(many)
    constants = view.sketches
    for split, count in COUNTS.items():
        drawn = artifacts.read_array(one[split])
        assert drawn.shape == (count, SIDE, SIDE) and drawn.dtype == np.uint8
        for i, (id_, face) in enumerate(zip(_ids(split), artifacts.read_array(inputs[split]), strict=True)):
            sigma = xdog.draw_sigma([id_], constants.seed, constants)
            np.testing.assert_array_equal(drawn[i], xdog.sketch(face[None], sigma, constants)[0])


def test_sketches_of_several_styles_come_beside_and_change_nothing_else(view, inputs, tmp_path, monkeypatch):
    plain, more = _outputs(tmp_path / "plain", *COUNTS), _outputs(tmp_path / "more", *COUNTS, "styles")
    stage_sketches.run(view, inputs, plain, _job(tmp_path))
    monkeypatch.setattr(stage_sketches, "CHUNK", 2)
    asked = SimpleNamespace(**dict(view.sketches) | {"styles": ["broken", "xdog", "vector"]})
    stage_sketches.run(SimpleNamespace(sketches=asked), inputs, more, _job(tmp_path))
    assert _bytes(plain) == {name: data for name, data in _bytes(more).items() if name != "styles"}
    every, train = artifacts.read_array(more["styles"]), artifacts.read_array(plain["train"])
    assert every.shape == (5, 3, SIDE, SIDE) and every.dtype == np.uint8
    for i, name in enumerate(asked.styles):
        np.testing.assert_array_equal(every[:, i], styles.drawn(train, _ids("train"), name, asked.seed))


def test_given_sketches_are_used_as_they_are(view, inputs, tmp_path):
    lines = np.full((1, SIDE, SIDE), 255, np.uint8)
    lines[0, 3:9, 5] = 40
    _manifest(inputs["manifest"], {"test-2": "sketch/a.png"})
    artifacts.write_array(tmp_path / "given.npy", lines)
    outputs = _outputs(tmp_path, *COUNTS)
    stage_sketches.run(view, {**inputs, "given_test": tmp_path / "given.npy"}, outputs, _job(tmp_path))
    drawn = artifacts.read_array(outputs["test"])
    np.testing.assert_array_equal(drawn[2], lines[0])
    assert (drawn[3] != lines[0]).any()
    artifacts.write_array(tmp_path / "given.npy", np.concatenate([lines, lines]))
    with pytest.raises(UserError, match=r"given\.npy: 2 images for 1 ids.*run stage faces again"):
        stage_sketches.run(view, {**inputs, "given_test": tmp_path / "given.npy"}, outputs, _job(tmp_path))
    assert not list(tmp_path.glob(".*tmp"))


def _shapes(path: Path, ids: list[str]) -> dict[str, dict]:
    drawn = {id_: {"shape": s, "palette": p} for id_, (s, p) in embedded.draw_faces(ids, "adventurer", 0).items()}
    artifacts.write_json(path, drawn)
    return drawn


def test_references_are_the_seeded_warps_and_pairs(view, inputs, tmp_path, monkeypatch):
    ids, seed = _ids("test"), view.references.seed
    cross = references.derangement(ids, seed)
    inputs["shapes"] = tmp_path / "shapes.json"
    drawn = _shapes(inputs["shapes"], ids[::-1])
    written = ("same", "cross", "other", "pairing", "true")
    one, many = _outputs(tmp_path / "one", *written), _outputs(tmp_path / "many", *written)
    stage_references.run(view, inputs, one, _job(tmp_path))
    monkeypatch.setattr(stage_references, "CHUNK", 4)
    stage_references.run(view, inputs, many, _job(tmp_path, threads=3))
    assert _bytes(one) == _bytes(many)

    rows = list(csv.DictReader(io.StringIO(one["pairing"].read_text(encoding="utf-8"))))
    assert [row["id"] for row in rows] == ids
    assert {row["id"]: row["cross"] for row in rows} == cross
    assert all(row["other"] not in (row["id"], row["cross"]) for row in rows)
    same = artifacts.read_array(one["same"])
    images = resize.to_unit(artifacts.read_array(inputs["test"])).double()
    np.testing.assert_array_equal(same, resize.to_bytes(tps.warp(images, tps.draw(seed, ids, view.references))))
    for name in ("cross", "other"):
        shown = artifacts.read_array(one[name])
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(shown[i], same[ids.index(row[name])])
    for id_, true in zip(ids, artifacts.read_array(one["true"]), strict=True):
        shape, palette, size = drawn[id_]["shape"], drawn[cross[id_]]["palette"], view.embedded.size
        answer = embedded.render("adventurer", shape, palette, size)
        np.testing.assert_array_equal(true, normalise(answer, SIDE, 10**6)[0])


def test_companions_are_other_faces_of_the_training_in_the_same_colours(view, inputs, tmp_path):
    ids = _ids("train")
    inputs["shapes"] = tmp_path / "shapes.json"
    drawn = _shapes(inputs["shapes"], [*ids, *_ids("test")])
    outputs = _outputs(tmp_path, "same", "cross", "other", "pairing", "true", "companions")
    stage_references.run(view, inputs, outputs, _job(tmp_path))
    found = artifacts.read_array(outputs["companions"])
    own = {id_: pixels(drawn[id_]["shape"], drawn[id_]["palette"]) for id_ in ids}
    assert len(found) == len(ids)
    for id_, image in zip(ids, found, strict=True):
        fits = [k for k in ids if np.array_equal(image, pixels(drawn[k]["shape"], drawn[id_]["palette"]))]
        assert fits and id_ not in fits
        assert not np.array_equal(image, own[id_])


def pixels(shape: dict, palette: dict) -> np.ndarray:
    return normalise(embedded.render("adventurer", shape, palette, 128), SIDE, 10**6)[0]


def test_faces_of_a_folder_have_no_true_answers(view, inputs, tmp_path):
    outputs = _outputs(tmp_path, "same", "cross", "other", "pairing")
    stage_references.run(view, inputs, outputs, _job(tmp_path))
    assert Image.fromarray(artifacts.read_array(outputs["same"])[0]).size == (SIDE, SIDE)


def test_a_face_without_a_shape_is_named_with_the_remedy(view, inputs, tmp_path):
    inputs["shapes"] = tmp_path / "shapes.json"
    _shapes(inputs["shapes"], _ids("test")[:-1])
    with pytest.raises(UserError, match=r"shapes\.json: has no test-5; run stage raw again"):
        stage_references.run(
            view, inputs, _outputs(tmp_path, "same", "cross", "other", "pairing", "true"), _job(tmp_path)
        )


def test_a_manifest_of_other_faces_is_noticed(view, inputs, tmp_path):
    artifacts.write_array(inputs["test"], np.zeros((2, SIDE, SIDE, 3), np.uint8))
    with pytest.raises(UserError, match=r"test\.npy: 2 images for 6 ids"):
        stage_references.run(view, inputs, _outputs(tmp_path, "same", "cross", "other", "pairing"), _job(tmp_path))
