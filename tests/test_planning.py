"""`ssimbad plan`: exact counts against torch's own counter and real files, and no hours without a measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ssimbad import artifacts
from ssimbad.cli import app
from ssimbad.errors import ParameterError
from ssimbad.methods import edm, registry
from ssimbad.methods.contract import Plan
from ssimbad.methods.losses import LOSSES
from ssimbad.params import tree as parameters
from ssimbad.params.base import Colour
from ssimbad.params.tree import Params
from ssimbad.pipeline import rows
from ssimbad.planning import disk, flops, rates, report
from ssimbad.training import checkpoints

from .conftest import ROOT, preset_tree
from .small import NETWORK, batch, build, by, rng, trained

PAPER = parameters.load(ROOT / "presets/paper.yaml")


def small(tree: dict, **network) -> Params:
    """The paper's rows with networks of a few thousand parameters."""
    wide = preset_tree("paper")
    wide["network"] = tree["network"] | network
    wide["data"] |= {"native_size": 32, "size": 32}
    wide["schedule"]["size"] = 32
    for method in wide["methods"].values():
        if method["kind"] == "scft":
            method["config"] = {"base": 4, "levels": 3, "residuals": 1}
    return Params.model_validate(wide)


def row(p: Params, name: str, stage: str = "pretrain") -> flops.Work:
    return flops.training(p, name, stage)


def call(p: Params, name: str) -> int:
    """Operations of one call of the network."""
    return flops.colouring(p, name, by("euler", 1), "pretrain")


def to_colour(p: Params, name: str) -> int:
    """Operations of an image of the pretrained row."""
    return flops.colouring(p, name, p.methods[name].colour["pretrain"], "pretrain")


def test_the_papers_network_has_the_known_size_and_work():
    """The published network: 52,301,251 parameters, 273 GFLOP per forward at 256²."""
    work = row(PAPER, "ssimbad")
    assert work.parameters == work.trained == 52_301_251
    assert call(PAPER, "ssimbad") / 1e9 == pytest.approx(273, abs=0.5)
    assert to_colour(PAPER, "ssimbad") == 99 * call(PAPER, "ssimbad")
    assert work.train == pytest.approx(3 * call(PAPER, "ssimbad"), rel=1e-3)
    assert work.chain == 1


def test_counts_are_those_of_torchs_counter_on_real_tensors(tree):
    tree["network"] = NETWORK.model_dump()
    p = Params.model_validate(tree)
    work, model = row(p, "ssimbad"), build()
    with FlopCounterMode(display=False) as counter:
        losses = edm.training_step(model, batch(1), Plan("denoising", edm.Denoising()), rng(n=1))
        torch.autograd.grad(losses.loss, list(model.parameters()), materialize_grads=True)
    assert p.data.size == 16
    assert work.train == counter.get_total_flops()
    assert work.parameters == sum(q.numel() for q in model.parameters())


@pytest.mark.slow
def test_work_grows_in_a_straight_line_with_the_steps_for_every_row_of_the_paper(tree):
    p, seen = small(tree, multipliers=[1, 1]), set()
    for name, block in p.methods.items():
        method = registry.get(block.kind)
        for stage, train in block.trainings.items():
            if stage not in block.colour or not method.samplers or (block.kind, train.objective) in seen:
                continue
            seen.add((block.kind, train.objective))
            one, two, three = (counted(p, name, stage, steps) for steps in (1, 2, 3))
            for i in (0, 1):
                assert three[i] - two[i] == two[i] - one[i], (name, stage)
            assert (one[0] != two[0]) == (train.objective in ("trajectory", "inversion")), (name, stage)
            assert one[1] != two[1]
            if one[0] != two[0]:
                longer = row(with_chain(p, name, stage, 3), name, stage)
                assert (longer.train, longer.chain) == (three[0], 3)
    assert len(seen) >= 7


def counted(p: Params, name: str, stage: str, steps: int) -> tuple[int, int]:
    """(training, colouring) by a sampler of so many steps, as it runs and not along the line."""
    block = with_chain(p, name, stage, steps).methods[name]
    method, train, model = registry.get(block.kind), block.trainings[stage], flops.model_of(p, name, stage)
    how = block.colour[stage].model_copy(
        update={"sampler": block.colour[stage].sampler.model_copy(update={"steps": steps})}
    )
    given = flops.batch_of(p, method.inputs)
    plan = Plan(train.objective, train.options)
    return flops.count_training(method, model, plan, given), flops.count_colouring(method, model, how, given)


