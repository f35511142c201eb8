"""Methods that are given less than sketch and reference, and models with finished parts of other trainings."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.colorize import stage as colorize
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.methods.contract import Losses, Method, NoOptions, Part
from ssimbad.params.base import Strict
from ssimbad.params.tree import Params
from ssimbad.params.view import View
from ssimbad.pipeline import table
from ssimbad.planning import flops
from ssimbad.runtime.job import Job
from ssimbad.training import checkpoints
from ssimbad.training import stage as training

from .conftest import miniature
from .small import CPU

TRAIN = {"images": 32, "batch": 8, "learning_rate": 1.0e-2, "warmup_images": 8}
CHANNELS = {"sketch": 1, "reference": 3, "face": 3}


@pytest.fixture
def bring(monkeypatch):
    """Methods that live in their test alone, by kind."""
    own, loaded, brought = registry.places(), registry.loaded, {}
    monkeypatch.setattr(registry, "places", lambda: own | {kind: kind for kind in brought})
    monkeypatch.setattr(registry, "loaded", lambda module: brought.get(module) or loaded(module))
    for known in (registry.usable, registry.slots):  # so that no other test meets these methods, nor these others'
        monkeypatch.setattr(registry, known.__name__, known.__wrapped__)
    return lambda **methods: brought.update(methods)


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """Faces, sketches and references of noise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    generator, lines = np.random.default_rng(0), []
    for split, count in (("train", 20), ("val", 5), ("test", 6)):
        faces = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        artifacts.write_array(Path(f"data/faces/{split}.npy"), faces)
        artifacts.write_array(Path(f"data/sketches/{split}.npy"), faces[..., 0])
        lines += [f"{split}-{i},{split}" for i in range(count)]
    for name in ("same", "cross", "other"):
        artifacts.write_array(Path(f"data/references/{name}.npy"), faces[::-1])
    artifacts.write_text(Path("data/faces/manifest.csv"), "\n".join(["id,split", *lines]) + "\n")
    return tmp_path


def parameters(**block) -> Params:
    tree = miniature()
    tree["data"] |= {"val": 5, "test": 6}
    tree["methods"] = {"toy": {"kind": "toy", "label": "Toy", **block}}
    return Params.model_validate(tree)


def run(p: Params, name: str) -> dict[str, Path]:
    """One stage instance with the inputs and the parameters that the table gives it, and no others."""
    [instance] = [i for i in table.instances(p) if i.name == name]
    inputs = {k: Path(v) if isinstance(v, str) else [Path(f) for f in v] for k, v in instance.inputs.items()}
    outputs = {key: Path(path) for key, path in instance.outputs.items()}
    w = instance.wildcards
    job = Job(instance.stage.name, Path("work") / name, 1, w["method"], w.get("stage"), w["seed"], w.get("setting"))
    stage = colorize if instance.stage.name == "colorize" else training
    stage.run(View(p, instance.params), inputs, outputs, job)
    return outputs


def painter(inputs: tuple[str, ...], seen: list) -> Method:
    """Paints noise over with what it is given; `seen` are the conditions of all its calls."""

    def paint(model, given, noise):
        seen.append(given)
        return model(torch.cat([noise, *(getattr(given, name) for name in inputs)], dim=1))

    def training_step(model, batch, plan, rng, features):
        image = paint(model, batch, rng.normal(*batch.target.shape[1:]))
        per_image = (image - batch.target).square().mean(dim=(1, 2, 3))
        return Losses(per_image.mean(), per_image.detach(), None)

    def colour(model, given, fresh, how, watch):
        return paint(model, given, fresh(3, 16, 16)).clamp(-1, 1)

    return Method(
        Config=NoOptions,
        objectives={"paint": NoOptions},
        build=lambda setup: nn.Conv2d(3 + sum(CHANNELS[name] for name in inputs), 3, 1),
        training_step=training_step,
        colorize=colour,
        inputs=inputs,
    )


def loss_of(curve: Path) -> list[float]:
    rows = [line.split(",") for line in curve.read_text().splitlines()[1:]]
    return [float(value) for _, split, name, value in rows if (split, name) == ("train", "loss")]


