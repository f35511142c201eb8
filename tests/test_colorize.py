"""Colouring: bit-equal whatever the company; the user's command takes any sketch."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from ssimbad import artifacts
from ssimbad.colorize import chunks, load, user
from ssimbad.errors import UserError
from ssimbad.methods import edm
from ssimbad.pairing import resize
from ssimbad.params import tree as parameters
from ssimbad.pipeline import runner

from .conftest import write_params
from .small import build, by

CPU = torch.device("cpu")


def coloured(ids, rows=None, chunk=16, threads=1, precision="fp32", verb=edm.colorize):
    generator = torch.Generator().manual_seed(0)
    sketches = torch.rand(64, 1, 16, 16, generator=generator) * 2 - 1
    references = torch.rand(64, 3, 16, 16, generator=generator) * 2 - 1
    rows = list(range(len(ids))) if rows is None else rows
    images = chunks.colour(
        partial(verb, build()), {"sketch": sketches[rows], "reference": references[rows]}, ids, by("heun", 3),
        chunk=chunk, seed=0, device=CPU, threads=threads, precision=precision, channels_last=True,
    )  # fmt: skip
    return images


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_is_bit_equal_among_1_7_and_64(precision):
    ids = [f"face-{i}" for i in range(64)]
    whole = coloured(ids, precision=precision)
    for count in (1, 7):
        assert np.array_equal(coloured(ids[:count], precision=precision), whole[:count])
    picked = [5, 63, 20]
    assert np.array_equal(coloured([ids[i] for i in picked], picked, precision=precision), whole[picked])


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_an_image_is_bit_equal_whatever_the_cores(chunk):
    """To the last bit of the network's answer, before rounding to bytes hides most differences."""
    ids = [f"face-{i}" for i in range(7)]

    def answers(threads, before):
        """By the chunk's sketches, with `threads` cores in a process where torch would use `before` for each call."""
        found, used = {}, set()

        def verb(model, given, *how):
            used.add(torch.get_num_threads())
            return found.setdefault(given.sketch.sum().item(), edm.colorize(model, given, *how))

        torch.set_num_threads(before)
        try:
            coloured(ids, chunk=chunk, threads=threads, verb=verb)
            assert (used, torch.get_num_threads()) == ({1}, before)
        finally:
            torch.set_num_threads(1)
        return torch.cat([found[key] for key in sorted(found)])

    first = answers(1, 1)
    for threads, before in ((1, 3), (2, 1), (2, 2), (3, 3)):
        assert torch.equal(answers(threads, before), first), (threads, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_is_bit_equal_whatever_the_number_of_devices(precision):
    ids = [f"face-{i}" for i in range(20)]
    alone = coloured(ids, precision=precision, chunk=4)
    generator = torch.Generator().manual_seed(0)
    sketches = torch.rand(64, 1, 16, 16, generator=generator) * 2 - 1
    references = torch.rand(64, 3, 16, 16, generator=generator) * 2 - 1
    used = set()

    def artist(number):
        verb = partial(edm.colorize, build())

        def colorize(*given):
            used.add(number)
            return verb(*given)

        return colorize, CPU

    found = list(
        chunks.pieces(
            [artist(number) for number in range(3)], {"sketch": sketches, "reference": references}, ids, by("heun", 3),
            chunk=4, seed=0, precision=precision, channels_last=True,
        )
    )  # fmt: skip
    assert [list(names) for names, _ in found] == [ids[i : i + 4] for i in range(0, 20, 4)]
    assert np.array_equal(np.concatenate([images for _, images in found]), alone)
    assert used == {0, 1, 2}


def computed(house, weights, monkeypatch, stage, output, places):
    """The bytes of a stage's output on six random faces, from (devices, cores) each."""
    row = "ssimbad/pretrain/seed-0"
    (house / f"models/{row}").parent.mkdir(parents=True)
    for ending in (".safetensors", ".json"):
        weights.with_suffix(ending).rename((house / f"models/{row}").with_suffix(ending))
    generator = np.random.default_rng(0)
    artifacts.write_text(house / "data/faces/manifest.csv", "id,split\n" + "".join(f"f{i},test\n" for i in range(6)))
    artifacts.write_array(house / "data/sketches/test.npy", generator.integers(0, 256, (6, 32, 32), np.uint8))
    for name in ("references/same", "faces/test"):
        artifacts.write_array(house / f"data/{name}.npy", generator.integers(0, 256, (6, 32, 32, 3), np.uint8))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    params = parameters.load()
    setting = {"setting": "same"} if stage == "colorize" else {}
    instance = runner.find(params, stage, {"method": "ssimbad", "stage": "pretrain", "seed": "0", **setting})
    made = []
    for devices, cores in places:
        monkeypatch.setenv("SSIMBAD_DEVICE", devices)
        monkeypatch.setenv("SSIMBAD_THREADS", cores)
        runner.run(params, instance, force=True)
        made.append((house / output).read_bytes())
    return made


def test_the_stage_writes_the_same_archive_on_any_number_of_devices_and_cores(house, weights, monkeypatch):
    output = "outputs/ssimbad/pretrain/seed-0/same.zip"
    places = (("cpu", "1"), ("cpu", "3"), ("cpu,cpu", "1"))
    made = computed(house, weights, monkeypatch, "colorize", output, places)
    assert set(made) == {made[0]}
    assert len(artifacts.read_png_zip(house / output)) == 6
    cost = artifacts.read_json(next((house / "work/cost").glob("*.json")))
    assert cost["devices"] == 2


def test_a_colouring_that_was_stopped_goes_on_with_what_it_saved(house, weights, monkeypatch, capsys):
    monkeypatch.setattr("ssimbad.colorize.stage.PART", 2)
    output = house / "outputs/ssimbad/pretrain/seed-0/same.zip"
    tree = yaml.safe_load((house / "params.yaml").read_text())
    tree["colorize"]["chunk"] = 2
    write_params(house, tree)
    [whole] = computed(house, weights, monkeypatch, "colorize", output, (("cpu", "1"),))
    p = parameters.load()
    instance = runner.find(p, "colorize", {"method": "ssimbad", "stage": "pretrain", "seed": "0", "setting": "same"})
    scratch = next((house / f"work/{instance.name}").glob("*/kept")).parent
    assert not list(scratch.glob("state-*"))  # done with

    class Stopped(Exception):  # noqa: N818
        pass

    seen, colorize = [], edm.colorize

    def stopped(model, given, *rest):
        seen.append(len(given.sketch))
        if len(seen) == 3:
            raise Stopped
        return colorize(model, given, *rest)

    for path in [output, *(scratch / "kept").iterdir()]:
        path.unlink()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("ssimbad.colorize.chunks.bound", lambda method, model: partial(stopped, model))
        runner.run(p, instance)
    saved = sorted(scratch.glob("state-*.zip"))
    assert [path.name for path in saved] == ["state-000000000000.zip", "state-000000000002.zip"]
    assert not output.exists()
    saved[0].write_bytes(saved[0].read_bytes()[:-40])  # cut short: coloured again
    runner.run(p, instance)
    assert output.read_bytes() == whole
    assert "2 images of" in capsys.readouterr().out and not list(scratch.glob("state-*"))
    cost = artifacts.read_json(next((house / "work/cost").glob("*.json")))
    assert cost["images"] == 4


def test_the_ways_to_colour_are_measured_alike_by_any_number_of_cores(house, weights, monkeypatch):
    output = "reports/nfe/ssimbad/pretrain/seed-0.csv"
    tree = yaml.safe_load((house / "params.yaml").read_text())
    tree["report"]["nfe"] = {"calls": [2, 4], "samplers": [{"name": "euler"}, {"name": "heun"}], "images": 6}
    write_params(house, tree)
    one, three = computed(house, weights, monkeypatch, "nfe", output, (("cpu", "1"), ("cpu", "3")))
    assert one == three
    assert len(one.splitlines()) == 1 + 2 * 2 * 2


def test_stored_images_are_read_by_the_chunk():
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    stored = chunks.Stored(images, 16)
    whole = resize.to_unit(resize.area(images, 16))
    assert torch.equal(stored[[4, 0, 5, 5]], whole[[4, 0, 5, 5]])
    assert chunks.Stored(images[..., 0], 16)[[1]].shape == (1, 1, 16, 16)


def test_noise_belongs_to_the_id():
    def rng(seed, *ids):
        fresh = chunks.noise(seed, ids, lambda images: images)
        return fresh(3, 8, 8), fresh(3, 8, 8)

    first, second = rng(0, "a", "b")
    assert torch.equal(first[1:], rng(0, "b")[0]) and torch.equal(second[1:], rng(0, "b")[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, rng(1, "a", "b")[0])


def test_weights_need_their_json(weights):
    weights.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"\.json: missing"):
        load.trained(weights, CPU, False)


def wrong(*path_and_value):
    """A change of a JSON tree: the value at a path, or its removal."""
    *path, last, value = path_and_value

    def change(made):
        node = made
        for part in path:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value

    return change


_SATURATION = ("setup", "shared", "schedule.saturation")
_WRONG = [
    *(wrong(key, ...) for key in ("setup", "parameters", "colour")),
    *(wrong("setup", key, ...) for key in ("kind", "config", "size", "shared", "needed")),
    *(wrong("setup", "shared", key, ...) for key in ("network", "noise", "schedule.saturation")),
    *(wrong("setup", "size", value) for value in ("16", 17, 10**9, 1.0e9, 16.0, float("nan"), 0, None, True)),
    *(wrong("parameters", value) for value in (None, "1", 0)),
    *(wrong("colour", value) for value in (None, [], {})),
    *(wrong("colour", "samples", value) for value in (0, -1, 10**9, "1", None)),
    *(wrong("colour", "options", value) for value in ({"mode": "x"}, [1], "x")),
    *(wrong("colour", "sampler", value) for value in (None, "euler", [], {"name": "euler"}, {"steps": 2})),
    *(wrong("colour", "sampler", "name", value) for value in ("foo", None, 1)),
    *(wrong("colour", "sampler", "steps", value) for value in ("8", 0, 10**11, float("nan"), None)),
    *(wrong("setup", "kind", value) for value in ("../x", "nothing", None, [], "registry", "scft", "regression")),
    *(wrong("setup", "config", "phi", value) for value in (None, {}, [], "selected", {"form": []})),
    *(wrong("setup", "config", "phi", {"form": "rational", "c": c}) for c in (float("nan"), -1, "1", None, [])),
    wrong("setup", "config", "phi", {"form": "empirical", "sigmas": None, "values": {}}),
    *(wrong(*_SATURATION, value) for value in (None, "x", float("nan"), -1)),
    *(wrong("setup", "shared", "noise", "sigma_max", value) for value in (float("nan"), float("inf"), "80", None)),
    *(wrong("setup", "shared", "network", "base", value) for value in ("8", 0, 8 * 10**6, 8.0)),
    wrong("setup", "shared", "data.size", 16),
    *(wrong("setup", "needed", value) for value in (None, [], {"phi": None}, {"encoder": {"weights": "x"}})),
    *(wrong("setup", "config", value) for value in ([1], None, {"foo": 1})),
    wrong("setup", "more", 1),
    *(wrong("stage", value) for value in (None, 1)),
]


@pytest.mark.parametrize("change", _WRONG)
def test_a_json_with_one_wrong_value_describes_no_model(weights, pictures, tmp_path, change):
    folder, reference = pictures
    beside = weights.with_suffix(".json")
    made = json.loads(beside.read_text())
    change(made)
    beside.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"\.json: no description of a model as this revision writes it; copy the one"):
        user.run(folder / "grey.png", reference, weights, tmp_path / "c.png")


@pytest.mark.parametrize("text", ["[]", "{}", "null", "1", "[" * 100_000, '{"setup": {"kind": "nothing"}}'])
def test_a_json_of_something_else_describes_no_model(weights, text):
    weights.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match="no description of a model"):
        load.trained(weights, CPU, False)