def with_chain(p: Params, name: str, stage: str, steps: int) -> Params:
    """The same parameters with so many steps in the chain through which a training goes, if it goes through one."""
    train = p.methods[name].trainings[stage]
    if not getattr(train.options, "sampler", None):
        return p
    sampler = train.options.sampler.model_copy(update={"steps": steps})
    train = train.model_copy(update={"options": train.options.model_copy(update={"sampler": sampler})})
    block = p.methods[name].model_copy(update={stage: train})
    return p.model_copy(update={"methods": p.methods | {name: block}})


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_row_is_counted_whatever_its_loss(tree, loss):
    """Of a loss' feature network nothing is counted; SSIM is five filterings of each channel, forwards."""
    p = small(tree)
    plain, block = row(p, "ssimbad", "finetune"), p.methods["ssimbad"]
    options = block.finetune.options.model_copy(update={"loss": loss})
    block = block.model_copy(update={"finetune": block.finetune.model_copy(update={"options": options})})
    other = p.model_copy(update={"methods": p.methods | {"ssimbad": block}})
    extra = row(other, "ssimbad", "finetune").train - plain.train
    filtered = 5 * 3 * (32 - 10) ** 2 * 2 * 11**2
    assert (extra >= filtered) if loss == "ssim+l1" else (extra == 0)


def test_an_opponent_is_counted(tree):
    scft = row(small(tree), "scft")
    assert scft.trained > scft.parameters
    assert scft.chain == 1


def test_a_row_in_one_pass_colours_by_one_call(tree):
    """The mean of several answers costs as many times one of them."""
    p = small(tree)
    one = to_colour(p, "scft")
    model, method = flops.model_of(p, "scft", "pretrain"), registry.get("scft")
    assert one == flops.count_colouring(method, model, Colour(), flops.batch_of(p, method.inputs)) > 0
    several = [by("euler", 3), by("euler", 3).model_copy(update={"samples": 4})]
    blocks = [p.methods["ssimbad"].model_copy(update={"colour": {"pretrain": how}}) for how in several]
    found = []
    for block in blocks:
        alone = p.model_copy(update={"methods": {"ssimbad": block.model_copy(update={"finetune": None})}})
        work = {("ssimbad", "pretrain"): row(alone, "ssimbad")}
        tasks = report.tasks(alone, work, report.reference_of(alone), [])
        found.append(next(t for t in tasks if t.stage == "ssimbad pretrain: colorize"))
    assert (found[0].calls, found[1].calls) == (3, 12)
    assert found[1].operations == 4 * found[0].operations == 12 * call(p, "ssimbad")


def test_states_take_the_bytes_that_are_foreseen(tmp_path, tree):
    """A real state file, of the network of these tests, against the arithmetic."""
    tree["network"] = NETWORK.model_dump()
    p = Params.model_validate(tree)
    trained(tmp_path, stop_after=3)
    tensors, _ = checkpoints.read_tensors(next(tmp_path.glob("state-*")))
    written = sum(t.numel() * t.element_size() for name, t in tensors.items() if not name.endswith(".step"))
    work = row(p, "ssimbad")
    found = {line.what: line.bytes for line in disk.lines(p, {("ssimbad", "pretrain"): work})}
    assert found["work: states"] == disk.STATES * written
    assert sum(v.numel() for k, v in tensors.items() if k.startswith("ema/")) == work.parameters


def test_arrays_take_the_bytes_that_are_foreseen(tree):
    p = Params.model_validate(tree)
    work = {(w["method"], w["stage"]): row(p, w["method"], w["stage"]) for w in rows.trained(p)}
    found = {line.what: line for line in disk.lines(p, work)}
    n = p.data.train + p.data.val + p.data.test
    assert found["data/faces"].bytes == n * 32 * 32 * 3
    assert found["data/sketches"].bytes == n * 32 * 32
    assert found["data/references"].bytes == 4 * p.data.test * 32 * 32 * 3
    assert found["models"].bytes == 4 * sum(w.parameters for w in work.values())
    assert found["outputs"].most
    open_ended = Params.model_validate(tree | {"data": tree["data"] | {"source": "folder", "path": "x", "train": None}})
    found = {line.what: line for line in disk.lines(open_ended, work)}
    assert found["data/faces"].bytes is None


def test_images_of_a_source_are_counted(tmp_path, tree):
    """Where all that are left are asked for; with what cannot be had the answer is unknown, as before."""
    names = [f"{side}/{n}.png" for side in ("gt", "line") for n in range(7)]
    for name in [*names, "notes.txt"]:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    tree["data"] |= {"source": "folder", "path": str(tmp_path / "mine"), "train": None}

    def line(data: dict, what: str = "data/faces") -> disk.Line | None:
        found = disk.lines(Params.model_validate({**tree, "data": tree["data"] | data}), {})
        return next((one for one in found if one.what == what), None)

    side = tree["data"]["native_size"]
    assert line({}).bytes == 7 * 3 * side**2 and line({}).most and "all 7 images" in line({}).note
    assert line({"crop": "face", "crop_most": 3}).bytes == 21 * 3 * side**2
    assert line({"path": str(tmp_path / "none")}).bytes is None
    assert line({"train": 5}, "data/faces/shards") is None
    for train in (5, None):  # shards read whatever there is
        assert line({"train": train, "shards": 4}, "data/faces/shards").bytes == 7 * 4 * side**2
    assert line({"shards": 4}, "data/sketches/shards").bytes == 7 * side**2
    (tmp_path / "mine/line/0.png").rename(tmp_path / "mine/line/x.png")
    assert line({}).bytes == 7 * 3 * side**2
    assert not line({"train": 5}).most


