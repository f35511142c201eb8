"""Colouring as an object: bytes and arrays in, arrays out, errors that name the argument."""

from __future__ import annotations

import copy
import io
import operator
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.colorize import pictures as seen
from ssimbad.colorize.painter import Painter
from ssimbad.colorize.pictures import Wrong
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.training import checkpoints

from . import small

CPU = torch.device("cpu")


def as_png(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)
    return buffer.getvalue()


@pytest.fixture
def drawn() -> np.ndarray:
    """(40, 25) uint8 with one black line."""
    lines = np.full((40, 25), 255, np.uint8)
    lines[10:13, 3:20] = 0
    return lines


@pytest.fixture
def design() -> np.ndarray:
    return np.full((30, 60, 3), (200, 40, 90), np.uint8)


def test_bytes_and_arrays_of_any_kind_are_one(weights, drawn, design):
    painter = Painter(weights, "cpu")
    wanted = painter.colour(drawn, design)
    assert wanted.image.shape == (16, 16, 3) and wanted.image.dtype == np.uint8
    alpha = np.zeros((40, 25, 4), np.uint8)
    alpha[..., 3] = 255 - drawn
    for sketch in (as_png(drawn), np.repeat(drawn[..., None], 3, 2), alpha, as_png(alpha), as_png(255 - drawn)):
        answer = painter.colour(sketch, as_png(design))
        assert np.array_equal(answer.image, wanted.image) and np.array_equal(answer.seen, wanted.seen)


def test_options_tell_what_can_be_chosen(weights):
    options = Painter(weights, CPU).options
    assert (options.size, options.sampler, options.steps) == (16, "euler", 2)
    assert options.takes == ("sketch", "reference")
    assert options.samplers["heun"] == 1000 and options.colour["guidance_scale"] == 1.0


def test_seed_sampler_steps_and_options_are_obeyed(weights, drawn, design):
    painter = Painter(weights, CPU)
    plain = painter.colour(drawn, design).image
    assert np.array_equal(painter.colour(drawn, design, sampler="euler", steps=2, seed=0).image, plain)
    pull = {"guidance": {"weight": 1.0}}
    for other in ({"seed": 1}, {"steps": 3}, {"sampler": "heun"}, {"options": pull}):
        assert not np.array_equal(painter.colour(drawn, design, **other).image, plain), other


def test_progress_is_told_with_pictures_and_ends_with_the_answer(weights, drawn, design):
    told = []
    answer = Painter(weights, CPU).colour(drawn, design, steps=3, progress=lambda *what: told.append(what))
    assert [(made, calls) for made, calls, _ in told] == [(1, 3), (2, 3), (3, 3), (3, 3)]
    assert all(picture.shape == (16, 16, 3) and picture.dtype == np.uint8 for _, _, picture in told)
    assert np.array_equal(told[-1][2], answer.image)


def test_the_answer_to_several_references_is_their_mean(weights, drawn, design):
    painter, other = Painter(weights, CPU), np.full((30, 30, 3), (20, 240, 90), np.uint8)
    both = painter.colour(drawn, [design, as_png(other)]).image
    one, two = (painter.colour(drawn, picture).image.astype(float) for picture in (design, other))
    assert np.abs(one - two).max() > 4
    assert np.array_equal(both, np.rint((one + two) / 2))


WRONG = [
    ({"sketch": b""}, "sketch: empty file", 1),
    ({"sketch": b"no picture"}, "sketch: not an image", 1),
    ({"sketch": np.zeros((4, 4))}, "sketch: .* not \\(4, 4\\) float64", 1),
    ({"sketch": np.zeros((4, 0), np.uint8)}, "sketch: ", 1),
    ({"reference": b"no picture"}, "reference: not an image", 1),
    ({"reference": []}, "reference: none is given", 2),
    ({"mask": b""}, "mask: these weights take no mask", 2),
    ({"reference_mask": b""}, "reference_mask: these weights take no reference mask", 2),
    ({"fit": "page"}, "fit page: expected model or sketch", 2),
    ({"sampler": "eular"}, "sampler eular: expected one of euler", 2),
    ({"steps": 0}, "steps 0: expected 1 to 1000", 2),
    ({"steps": 10**11}, "steps 100000000000: expected", 2),
    ({"options": {"shade": 1}}, "options shade: .*known options: guidance_scale", 2),
    ({"options": {"guidance_scale": "much"}}, "options guidance_scale: ", 2),
    ({"options": {"guidance_scale": 2.0}}, "options guidance_scale: these weights have never missed a reference", 2),
]


