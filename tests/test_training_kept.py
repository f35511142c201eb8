"""What a training keeps beside its result: further good weights, and pictures for the logbook."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ssimbad.errors import ParameterError
from ssimbad.params import tree as parameters
from ssimbad.params.blocks import Grid
from ssimbad.tracking import spool
from ssimbad.training import checkpoints, loop, pictures

from .conftest import write_params
from .small import COMMON, alone, build, feed, job, step, trained, validated
from .test_distributed import WEIGHTS, ended, start, workshop

SCORES = {8: 20.0, 16: 10.0, 24: 30.0, 32: 30.0, 40: 25.0, 48: -1.0, 56: 26.0, 64: 5.0}


def fitted(folder, keep, stop_after=None, common=COMMON):
    """A training whose validation at so many images has the value of `SCORES`; and the weights it saw."""
    model, calls, seen = build(), [], {}

    def counting(batch, rng):
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        return step(model, batch, rng)

    def validate(weights):
        seen[state.seen] = {k: v.clone() for k, v in weights.items()}
        return SCORES[state.seen]

    state = loop.TrainState(model, alone(model, counting), validated(8), common.model_copy(update={"keep": keep}))
    try:
        loop.fit(state, feed(), validate, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None, seen
    return state, seen


def test_the_best_weights_are_kept_and_of_equals_the_first(tmp_path):
    state, seen = fitted(tmp_path, 3)
    assert [(kept.seen, kept.value) for kept in state.kept] == [(24, 30.0), (32, 30.0), (56, 26.0)]
    for kept in state.kept:
        assert all(torch.equal(value, seen[kept.seen][name]) for name, value in kept.weights.items())
    assert state.best is state.kept[0].weights
    assert state.best_psnr == 30.0


def test_the_result_does_not_depend_on_how_many_are_kept(tmp_path):
    one, three = (fitted(tmp_path / str(keep), keep)[0] for keep in (1, 3))
    assert len(one.kept) == 1
    assert all(torch.equal(value, three.best[name]) for name, value in one.best.items())
    assert not (tmp_path / "1/best").exists()


def test_the_others_lie_in_the_scratch_folder_and_the_log_says_where(tmp_path, capsys):
    state, _ = fitted(tmp_path, 3)
    files = sorted((tmp_path / "best").iterdir())
    assert [f.name for f in files] == ["000000000032-30.000.safetensors", "000000000056-26.000.safetensors"]
    for file, kept in zip(files, state.kept[1:], strict=True):
        tensors, _ = checkpoints.read_tensors(file)
        assert all(torch.equal(tensors[name], value) for name, value in kept.weights.items())
    assert f"the 2 next best weights are in {tmp_path / 'best'}" in capsys.readouterr().out


def test_those_of_an_earlier_training_make_way(tmp_path):
    checkpoints.write_kept(tmp_path, [(8, -1.5, {"a": torch.ones(1)})])
    assert [f.name for f in (tmp_path / "best").iterdir()] == ["000000000008--1.500.safetensors"]
    fitted(tmp_path, 2)
    assert [f.name for f in (tmp_path / "best").iterdir()] == ["000000000032-30.000.safetensors"]


def test_kept_weights_survive_kills(tmp_path):
    whole, _ = fitted(tmp_path / "whole", 3)
    for stop in (5, 2):
        assert fitted(tmp_path / "killed", 3, stop)[0] is None
    resumed, _ = fitted(tmp_path / "killed", 3)
    assert [(k.seen, k.value) for k in whole.kept] == [(k.seen, k.value) for k in resumed.kept]
    for mine, other in zip(whole.kept, resumed.kept, strict=True):
        assert all(torch.equal(value, other.weights[name]) for name, value in mine.weights.items())


def test_nothing_is_written_beside_a_result_once_an_input_was_touched(tmp_path):
    model = build()
    state = loop.TrainState(
        model, alone(model), validated(8), COMMON.model_copy(update={"keep": 2, "state_images": 1000})
    )

    def touched():
        raise loop.UserError("an input changed")

    with pytest.raises(loop.UserError, match="an input changed"):
        loop.fit(state, feed(), lambda w: 1.0 + state.seen, 5, replace(job(tmp_path), confirm=touched), "key")
    assert not (tmp_path / "best").exists()


def drawn(folder, grid, log):
    model, asked = build(), []

    def picture(weights):
        asked.append((state.seen, {k: v.clone() for k, v in weights.items()}))
        torch.set_num_threads(1)
        return np.full((4, 6, 3), len(asked), np.uint8)

    state = loop.TrainState(model, alone(model), validated(64), COMMON.model_copy(update={"grid": grid}))
    loop.fit(state, feed(), lambda w: 1.0, 5, replace(job(folder), log=log), "key", picture)
    return state, asked


@pytest.fixture
def scratch(logbook):
    return logbook / "work/pretrain-ssimbad-seed-0/0123456789ab"


def test_pictures_of_the_averaged_weights_go_to_the_logbook(scratch, logbook):
    with spool.opened("p-0123456789ab", "p", {}, {}, {}) as log:
        _, asked = drawn(scratch.relative_to(logbook), Grid(images=2, every=24), log)
    assert [seen for seen, _ in asked] == [24, 48]
    files = sorted((scratch / "pictures").iterdir())
    assert [f.name for f in files] == ["validation-000000000024.png", "validation-000000000048.png"]
    assert np.asarray(Image.open(io.BytesIO(files[1].read_bytes()))).tolist() == np.full((4, 6, 3), 2).tolist()
    said = [e for e in spool.read(log.path) if e["event"] == "artifact"]  # as the import reads them
    assert [(e["path"], e["folder"]) for e in said] == [(str(f.relative_to(logbook)), "pictures") for f in files]


def test_pictures_change_no_bit_of_a_training(tmp_path):
    plain = trained(tmp_path / "plain", validated(64), validate=lambda w: 1.0)
    state, asked = drawn(tmp_path / "drawn", Grid(images=2, every=8), spool.Spool(tmp_path / "s.jsonl"))
    assert len(asked) == 8
    assert all(torch.equal(value, state.ema[name]) for name, value in plain.ema.items())
    assert plain.rows == state.rows


def test_without_a_logbook_or_a_wish_nothing_is_drawn(tmp_path):
    assert drawn(tmp_path / "a", None, spool.Spool(tmp_path / "s.jsonl"))[1] == []
    drawn(tmp_path / "b", Grid(images=2, every=32), None)
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_that_cannot_be_written_costs_no_training(tmp_path, capsys):
    (tmp_path / "pictures").write_text("in the way")
    state, _ = drawn(tmp_path, Grid(images=2, every=32), spool.Spool(tmp_path / "s.jsonl"))
    assert state.seen == 64
    assert "the logbook is incomplete, the stage goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_keeps_weights_and_draws_its_validation_faces_and_its_result_does_not_change(tmp_path):
    results = []
    for name, settings in (("plain", {}), ("kept", {"keep": 2, "grid": {"images": 3, "every": 32}})):
        folder = workshop(tmp_path / name)
        tree = yaml.safe_load((folder / "params.yaml").read_text())
        tree["training"] |= settings
        write_params(folder, tree)
        said = ended(start(folder))
        results.append((folder / WEIGHTS).read_bytes())
    assert results[0] == results[1]
    (scratch,) = [p.parent for p in folder.glob("work/pretrain-*/*/best")]
    assert f"the 1 next best weights are in {scratch.relative_to(folder) / 'best'}" in said
    assert len(list((scratch / "best").iterdir())) == 1
    drawn = sorted((scratch / "pictures").iterdir())
    assert [f.name for f in drawn] == ["validation-000000000032.png", "validation-000000000064.png"]
    # Sketch, reference, answer and target of three faces of 16 pixels, one pixel apart.
    assert np.asarray(Image.open(drawn[0])).shape == (4 * 16 + 3, 3 * 16 + 2, 3)


@pytest.mark.parametrize(
    "path",
    [
        "work/pretrain-x/0123456789ab/state-000000000064.safetensors",
        "work/pretrain-x/0123456789ab/pictures/../state-000000000064.png",
        "elsewhere/0123456789ab/pictures/validation-000000000064.png",
        "/etc/pictures/validation-000000000064.png",
    ],
)
def test_the_logbook_takes_nothing_else_from_work(logbook, path):
    with spool.opened("p-0123456789ab", "p", {}, {}, {}) as log:
        log.artifact(path, "pictures")
    with pytest.raises(spool.DamagedError, match=r"artifact: path: .* is no result of this repository"):
        spool.read(log.path)


def test_more_pictures_than_validation_faces_are_refused(tree):
    tree["training"]["grid"] = {"images": tree["data"]["val"] + 1, "every": 8}
    with pytest.raises(ParameterError, match=r"training\.grid\.images: more than data\.val 4"):
        parameters.parse(yaml.safe_dump(tree))


def test_tiles_stand_on_white():
    rows = [np.zeros((3, 50, 50), np.uint8), np.full((3, 50, 50, 3), 7, np.uint8)]
    image = pictures.tiled(rows)
    assert image.shape == (102, 154, 3)
    assert (image[:50, :50] == 0).all() and (image[52:, 104:] == 7).all()
    assert (image[50:52] == 255).all() and (image[:, 50:52] == 255).all()