def test_no_png_is_larger_than_the_bound(tree):
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    bound = disk.PNG_ROW * 64 * (3 * 64 + 1)
    headers = 200
    assert len(artifacts.png_bytes(noise)) < bound + headers


def test_feature_networks_are_as_large_as_said():
    with torch.device("meta"):
        states = [
            torchvision.models.inception_v3(
                weights=None, num_classes=1008, aux_logits=False, init_weights=False
            ).state_dict(),
            torchvision.models.alexnet(weights=None).state_dict(),
            torchvision.models.vgg19(weights=None).state_dict(),
            torchvision.models.vgg16(weights=None).state_dict(),
        ]
    numbers = [sum(t.numel() for k, t in s.items() if not k.endswith("num_batches_tracked")) for s in states]
    clip = 605_143_316  # bytes of the file, of which some ten thousand are names
    assert list(disk.PINNED.values()) == [*numbers, pytest.approx(clip / 4, rel=1e-4)]
    names = ("inception", "alexnet", "vgg19", "vgg16", "clip")
    assert tuple(disk.PINNED) == tuple(getattr(PAPER.weights, name).sha256 for name in names)
    assert disk.downloads(PAPER)[0] == 4 * (sum(numbers[:3]) + disk.PINNED[PAPER.weights.clip.sha256])