def answers(archive: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(archive) as file:
        return {name: np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in file.namelist()}


@pytest.mark.parametrize(
    ("inputs", "setting"),
    [((), "free"), (("sketch",), "same"), (("sketch", "reference"), "same"), (("face",), "restored")],
)
def test_a_method_is_given_what_it_takes_and_nothing_else(workshop, bring, inputs, setting):
    seen = []
    bring(toy=painter(inputs, seen))
    row = {"validation": {"every": 16, "colour": {}}}
    p = parameters(pretrain=TRAIN | {"objective": "paint"} | row, colour={"pretrain": {}})
    made = run(p, "pretrain-toy-seed-0")
    losses, trained = loss_of(made["curve"]), len(seen)
    assert losses[-1] < losses[0] and trained >= 4 + 2
    assert "val,psnr" in made["curve"].read_text()
    # What is not taken need not even be there.
    missing = {"sketch": "data/sketches", "reference": "data/references"}
    for name in set(missing) - set(inputs):
        for path in Path(missing[name]).iterdir():
            path.unlink()
    images = answers(run(p, f"colorize-toy-pretrain-seed-0-{setting}")["images"])
    assert len(images) == 6 and len({image.tobytes() for image in images.values()}) == 6
    assert {image.shape for image in images.values()} == {(16, 16, 3)}
    assert len(seen) > trained
    for given in seen:
        for name, channels in CHANNELS.items():
            images = getattr(given, name)
            assert (images is not None) == (name in inputs)
            assert images is None or images.shape[1:] == (channels, 16, 16)
    warped = [given for given in seen if getattr(given, "warp", None) is not None]
    assert bool(warped) == ("reference" in inputs), "warps are of references"


class Hints(Strict):
    hint: bool = False


def hinted(seen: list) -> Method:
    """Trained on nothing but faces; a row may show its weights a reference."""

    def colour(model, given, fresh, how, watch):
        seen.append(given)
        image = model(fresh(3, 16, 16))
        return (image + given.reference if how.options.hint else image).clamp(-1, 1)

    return replace(
        painter((), []),
        colorize=colour,
        ColourOptions=Hints,
        shown=lambda options: ("sketch", "reference") if options.hint else (),
    )


def test_a_row_may_be_shown_what_the_training_of_its_weights_was_not(workshop, bring):
    """Rows follow from how weights colour: settings, archives and what a stage reads."""
    seen = []
    bring(toy=hinted(seen))
    p = parameters(
        pretrain=TRAIN | {"objective": "paint"},
        colour={"pretrain": {}},
    )
    block = {"kind": "toy", "label": "Hinted", "weights": "toy/pretrain", "colour": {"pretrain": {}}}
    block["colour"]["pretrain"] = {"options": {"hint": True}}
    tree = p.model_dump(mode="json", exclude_unset=True)
    tree["methods"]["hinted"] = block
    p = Params.model_validate(tree)
    coloured = {i.name: i for i in table.instances(p) if i.stage.name == "colorize"}
    assert set(coloured) == {
        "colorize-toy-pretrain-seed-0-free",
        *(f"colorize-hinted-pretrain-seed-0-{setting}" for setting in ("same", "cross", "other")),
    }
    assert "references" not in coloured["colorize-toy-pretrain-seed-0-free"].inputs
    inputs = {file for i in table.instances(p) if i.name == "pretrain-toy-seed-0" for file in i.files}
    assert inputs == {"data/faces/train.npy", "data/faces/manifest.csv"}
    run(p, "pretrain-toy-seed-0")
    for name, shown in (("toy-pretrain-seed-0-free", False), ("hinted-pretrain-seed-0-cross", True)):
        seen.clear()
        run(p, f"colorize-{name}")
        assert seen and all((given.reference is not None) == shown for given in seen)
    assert flops.colouring(p, "hinted", p.methods["hinted"].colour["pretrain"], "pretrain") > 0


def test_validation_faces_are_coloured_from_what_the_training_is_given(bring):
    bring(toy=hinted([]))
    wrong = {"every": 16, "colour": {"options": {"hint": True}}}
    with pytest.raises(ValueError, match=r"toy\.pretrain\.validation\.colour\.options: .*need sketch and reference"):
        parameters(pretrain=TRAIN | {"objective": "paint", "validation": wrong}, colour={"pretrain": {}})


def test_a_training_with_a_score_of_its_own_is_pictured_where_it_is_a_row(workshop, bring, monkeypatch):
    """Answers without a target are judged by the score; the pictures are drawn as the weights would colour."""
    bring(toy=replace(painter((), []), score=lambda model, batch: -batch.target.square().mean(dim=(1, 2, 3))))
    train = TRAIN | {"objective": "paint", "validation": {"every": 16}}
    tree = parameters(pretrain=train, encoder=train, colour={"pretrain": {}}).model_dump(exclude_unset=True)
    tree["training"]["grid"] = {"images": 3, "every": 16}
    p, shown = Params.model_validate(tree), []
    monkeypatch.setattr(Job, "picture", lambda self, seen, name, image: shown.append((seen, image)))
    for slot, pictured in (("pretrain", [16, 32]), ("encoder", [])):
        shown.clear()
        curve = run(p, f"{slot}-toy-seed-0")["curve"].read_text()
        assert "val,score" in curve and "psnr" not in curve
        assert [seen for seen, _ in shown] == pictured
        assert {image.shape for _, image in shown} <= {(33, 50, 3)}, "answers above the faces"


def test_a_reference_without_a_sketch_is_shown_in_no_setting(monkeypatch):
    """So that a method which takes one would be asked for faces of its own, and be given none."""
    method = SimpleNamespace(METHOD=painter(("reference",), []))
    monkeypatch.setattr(registry.importlib, "import_module", lambda module: method)
    with pytest.raises(UserError, match=r"^elsewhere:METHOD: .*it takes reference and no sketch"):
        registry.loaded.__wrapped__("elsewhere:METHOD")


class Faces(nn.Module):
    """A bias on whatever a finished part says, or on noise where there is none."""

    def __init__(self, part: nn.Module | None):
        super().__init__()
        if part is not None:
            self.encoder = part
        self.bias = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x):
        return self.bias + (self.encoder(x) if hasattr(self, "encoder") else x)


