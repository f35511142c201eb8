"""Exported weights: a folder that loads anywhere, a card that says how it was made, and the same network as ONNX."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard

from ssimbad.colorize import graph, load
from ssimbad.colorize.painter import Painter
from ssimbad.errors import ParameterError, UserError
from ssimbad.methods import registry
from ssimbad.methods.contract import Conditions
from ssimbad.params import tree as params
from ssimbad.params.base import Colour
from ssimbad.pipeline import publish
from ssimbad.training import checkpoints

from .conftest import lived_in, miniature
from .small import RATIONAL, batch, build, by, same, setup

NEEDED = ("raw", "faces", "sketches", "references", "pretrain", "colorize", "evaluate")
LINES = np.full((40, 25), 255, np.uint8)
LINES[10:13, 3:20] = 0
DESIGN = np.full((30, 60, 3), (200, 40, 90), np.uint8)


def answered(file: bytes, about: dict, noise: np.ndarray, sketch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What a program makes of the graph and of config.json, by Euler, with NumPy alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {"sketch": sketch, "reference": reference}
    if "levels" not in about:
        return session.run([about["output"]], given)[0]
    x = np.float32(about["start"]) * noise
    for sigma, following in itertools.pairwise(about["levels"]):
        level = np.full(len(x), sigma, np.float32)
        denoised = session.run([about["output"]], given | {"x": x, "sigma": level})[0]
        x = denoised + np.float32(following / sigma) * (x - denoised)
    return x.clip(-1, 1)


@pytest.mark.parametrize("kind", ["ssimbad", "edm", "animediffusion", "regression", "scft"])
def test_the_graph_answers_as_the_network_does_through_a_chain(kind):
    method, model = registry.get(kind), build(kind).eval()
    for parameter in model.parameters():  # a fresh network answers nothing: its last layer is zero
        torch.nn.init.normal_(parameter, 0, 0.1)
    colour = by("euler", 8) if method.samplers else Colour()
    exported = method.exported(model, setup(kind), colour)
    about, three = graph.described(exported, "model.onnx"), batch(3)
    noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = method.colorize(
            model, Conditions(sketch=three.sketch, reference=three.reference), same(noise), colour, None
        )
    given = (images.numpy() for images in (noise, three.sketch, three.reference))
    found = answered(graph.written(model, exported), json.loads(json.dumps(about)), *given)
    assert found.std() > 0.01 and np.abs(found - wanted.numpy()).max() < 1e-3


def test_a_whole_model_needs_no_other_files(tmp_path):
    model, described = build("latent_cold"), registry.described(setup("latent_cold"))
    checkpoints.write_weights(tmp_path / load.TENSORS, model.state_dict())
    colour = {"sampler": {"name": "cold", "steps": 2}}
    made = {"setup": described, "stage": "pretrain", "parameters": 1, "colour": colour}
    (tmp_path / load.CONFIG).write_text(json.dumps(made))
    found = load.trained(tmp_path, torch.device("cpu"), False).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    found.pop(next(name for name in found if name.startswith("encoder.")))
    checkpoints.write_weights(tmp_path / load.TENSORS, found)
    with pytest.raises(UserError, match="weights of another network"):
        load.trained(tmp_path, torch.device("cpu"), False)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One row with its numbers, and one that takes no sketch and was never trained."""
    tree = miniature()
    row = tree["methods"]["ssimbad"]
    row = {key: row[key] for key in ("kind", "label", "pretrain")} | {"config": {"phi": RATIONAL}}
    tree["methods"] = {"ssimbad": row | {"colour": {"pretrain": {"sampler": {"name": "euler", "steps": 2}}}}}
    with lived_in(tmp_path_factory.mktemp("export"), tree, only=NEEDED) as folder:
        yield folder


