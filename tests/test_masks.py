"""Masks: true ones, given ones, ones by rule; and as the input of a method."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from ssimbad import artifacts
from ssimbad.colorize import chunks, load, user
from ssimbad.errors import ParameterError, UserError
from ssimbad.faces import embedded, manifest
from ssimbad.faces.reading import normalise
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.methods.contract import Losses, Method, Setup
from ssimbad.metrics import registry as metrics
from ssimbad.metrics.contract import Given, Unmeasurable
from ssimbad.pairing import masks, resize, stage_masks, tps, xdog
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Strict
from ssimbad.params.view import View
from ssimbad.pipeline import rows, table
from ssimbad.runtime.job import Job
from ssimbad.training.feed import Feed, Shard

from .small import CPU, WARP

DEMO = params.load(Path("presets/demo.yaml"))
SIDE = 64
FACES = embedded.draw_faces(embedded.face_ids(8), "adventurer", 3)


def _view(source: str = "embedded") -> View:
    data = DEMO.data.model_copy(update={"native_size": SIDE, "source": source})
    tree = DEMO.model_copy(update={"data": data, "embedded": DEMO.embedded.model_copy(update={"size": 128})})
    data_keys = ("data.native_size", "data.source", "data.max_pixels", "data.crop")
    declared = ("references", "embedded.style", "embedded.size", *data_keys)
    return View(tree, declared)


def _picture(shape: dict, palette: dict, size: int = 128) -> np.ndarray:
    return normalise(embedded.render("adventurer", shape, palette, size), size, 10**6)[0]


def _mask(shape: dict, palette: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(embedded.render_mask("adventurer", shape, palette, 128))))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a > 127, b > 127
    return (a & b).sum() / (a | b).sum()


def test_the_mask_of_a_rendered_face_is_its_alpha():
    """Over two backgrounds B the pixels are alpha·F + (1 - alpha)·B, so that their difference tells alpha."""
    for shape, palette in FACES.values():
        # A ribbon is painted in a shade of the background's colour, and would differ as well.
        bare = {**shape, "hair": "short01"}
        white, black = (_picture(bare, {**palette, "background": b}).astype(int) for b in ("#ffffff", "#000000"))
        alpha = 255 - (white - black).mean(axis=-1)
        found = _mask(bare, palette)
        assert 0.1 < (found > 127).mean() < 0.95
        assert np.abs(found - alpha).max() <= 2


def test_rules_find_the_figure_before_a_flat_background():
    of_faces, of_sketches = [], []
    for shape, palette in FACES.values():
        face, true = _picture(shape, palette), _mask(shape, palette)
        of_faces.append(_iou(masks.of_face(face), true))
        sketch = xdog.sketch(face[None], np.array([0.5]), DEMO.sketches)[0]
        of_sketches.append(_iou(masks.of_sketch(sketch), true))
    print("IoU", np.round(of_faces, 3), np.round(of_sketches, 3))
    assert min(of_faces) >= 0.9
    assert min(of_sketches) >= 0.9


def test_a_gap_in_the_line_does_not_let_the_flood_in():
    sheet = np.full((128, 128), 255, np.uint8)
    sheet[30:100, [30, 100]] = sheet[[30, 100], 30:101] = 0
    whole = masks.of_sketch(sheet)
    sheet[60:63, 30] = 255
    assert _iou(masks.of_sketch(sheet), whole) > 0.99
    assert whole[65, 65] == 255 and whole[10, 10] == 0
    sheet[50:75, 30] = 255
    assert masks.of_sketch(sheet)[65, 65] == 0


@pytest.fixture
def stored(tmp_path) -> dict[str, Path]:
    """Eight rendered faces: three to train on, one for validation, four to test."""
    splits = {"train": 3, "val": 1, "test": 4}
    names = iter(FACES)
    chosen = {split: [next(names) for _ in range(n)] for split, n in splits.items()}
    rows = [(split, i) for split, ids in chosen.items() for i in ids]
    _manifest(tmp_path / "manifest.csv", rows)
    for split, ids in chosen.items():
        faces = [normalise(embedded.render("adventurer", *FACES[i], 128), SIDE, 10**6)[0] for i in ids]
        artifacts.write_array(tmp_path / f"{split}.npy", np.stack(faces))
    ids = chosen["test"]
    pairs = [(id_, ids[i - 1], ids[i - 2]) for i, id_ in enumerate(ids)]
    artifacts.write_csv(tmp_path / "pairing.csv", ("id", "cross", "other"), pairs)
    shapes = {i: {"shape": s, "palette": p} for i, (s, p) in FACES.items()}
    artifacts.write_json(tmp_path / "shapes.json", shapes)
    return {split: tmp_path / f"{split}.npy" for split in splits} | {
        "manifest": tmp_path / "manifest.csv", "pairing": tmp_path / "pairing.csv", "shapes": tmp_path / "shapes.json",
    }  # fmt: skip


def _manifest(path: Path, rows: list[tuple[str, str]], masks: dict[str, str] | None = None) -> None:
    """With a column of masks where there are any."""
    columns = ("id", "split", "source", "sha256", "width", "height", "sketch", *(("mask",) if masks else ()))
    lines = [dict.fromkeys(columns, 9) | {"id": i, "split": split, "mask": (masks or {}).get(i)} for split, i in rows]
    artifacts.write_csv(path, columns, lines)


def _run(inputs: dict[str, Path], folder: Path, source: str = "embedded", threads: int = 1) -> dict[str, np.ndarray]:
    names = ("train", "val", "test", "same", "cross", "other")
    outputs = {name: folder / "out" / f"{name}.npy" for name in names}
    stage_masks.run(_view(source), inputs, outputs, Job("masks", folder, threads))
    return {name: np.array(artifacts.read_array(path)) for name, path in outputs.items()}


def test_the_stage_writes_true_masks_and_warps_them_as_references(stored, tmp_path):
    found = _run(stored, tmp_path)
    assert {name: len(m) for name, m in found.items()} == {
        "train": 3, "val": 1, "test": 4, "same": 4, "cross": 4, "other": 4,
    }  # fmt: skip
    ids = list(FACES)[4:]
    small = resize.area(np.stack([_mask(*FACES[i]) for i in ids]), SIDE)
    assert np.abs(found["test"].astype(int) - small).mean() < 4  # two ways to shrink
    assert min(_iou(a, b) for a, b in zip(found["test"], small, strict=True)) > 0.97
    # A face that is white where its figure is and black elsewhere is warped to the mask of its reference.
    warped = tps.warp(resize.to_unit(found["test"]).double(), tps.draw(DEMO.references.seed, ids, DEMO.references))
    assert np.array_equal(found["same"], resize.to_bytes(warped))
    assert np.array_equal(found["cross"], np.roll(found["same"], 1, axis=0))
    assert np.array_equal(found["other"], np.roll(found["same"], 2, axis=0))


def _network(
    path: Path,
    shown: tuple = (1, 3, SIDE, SIDE),
    answered: tuple = (1, 1, SIDE, SIDE),
    weights: tuple[float, ...] = (1, 0, 0),
    kind: int = onnx.TensorProto.FLOAT,
    nodes: tuple[onnx.NodeProto, ...] = (),
    tensors: tuple[str, ...] = (),
) -> Path:
    """A network that answers the weighted sum of red, green and blue; `nodes` change it, `tensors` come and go too."""
    make = onnx.helper
    given = onnx.numpy_helper.from_array(np.array(weights, np.float32).reshape(-1, 3, 1, 1), "weights")
    last = "sum" if nodes else "answer"
    own = [make.make_node("Conv", ["picture", "weights"], [last])]
    if kind != onnx.TensorProto.FLOAT:
        own = [
            make.make_node("Cast", ["picture"], ["float"], to=1),
            make.make_node("Conv", ["float", "weights"], [last]),
        ]
    more = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, answered) for name in tensors]
    graph = make.make_graph(
        [*own, *nodes], "network",
        [make.make_tensor_value_info("picture", kind, shown), *(x for x in more if x.name.startswith("in"))],
        [make.make_tensor_value_info("answer", 1, answered), *(x for x in more if x.name.startswith("out"))],
        [given],
    )  # fmt: skip
    domains = [make.make_opsetid("", 17), make.make_opsetid("mine", 1)]
    path.write_bytes(make.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString())
    return path


def _node(kind: str, inputs: list[str], outputs: list[str], **given) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, outputs, **given)


def test_a_network_sees_the_whole_picture_and_answers_at_its_size(tmp_path):
    rng = np.random.default_rng(0)
    red = masks.of_network(_network(tmp_path / "red.onnx", (1, 3, 16, 16), (1, 1, 16, 16)))
    for height, width in ((16, 16), (16, 9), (7, 16)):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert np.array_equal(red(picture), picture[..., 0])
        assert np.array_equal(red(picture[..., 1]), picture[..., 1])  # a sketch
    # Enlarged and shrunk, and a sliver.
    for height, width in ((8, 8), (60, 40), (64, 1)):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[height // 2 :, :, 0] = 255
        found = red(picture)
        assert found.shape == (height, width) and (abs(found.astype(int) - picture[..., 0]) > 100).mean() < 0.15
    # In the middle of the square: of what stands in its rows the middle ones come back.
    rows = np.arange(16, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    zeros = _node("Sub", ["sum", "sum"], ["zeros"])
    numbered = _node("Constant", [], ["rows"], value=onnx.numpy_helper.from_array(rows / 255))
    of_rows = _network(
        tmp_path / "rows.onnx", (1, 3, 16, 16), (1, 1, 16, 16),
        nodes=(zeros, numbered, _node("Add", ["zeros", "rows"], ["answer"])),
    )  # fmt: skip
    found = masks.of_network(of_rows)(np.zeros((8, 16, 3), np.uint8))
    assert np.array_equal(found, rows[4:12])
    # Padded by black on both sides: of white in one half of the square the mean is one half.
    mean = (_node("ReduceMean", ["sum"], ["mean"], keepdims=1), _node("Add", ["zeros", "mean"], ["answer"]))
    of_all = _network(tmp_path / "mean.onnx", (1, 3, 16, 16), (1, 1, 16, 16), nodes=(zeros, *mean))
    assert (masks.of_network(of_all)(np.full((8, 16, 3), 255, np.uint8)) == 128).all()


def test_what_a_network_leaves_open_is_a_thousand_pixels(tmp_path):
    """A network that answers figure everywhere if it is shown so many, and else nowhere."""
    for wanted, level in ((1024, 255), (1023, 0)):
        side = onnx.numpy_helper.from_array(np.array([wanted, wanted], np.int64))
        nodes = (
            _node("Shape", ["sum"], ["sides"], start=2, end=4), _node("Constant", [], ["wanted"], value=side),
            _node("Equal", ["sides", "wanted"], ["alike"]), _node("Cast", ["alike"], ["both"], to=1),
            _node("ReduceMin", ["both"], ["share"], keepdims=0), _node("Sub", ["sum", "sum"], ["zeros"]),
            _node("Add", ["zeros", "share"], ["answer"]),
        )  # fmt: skip
        path = _network(tmp_path / f"{wanted}.onnx", ("n", 3, "h", "w"), ("n", 1, "h", "w"), nodes=nodes)
        assert (masks.of_network(path)(np.zeros((4, 4, 3), np.uint8)) == level).all()


_OTHERS = {
    "nothing": (lambda path: path.write_bytes(b""), "no network that finds figures"),
    "noise": (lambda path: path.write_bytes(b"ORTM" + bytes(range(256))), "no network that finds figures"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "absent": (lambda path: None, "cannot be read"),
    "bytes": (lambda path: _network(path, kind=onnx.TensorProto.UINT8), "inputs tensor.uint8. .1, 3, 64, 64."),
    "two inputs": (lambda path: _network(path, tensors=("in",)), r"inputs tensor.float. .*, tensor.float. .* and"),
    "two outputs": (
        lambda path: _network(path, tensors=("out",), nodes=(_node("Identity", ["sum"], ["answer"]),
                                                             _node("Identity", ["sum"], ["out"]))),
        r"outputs tensor.float. .*, tensor.float",
    ),
    "several pictures": (lambda path: _network(path, (4, 3, 64, 64), (4, 1, 64, 64)), "its input is .* .4, 3, 64, 64."),
    "no square": (lambda path: _network(path, (1, 3, 64, 32), (1, 1, 64, 32)), "its input is .* .1, 3, 64, 32."),
    "huge": (lambda path: _network(path, (1, 3, 8192, 8192), (1, 1, 8192, 8192)), "8192 pixels to a side"),
    "colours": (lambda path: _network(path, answered=(1, 2, 64, 64), weights=(1, 0, 0, 0, 1, 0)), "answers .1, 2, 64"),
    "too much": (lambda path: _network(path, weights=(3, 0, 0)), "answers 0 to 3"),
    "less than nothing": (lambda path: _network(path, weights=(-1, 0, 0)), "answers -1 to 0"),
    "no number": (lambda path: _network(path, weights=(np.nan, 0, 0)), "answers nan to nan"),
    "operator": (
        lambda path: _network(path, nodes=(_node("Mine", ["sum"], ["answer"], domain="mine"),)), "mine:Mine"
    ),
    "cannot run": (
        lambda path: _network(path, ("n", 3, "h", "w"), ("n", 1, "h", "w"), nodes=(
            _node("Shape", ["sum"], ["behind"], start=3, end=4), _node("Gather", ["sum", "behind"], ["answer"], axis=3),
        )), "cannot be run, .*out of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", _OTHERS)
def test_any_other_file_is_refused_in_one_line(tmp_path, capfd, what):
    make, message = _OTHERS[what]
    path = tmp_path / "other.onnx"
    make(path)
    white_and_black = np.zeros((SIDE, SIDE, 3), np.uint8)
    white_and_black[:32] = 255
    with pytest.raises(UserError, match=message) as refused:
        masks.of_network(path)(white_and_black)
    said = str(refused.value)
    assert said.startswith(f"{path}: ") and "(1, 3, S, S), RGB in [0, 1]" in said and "\n" not in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["beside.bin", "../outside.bin", "{absolute}"])
def test_weights_in_other_files_are_not_read(tmp_path, monkeypatch, place):
    """Not even in the folder of the file, of which no record would tell."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    path = _network(home / "other.onnx")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    for file in (home / "beside.bin", tmp_path / "outside.bin"):
        file.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place.format(absolute=tmp_path / "outside.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"no network that finds figures.*xternal data.*whole in itself"):
        masks.of_network(path)


def test_given_masks_are_used_as_they_are_and_a_rule_or_a_network_serves_the_others(stored, tmp_path):
    folder = tmp_path / "mine"
    (folder / "mask").mkdir(parents=True)
    (folder / "reference").mkdir()
    first = next(iter(FACES))
    given = np.zeros((SIDE, SIDE), np.uint8)
    given[5:20, 7:30] = 255
    (folder / "mask" / f"{first}.png").write_bytes(artifacts.png_bytes(given))
    for name in FACES:
        (folder / "reference" / f"{name}.png").write_bytes(embedded.render("adventurer", *FACES[name], 128))
    rows = [(split, i) for split in ("train", "val", "test") for i in manifest.ids(stored["manifest"], split)]
    _manifest(stored["manifest"], rows, {first: f"mask/{first}.png"})
    inputs = {name: path for name, path in stored.items() if name != "shapes"} | {"raw": folder}
    found = _run(inputs, tmp_path, "folder")
    faces = artifacts.read_array(stored["train"])
    assert np.array_equal(found["train"][0], given)
    assert np.array_equal(found["train"][1], masks.of_face(faces[1]))
    for threads in (1, 2):
        found = _run(inputs | {"network": _network(tmp_path / "red.onnx")}, tmp_path, "folder", threads)
        assert np.array_equal(found["train"][0], given)
        assert np.array_equal(found["train"][1:], faces[1:, ..., 0])
        assert np.array_equal(found["test"], artifacts.read_array(stored["test"])[..., 0])
    config = sources.config("folder", str(folder))
    with sources.of(config).opened(config, folder, 10**6) as source:
        listing = source.listing
        assert [p.id for p in listing.pictures] == list(FACES) and not listing.unused
        assert {p.id: p.mask for p in listing.pictures if p.mask} == {first: f"mask/{first}.png"}


class _Config(Strict):
    """None."""


class _Options(Strict):
    """Green instead of the reference's mask."""

    green: float | None = None


def _method() -> Method:
    """Answers with its two masks and the sketch as red, green and blue."""

    def build(setup: Setup) -> nn.Module:
        return nn.Conv2d(1, 1, 1)

    def step(model, batch, plan, rng, features) -> Losses:
        loss = (model(batch.mask) - batch.reference_mask).square().mean(dim=(1, 2, 3))
        return Losses(loss.mean(), loss.detach(), None)

    def colorize(model, given, fresh, colour, watch):
        green = 2 * given.reference_mask - 1 if colour.options.green is None else torch.full_like(given.mask, 0.0)
        return torch.cat([2 * given.mask - 1, green, given.sketch], dim=1)

    return Method(
        Config=_Config, objectives={"fake": _Config}, build=build, training_step=step, colorize=colorize,
        inputs=("sketch", "reference", "mask", "reference_mask"), ColourOptions=_Options,
    )  # fmt: skip


def test_the_feed_gives_the_targets_mask_and_its_equal_warp():
    rng = np.random.default_rng(0)
    figures = (rng.random((6, 32, 32)) > 0.5).astype(np.uint8) * 255
    faces = np.repeat(figures[..., None], 3, axis=-1)  # white figures on black: the reference shows its own mask
    both = ["mask", "reference_mask"]
    batch = Feed(faces, figures, 16, WARP, 5, CPU, True, masks=figures, masked=both).batch(0, 4, Shard())
    assert torch.allclose(batch.mask, (batch.target[:, :1] + 1) / 2, atol=1e-6)
    assert torch.allclose(batch.reference_mask, (batch.reference[:, :1] + 1) / 2, atol=1e-5)
    assert not torch.allclose(batch.mask, batch.reference_mask, atol=0.1)
    one = Feed(faces, figures, 16, WARP, 5, CPU, True, masks=figures, masked=["reference_mask"]).batch(0, 4, Shard())
    assert one.mask is None and torch.equal(one.reference_mask, batch.reference_mask)
    assert torch.equal(one.reference, batch.reference)
    losses = _method().training_step(nn.Conv2d(1, 1, 1), batch, None, None, None)
    assert losses.loss.requires_grad


def _pictured(tmp_path: Path) -> dict[str, Path]:
    face = _picture(*FACES["face-00001"])
    sheet = xdog.sketch(face[None], np.array([0.5]), DEMO.sketches)[0]
    figure = np.zeros((128, 128), np.uint8)
    figure[:64] = 255
    pictures = {"sketch": sheet, "reference": face, "figure": figure}
    files = {name: tmp_path / f"{name}.png" for name in pictures}
    for name, path in files.items():
        path.write_bytes(artifacts.png_bytes(pictures[name]))
    return files


def test_somebodys_own_masks_and_rules_where_there_are_none(tmp_path, monkeypatch):
    method = _method()
    monkeypatch.setattr(registry, "get", lambda kind: method)
    setup = Setup("fake", _Config(), 32)
    model = load.Trained(method.build(setup), setup, 2, Colour(options=_Options()))
    monkeypatch.setattr(load, "trained", lambda *a, **k: model)
    weights, out, files = tmp_path / "w.safetensors", tmp_path / "out.png", _pictured(tmp_path)
    user.run(files["sketch"], files["reference"], weights, out)
    answer = np.asarray(Image.open(out))
    face = np.asarray(Image.open(files["reference"]))
    by_rule = resize.area(np.stack([masks.of_sketch(np.asarray(Image.open(files["sketch"]))), masks.of_face(face)]), 32)
    assert np.abs(answer[..., :2].astype(int) - np.moveaxis(by_rule, 0, -1)).max() <= 2
    user.run(
        files["sketch"],
        files["reference"],
        weights,
        out,
        overwrite=True,
        mask=files["figure"],
        reference_mask=files["figure"],
    )
    answer = np.asarray(Image.open(out))
    assert (answer[:16, :, :2] == 255).all() and (answer[16:, :, :2] == 0).all()
    before = out.read_bytes()
    user.run(files["sketch"], files["reference"], weights, out, overwrite=True, options={"green": "0.5"})
    assert (np.asarray(Image.open(out))[..., 1] == 128).all() and out.read_bytes() != before
    red = _network(tmp_path / "red.onnx", (1, 3, 128, 128), (1, 1, 128, 128))
    user.run(files["sketch"], files["reference"], weights, out, overwrite=True, mask_network=red)
    shares = np.stack([by_rule[0], resize.area(face[None, ..., 0], 32)[0]], -1)
    assert np.abs(np.asarray(Image.open(out))[..., :2].astype(int) - shares).max() <= 2
    for wrong in ({"green": "much"}, {"blue": "1"}):
        with pytest.raises(ParameterError, match=f"--option {next(iter(wrong))}: .*known options: green"):
            user.run(files["sketch"], files["reference"], weights, out, overwrite=True, options=wrong)
    method = replace(method, inputs=("sketch", "reference"))
    with pytest.raises(ParameterError, match=r"--mask.*take no mask"):
        user.run(files["sketch"], files["reference"], weights, out, overwrite=True, mask=files["figure"])
    with pytest.raises(UserError, match=r"red\.onnx: .*take no reference mask"):
        user.run(files["sketch"], files["reference"], weights, out, overwrite=True, mask_network=red)


def test_stored_masks_reach_the_method_in_zero_to_one():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    shares, units = chunks.Stored(images, 16, resize.to_share)[[0, 1]], chunks.Stored(images, 16)[[0, 1]]
    assert shares.min() >= 0 and torch.allclose(2 * shares - 1, units, atol=1e-6)


def test_only_who_takes_masks_has_the_stage(monkeypatch):
    def names() -> set[str]:
        return {i.name for i in table.instances(DEMO)}

    before = names()
    assert "masks" not in before and not rows.masked(DEMO)
    plain = registry.get
    monkeypatch.setattr(registry, "get", lambda kind: replace(plain(kind), inputs=_method().inputs))
    assert names() == before | {"masks"}
    found = {i.name: i for i in table.instances(DEMO)}
    training = next(i for i in found.values() if i.stage.name == "pretrain")
    assert training.inputs["train_masks"] == "data/masks/train.npy" and "masks" in training.upstream
    coloured = next(i for i in found.values() if i.stage.name == "colorize" and i.wildcards["setting"] == "cross")
    assert coloured.inputs["masks"] == "data/masks/test.npy"
    assert coloured.inputs["reference_masks"] == "data/masks/cross.npy"


def test_psnr_of_figure_and_background_apart():
    target = np.full((2, 16, 16, 3), 100, np.uint8)
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[:, 4:12, 4:12] = 255
    image = target + np.where(mask > 0, 0, 20).astype(np.uint8)[..., None]
    given = Given(image, target, masks=mask)
    figure, background = (metrics.by_id(name).function(given) for name in ("psnr_fg", "psnr_bg"))
    assert figure.tolist() == [80, 80] and background.tolist() == pytest.approx([20 * np.log10(255 / 20)] * 2)
    # An edge of one half counts by one half: errors 20² and 0 of weights 1/2 and 1.
    mask[:, 4, 4:12] = 128
    image = target.copy()
    image[:, 4, 4:12] += 20
    found = metrics.by_id("psnr_fg").function(Given(image, target, masks=mask))
    weight = 8 * 128 / (8 * 128 + 56 * 255)
    assert found.tolist() == pytest.approx([10 * np.log10(255**2 / (weight * 400))] * 2)
    with pytest.raises(Unmeasurable, match="all figure"):
        metrics.by_id("psnr_bg").function(Given(image, target, masks=np.full_like(mask, 255)))