def composed() -> Method:
    """Three trainings, each a part of the next: the encoder alone, a model around it, and one around both."""

    def build(setup):
        inner = setup.needed.get("encoder")
        return Faces(registry.built(registry.setup_from(inner.setup)) if inner else None)

    def training_step(model, batch, plan, rng, features):
        per_image = (model(batch.target) - 0.5 * batch.target).square().mean(dim=(1, 2, 3))
        return Losses(per_image.mean(), per_image.detach(), None)

    return Method(
        Config=NoOptions,
        objectives={"shift": NoOptions},
        build=build,
        training_step=training_step,
        colorize=lambda model, given, fresh, how, watch: model(fresh(3, 16, 16)).clamp(-1, 1),
        inputs=(),
        needs=lambda config, slot: (
            {"encoder": {"pretrain": "encoder", "finetune": "pretrain"}[slot]} if slot != "encoder" else {}
        ),
    )


@pytest.fixture
def house_of_parts(workshop, bring):
    bring(toy=composed())
    train = TRAIN | {"objective": "shift"}
    judged = train | {"validation": {"every": 16, "colour": {}}}
    p = parameters(encoder=train, pretrain=train, finetune=judged, colour={"pretrain": {}, "finetune": {}})
    made = {slot: run(p, f"{slot}-toy-seed-0") for slot in ("encoder", "pretrain", "finetune")}
    return p, made


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read_tensors(path)[0]


@pytest.mark.parametrize(("slot", "part"), [("pretrain", "encoder"), ("finetune", "pretrain")])
def test_a_finished_part_is_filled_frozen_and_not_stored_once_more(house_of_parts, slot, part):
    """The second time the part has a part itself."""
    _, made = house_of_parts
    weights, finished = made[slot]["weights"], made[part]["weights"]
    assert tensors(weights).keys() == {"bias"}
    loaded = load.trained(weights, CPU, False)
    assert torch.equal(loaded.model.bias, tensors(weights)["bias"])
    assert torch.equal(loaded.model.encoder.bias, tensors(finished)["bias"])
    assert not any(p.requires_grad for p in loaded.model.encoder.parameters())
    assert loaded.model.bias.requires_grad
    assert loaded.setup.needed["encoder"].sha256 == artifacts.sha256(finished)
    innermost = loaded.model.encoder if slot == "pretrain" else loaded.model.encoder.encoder
    assert torch.equal(innermost.bias, tensors(made["encoder"]["weights"])["bias"])
    told = json.loads(made[slot]["made"].read_text())
    assert told["parameters"] == 3 * (2 if slot == "pretrain" else 3), "of the whole model"


def test_training_leaves_its_finished_parts_as_they_were(house_of_parts):
    p, made = house_of_parts
    before = {slot: files["weights"].read_bytes() for slot, files in made.items()}
    assert len(set(before.values())) == 3
    again = {slot: run(p, f"{slot}-toy-seed-0")["weights"].read_bytes() for slot in made}
    assert again == before


def test_a_row_with_parts_colours(house_of_parts):
    p, _ = house_of_parts
    for slot in ("pretrain", "finetune"):
        assert len(answers(run(p, f"colorize-toy-{slot}-seed-0-free")["images"])) == 6


def test_every_part_is_an_input_of_what_is_made_with_it(house_of_parts):
    """Else an engine could begin before it is there, or `dvc pull` leave it out."""
    p, _ = house_of_parts
    inputs = {i.name: set(i.files) for i in table.instances(p)}
    encoder, pretrain = (f"models/toy/{slot}/seed-0.safetensors" for slot in ("encoder", "pretrain"))
    for name in ("finetune-toy-seed-0", "colorize-toy-finetune-seed-0-free"):
        assert {encoder, pretrain} <= inputs[name], name
    assert encoder in inputs["colorize-toy-pretrain-seed-0-free"]
    assert not {encoder, pretrain} & inputs["encoder-toy-seed-0"]