def test_an_exported_row_loads_anywhere_and_answers_alike(house, tmp_path, monkeypatch):
    said = publish.run(params.load(), "ssimbad/pretrain", house / "out", onnx=True)
    assert said.startswith("ssimbad/pretrain: README.md, config.json, model.onnx, model.safetensors, ")
    weights = house / "models/ssimbad/pretrain/seed-0.safetensors"
    assert (house / "out/model.safetensors").read_bytes() == weights.read_bytes()
    wanted = Painter(weights, "cpu").colour(LINES, DESIGN, sampler="euler", steps=2)  # as the row colours
    shutil.move(house / "out", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert np.array_equal(Painter.from_pretrained("elsewhere", device="cpu").colour(LINES, DESIGN).image, wanted.image)
    about = json.loads(Path("elsewhere/config.json").read_text())["onnx"]
    assert about["opset"] == 18 and about["inputs"]["x"] == ["batch", 3, 16, 16] and len(about["levels"]) == 3
    card = ModelCard.load(Path("elsewhere/README.md"))
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "ssimbad")
    measured = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    summary = json.loads((house / "reports/metrics/ssimbad/pretrain/seed-0/cross-true.json").read_text())
    assert measured["embedded, cross-true", "psnr"] == pytest.approx(summary["metrics"]["psnr"]["value"])
    for told in ("16 train, 4 val, 4 test", "Lisa Wischofsky", "| ssimbad/pretrain | denoising | 16 ", "opset 18"):
        assert told in " ".join(card.text.split())


def test_half_the_size_answers_within_a_level(house):
    publish.run(params.load(), "ssimbad/pretrain", house / "half", half=True)
    weights = house / "models/ssimbad/pretrain/seed-0.safetensors"
    small = house / "half/model.safetensors"
    assert small.stat().st_size < 0.6 * weights.stat().st_size
    answers = [
        Painter(w, "cpu").colour(LINES, DESIGN, sampler="euler", steps=2).image for w in (weights, house / "half")
    ]
    assert np.abs(np.subtract(*answers, dtype=np.int16)).max() <= 1
    assert "stored as float16; the numbers below are of float32" in (house / "half/README.md").read_text()


def test_what_was_not_measured_is_not_told(house):
    shutil.move(house / "reports/metrics", house / "moved")
    try:
        publish.run(params.load(), "ssimbad/pretrain", house / "unmeasured")
    finally:
        shutil.move(house / "moved", house / "reports/metrics")
    card = ModelCard.load(house / "unmeasured/README.md")
    assert "Not measured." in card.text and not card.data.eval_results
    assert not (house / "unmeasured/model.onnx").exists()


def test_mistakes_are_told_in_a_line_and_leave_nothing(house, monkeypatch):
    p = params.load()
    (house / "mine").mkdir(exist_ok=True)
    before = sorted(house.iterdir())
    for row, more, said in [
        ("ssimbad/finetune", {}, "ssimbad/finetune: no row of params.yaml; there are ssimbad/pretrain"),
        ("ssimbad/pretrain", {"seed": 7}, "--seed 7: not among the seeds of params.yaml, 0"),
        ("ssimbad/pretrain", {"out": house / "mine"}, "mine: there already, and nothing is replaced"),
    ]:
        with pytest.raises(ParameterError, match=said):
            publish.run(p, row, **{"out": house / "new"} | more)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "half", lambda tensor: tensor.to(torch.float16) * float("inf"))
        with pytest.raises(ParameterError, match=r"--half: network\.\S+ holds numbers that float16 does not know"):
            publish.run(p, "ssimbad/pretrain", house / "new", half=True)
    with monkeypatch.context() as patch:
        patch.setattr(graph, "written", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish.run(p, "ssimbad/pretrain", house / "new", onnx=True)
    made = house / "models/ssimbad/pretrain/seed-0.json"
    text = made.read_text()
    made.write_text(text + "\n")
    try:
        with pytest.raises(UserError, match="ssimbad/pretrain: not fresh, its weights: output models/"):
            publish.run(p, "ssimbad/pretrain", house / "new")
    finally:
        made.write_text(text)
    assert sorted(house.iterdir()) == before


def test_a_name_that_is_nowhere_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nobody/nothing", "../up/and/away"):
        with pytest.raises(UserError, match=f"{name}: no folder here, and not to be had from the hub"):
            Painter.from_pretrained(name)