@pytest.mark.parametrize(("wrong", "said", "code"), WRONG)
def test_errors_name_the_argument(weights, drawn, design, wrong, said, code):
    with pytest.raises(Wrong, match=said) as caught:
        Painter(weights, CPU).colour(**{"sketch": drawn, "reference": design} | wrong)
    assert caught.value.code == code and caught.value.argument == next(iter(wrong))


def test_long_texts_in_a_png_are_no_damage(weights, drawn, design):
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("workflow", "x" * 2_000_000, zip=True)
    about.add_itxt("more", "y" * 2_000_000, zip=True)
    painter = Painter(weights, CPU)
    wanted = painter.colour(drawn, design).image
    assert np.array_equal(painter.colour(as_png(drawn, pnginfo=about), design).image, wanted)
    rough = np.random.default_rng(0).integers(0, 256, (40, 25), np.uint8)
    with pytest.raises(Wrong, match="damaged or truncated"):
        painter.colour(as_png(rough, pnginfo=about)[:-300], design)


@pytest.mark.parametrize("shape", [(64, 64), (64, 640), (640, 64), (3, 64), (1, 5000)])
def test_a_picture_is_shrunk_before_it_is_padded(shape):
    square = seen.to_square(np.zeros(shape, np.uint8), 16)
    rows, columns = seen.frame(*shape, 16)
    assert square.shape == (16, 16)
    inside = np.zeros((16, 16), bool)
    inside[rows, columns] = True
    assert inside.any() and (square[inside] == 0).all() and (square[~inside] == 255).all()
    assert max(rows.stop - rows.start, columns.stop - columns.start) == 16
    colours = seen.to_square(np.full((*shape, 3), 7, np.uint8), 16)
    assert (colours == 7).all()


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"base": 40_000}},
        {"network": {"base": 2**40}},
        {"network": {"blocks": 10**9}},
        {"network": {"embedding": 65_536}},
        {"size": 2**62},
    ],
)
def test_a_description_larger_than_its_weights_is_refused_before_there_is_memory_for_it(weights, change):
    beside = weights.with_suffix(".json")
    made = artifacts.read_json(beside)
    for key, value in change.items():
        where = made["setup"]["shared"] if key == "network" else made["setup"]
        where[key] = {**where[key], **value} if isinstance(value, dict) else value
    artifacts.write_json(beside, made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"no description of a model|another network"):
        Painter(weights, CPU)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def within(seconds: float, weights: Path, made: object) -> None:
    """Weights with such a description are loaded or refused, in so little of this process's time."""
    artifacts.write_json(weights.with_suffix(".json"), made)
    began = time.process_time()
    with suppress(UserError):
        load.trained(weights, CPU, False)
    assert time.process_time() - began < seconds, made


@pytest.mark.parametrize(
    "network",
    [
        *({"blocks": blocks} for blocks in (500, 1_000, 5_000, 65_536)),
        *({"multipliers": [1] * count} for count in (500, 20_000)),
        *({"base": 65_536}, {"attention": list(range(60_000))}, {"size": 65_536}),
    ],
)
def test_a_description_of_endless_layers_is_refused_at_once(tmp_path, network):
    """The page's only thread that colours would be busy with it."""
    weights = tmp_path / "w.safetensors"
    for source, target in zip(load.files(load.STARTER), (weights, weights.with_suffix(".json")), strict=True):
        shutil.copyfile(source, target)
    made = artifacts.read_json(weights.with_suffix(".json"))
    made["setup"]["size"] = network.pop("size", made["setup"]["size"])
    made["setup"]["shared"]["network"] |= network
    within(1, weights, made)


def counts(tree: dict, *path: str) -> Iterator[tuple[str, ...]]:
    """Where whole numbers stand in a description."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from counts(value, *path, key)
        elif type(value) is int:
            yield *path, key


@pytest.mark.parametrize("kind", sorted({*small.CONFIGS, "edm", "scft", "regression", "animediffusion"}))
def test_whatever_is_counted_in_a_description_costs_no_time(tmp_path, kind):
    weights = tmp_path / "w.safetensors"
    checkpoints.write_weights(weights, small.build(kind).state_dict())
    setup = registry.described(small.setup(kind))
    sampler = {"name": next(iter(registry.get(kind).samplers), None), "steps": 2}
    colour = {"sampler": sampler if registry.get(kind).samplers else None}
    made = {"setup": setup, "stage": "pretrain", "parameters": 1, "colour": colour}
    artifacts.write_json(weights.with_suffix(".json"), made)
    load.trained(weights, CPU, False)
    for *path, last in counts(setup):
        changed = copy.deepcopy(made)
        reduce(operator.getitem, path, changed["setup"])[last] = 4_096
        within(2, weights, changed)