@pytest.mark.parametrize("slot", ["pretrain", "finetune"])
def test_a_part_that_was_changed_is_refused(house_of_parts, slot):
    p, made = house_of_parts
    path = made["encoder"]["weights"]
    checkpoints.write_weights(path, {"bias": tensors(path)["bias"] + 1})
    with pytest.raises(UserError, match=rf"^{path}: not the weights that this model was trained with"):
        load.trained(made[slot]["weights"], CPU, False)
    with pytest.raises(UserError, match=rf"^{path}: not the weights"):
        run(p, f"colorize-toy-{slot}-seed-0-free")
    path.unlink()
    with pytest.raises(UserError, match=rf"^{path}: not there"):
        load.trained(made[slot]["weights"], CPU, False)


def test_a_part_is_known_by_its_weights_and_by_how_it_was_made(house_of_parts):
    _, made = house_of_parts
    part = load.part(made["pretrain"]["weights"], made["pretrain"]["made"])
    assert part.sha256 == artifacts.sha256(made["pretrain"]["weights"])
    inner = registry.setup_from(part.setup)
    assert inner.kind == "toy" and isinstance(inner.needed["encoder"], Part)
    assert registry.described(inner) == part.setup
    made["pretrain"]["made"].write_text("{}")
    with pytest.raises(UserError, match="no description of a model"):
        load.part(made["pretrain"]["weights"], made["pretrain"]["made"])


@pytest.mark.parametrize("spoilt", [{}, {"kind": "toy"}, {"kind": "nobody"}])
def test_a_part_without_a_whole_setup_is_one_line(house_of_parts, spoilt):
    _, made = house_of_parts
    told = json.loads(made["finetune"]["made"].read_text())
    told["setup"]["needed"]["encoder"]["setup"] = spoilt
    made["finetune"]["made"].write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"finetune/seed-0\.json: no description of a model as this revision writes it"):
        load.trained(made["finetune"]["weights"], CPU, False)


@pytest.mark.parametrize(
    ("kind", "place", "said"),
    [
        (
            "pipe",
            "models/pipe.safetensors",
            r"^models/pipe\.safetensors: no readable .* \(no plain file\)",
        ),
        ("pipe", "../pipe.safetensors", r"seed-0\.json: needs \.\./pipe\.safetensors, which is neither below"),
        ("file", "../part.safetensors", r"seed-0\.json: needs \.\./part"),
        ("file", "models/toy/finetune/../../../../part.safetensors", r"seed-0\.json: needs models/toy/finetune/\.\./"),
        ("device", "/dev/zero", r"seed-0\.json: needs /dev/zero, which"),
        ("nothing", "/proc/self/environ", r"seed-0\.json: needs /proc/self/environ, which"),
        ("nothing", "models", r"^models: no readable safetensors file \(no plain file\)"),
        ("nothing", "", r"^\.: no readable safetensors file"),
        *(("nothing", name, "not there|File name too long|needs") for name in ("a\0b", "\ud800", "x" * 5_000)),
        *(("nothing", name, r"seed-0\.json: no description of a model") for name in (5, None, ["a"])),
    ],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_part_that_lies_elsewhere_is_not_opened(house_of_parts, kind, place, said, depth):
    """A description that somebody gave would otherwise choose which files and pipes are read."""
    _, made = house_of_parts
    if kind in ("pipe", "file"):
        Path(place).unlink(missing_ok=True)  # of another test, above its own folder
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "file":
        shutil.copyfile(made["encoder"]["weights"], place)
    told = json.loads(made["finetune"]["made"].read_text())
    part = told["setup"]["needed"]["encoder"]
    (part["setup"]["needed"]["encoder"] if depth else part)["weights"] = place
    made["finetune"]["made"].write_text(json.dumps(told))
    with pytest.raises(UserError, match=said) as caught:
        load.trained(made["finetune"]["weights"], CPU, False)
    assert "\n" not in str(caught.value)


def test_a_part_beside_the_weights_is_found_from_everywhere(house_of_parts, tmp_path, monkeypatch):
    _, made = house_of_parts
    told = json.loads(made["pretrain"]["made"].read_text())
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in (made["pretrain"]["weights"], made["encoder"]["weights"]):
        shutil.copyfile(path, folder / f"{path.parent.name}.safetensors")
    told["setup"]["needed"]["encoder"]["weights"] = str(folder / "encoder.safetensors")
    (folder / "pretrain.json").write_text(json.dumps(told))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    load.trained(folder / "pretrain.safetensors", CPU, False)


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_weights_that_are_a_pipe_are_refused_and_not_waited_for(house_of_parts, ending):
    path = house_of_parts[1]["encoder"]["weights"].with_suffix(ending)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"no such weights|missing"):
        load.trained(path.with_suffix(".safetensors"), CPU, False)