@pytest.mark.parametrize("told", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_a_number_above_zero(told):
    with pytest.raises(ParameterError, match="expected a number above 0"):
        rates.find(PAPER, None, told)


def benchmark(p: Params, folder: Path, **changes) -> Path:
    rows = [
        ("train", "bf16, channels-last", None, None, 100.0),
        ("train", "fp32", None, None, 7.0),
        ("refine", "bf16, channels-last", 50, True, 2.0),
        ("sample", "bf16, channels-last", 50, None, 8.0),
    ]
    keys = ("kind", "mode", "steps", "checkpointing", "images_per_second")
    made = {
        "device": "NVIDIA Test 1", "smoke": False, "network": p.network.model_dump(), "size": p.data.size,
        "rows": [{"outcome": "ok", **dict(zip(keys, r, strict=True))} for r in rows],
    }  # fmt: skip
    path = folder / "nvidia-test-1.json"
    path.write_text(json.dumps(made | changes))
    return path


def test_hours_come_from_the_measurement_of_the_same_kind(tmp_path, tree):
    p = small(tree)
    benchmark(p, tmp_path)
    speed = rates.find(p, "nvidia-test-1", None, tmp_path)
    assert speed == rates.find(p, "NVIDIA Test 1", None, tmp_path)
    reference = report.reference_of(p)
    rows = [("ssimbad", "pretrain"), ("ssimbad", "finetune"), ("scft", "pretrain")]
    work = {(name, stage): row(p, name, stage) for name, stage in rows}
    found = {t.stage: report.hours(t, speed, reference) for t in report.tasks(p, work, reference, [])}
    # Straight from the rates, since network and steps are those that were measured.
    assert found["ssimbad pretrain: train"] == pytest.approx(9358784 / 100 / 3600)
    assert found["ssimbad finetune: train"] == pytest.approx(311936 / 2 / 3600, rel=5e-3)
    # Ten chunks of 64, of which the last is filled up.
    assert found["ssimbad finetune: colorize"] == pytest.approx(2 * 640 / 8 / 3600)
    assert found["ssimbad finetune: validate"] == pytest.approx(10 * 500 / 8 / 3600)
    assert found["ssimbad pretrain: colorize"] == pytest.approx(2 * 640 / 8 / 3600 * 99 / 50)
    # One call, and three samples beside the row's own image.
    assert found["ssimbad pretrain: spread"] == pytest.approx(579 / 8 / 3600 * (1 + 3 * 99) / 50)
    assert found["scft pretrain: train"] is None and "scft pretrain: spread" not in found
    told = rates.find(p, None, 100.0, tmp_path)
    assert report.hours(next(report.tasks(p, work, reference, [])), told, reference) == pytest.approx(
        9358784 / 100 / 3600
    )
    assert all(report.hours(t, told, reference) for t in report.tasks(p, work, reference, []))


def test_several_devices_share_the_images_and_wait_for_the_one_that_has_most():
    reference = report.Reference(3, 1, 7)
    speed = rates.Rates("", train=12.0, sample=(8.0, 50), lanes=2)

    def hours(kind, images, count, **changes):
        one = 3 if kind == "train" else 50
        return 3600 * report.hours(report.Task("", kind, 2, images, 1, one, True, **changes), speed, reference, count)

    assert hours("train", 48, 1) == pytest.approx(2 * 48 / 12)
    assert hours("train", 48, 4) == pytest.approx(2 * 48 / 12 / 4)
    # Three images on two cores take as long as four; in chunks of three, one core has them all.
    assert hours("sample", 3, 1) == hours("sample", 4, 1) == pytest.approx(2 * 4 / 8)
    assert hours("sample", 3, 1, piece=3) == pytest.approx(2 * 6 / 8)
    assert hours("sample", 5, 4, piece=16) == pytest.approx(2 * 32 / 8)
    assert hours("sample", 64, 4, shared=False) == hours("sample", 64, 1)


@pytest.mark.parametrize(("asked", "measured"), [("fp32", 7.0), ("bf16", 100.0), ("auto", 100.0)])
def test_the_rate_is_that_of_the_precision(tmp_path, tree, asked, measured):
    p = small(tree)
    p = p.model_copy(update={"training": p.training.model_copy(update={"precision": asked})})
    path = benchmark(p, tmp_path)
    assert rates.find(p, "nvidia-test-1", None, tmp_path).train == measured
    made = json.loads(path.read_text())
    benchmark(p, tmp_path, rows=[row for row in made["rows"] if row["mode"] == "fp32"], lanes=2)
    speed = rates.find(p, "nvidia-test-1", None, tmp_path)
    if asked == "bf16":
        assert speed.train is None
        assert speed.source.startswith("unknown — NVIDIA Test 1 was not measured in bf16")
    else:
        assert (speed.train, speed.lanes) == (7.0, 2)


def test_nothing_measured_is_unknown(tmp_path, tree, monkeypatch):
    p = small(tree)
    monkeypatch.setattr(rates, "present", lambda: None)
    assert rates.find(p, None, None, tmp_path) is rates.NONE
    benchmark(p, tmp_path, smoke=True)
    with pytest.raises(ParameterError, match="none yet"):
        rates.find(p, "nvidia-test-1", None, tmp_path)
    benchmark(p, tmp_path, size=64)
    assert rates.find(p, "nvidia-test-1", None, tmp_path).train is None
    with pytest.raises(ParameterError, match="measured are nvidia-test-1"):
        rates.find(p, "h100", None, tmp_path)
    with pytest.raises(ParameterError, match="above 0"):
        rates.find(p, None, 0.0, tmp_path)


def test_a_method_that_cannot_be_counted_is_named(house, monkeypatch):
    monkeypatch.setattr(rates, "present", lambda: None)

    whole = flops.training

    def some(p, name, slot):
        if (name, slot) == ("ssimbad", "pretrain"):
            raise NotImplementedError("no data\nhere")
        return whole(p, name, slot)

    monkeypatch.setattr(flops, "training", some)
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 0, done.output
    assert "Not counted, and missing above: ssimbad pretrain (NotImplementedError: no data)." in done.output
    assert "ssimbad finetune: train" in done.output
    assert "ssimbad pretrain: train" not in done.output


def test_a_row_whose_colouring_cannot_be_counted_is_named_and_its_training_stands(house, monkeypatch):
    monkeypatch.setattr(rates, "present", lambda: None)
    whole = flops.colouring

    def some(p, name, colour, stage):
        if (name, stage) == ("regression", "pretrain"):
            raise RuntimeError("item() of no data")
        return whole(p, name, colour, stage)

    monkeypatch.setattr(flops, "colouring", some)
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 0, done.output
    assert "missing above: regression pretrain: colorize (RuntimeError: item() of no data)." in done.output
    assert "regression pretrain: train" in done.output and "ssimbad pretrain: colorize" in done.output


def test_the_command_prints_three_tables_and_writes_nothing(house, monkeypatch):
    monkeypatch.setattr(rates, "present", lambda: None)
    before = sorted(house.rglob("*"))
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 0, done.output
    assert "nothing has been run" in done.output
    assert rates.UNKNOWN in done.output
    for word in ("data/faces", "work: states", "kept results", "ssimbad finetune: train", "packages", "total"):
        assert word in done.output
    done = CliRunner().invoke(app, ["plan", "--images-per-second", "50"])
    assert "unknown" not in done.output.split("Hours of")[1].split("downloads")[0]
    assert sorted(house.rglob("*")) == before
