"""Models of which not everything is trained: finished parts, fixed parameters, counters and masks."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ssimbad.methods.contract import Losses, Player
from ssimbad.training import checkpoints, loop

from .small import COMMON, TRAIN, feed, job, validated


class Composed(nn.Module):
    """A finished encoder, a fixed scale, a trained decoder, and buffers of every kind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Conv2d(3, 4, 3, padding=1)
        self.encoder.register_buffer("codes", torch.arange(5))
        self.decoder = nn.Conv2d(4, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        return self.decoder(self.encoder(x)) * self.scale


FROZEN = ("encoder.",)
OWN = {"decoder.weight", "decoder.bias", "scale", "calls", "mask", "mean"}


def composed(folder, stop_after=None, network=lambda model: model, validate=None, train=TRAIN):
    model, calls = Composed(), []

    def step(batch, rng):
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        model.calls += 1
        model.mean.copy_(model.calls.float())
        per_image = (model(batch.target) - batch.target).square().mean(dim=(1, 2, 3))
        return Losses(per_image.mean(), per_image.detach(), None)

    state = loop.TrainState(model, [Player(network(model), step)], train, COMMON, frozen=FROZEN)
    try:
        loop.fit(state, feed(), validate, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None
    return state


def test_only_what_wants_a_gradient_moves(tmp_path):
    state, first = composed(tmp_path), Composed().state_dict()
    now = state.model.state_dict()
    moved = {name for name in first if not torch.equal(first[name], now[name])}
    assert moved == {"decoder.weight", "decoder.bias", "calls", "mean"}
    assert len(state.optimisers[0].param_groups[0]["params"]) == 2


def test_the_average_is_of_floats_and_of_the_rest_the_latest(tmp_path):
    state = composed(tmp_path)
    assert state.ema["calls"].item() == 8 and state.ema["calls"].dtype == torch.int64
    assert state.ema["mask"].tolist() == [True, False, True]
    assert 0 < state.ema["mean"].item() < 8
    assert torch.equal(state.ema["scale"], torch.tensor(0.5))


def test_a_finished_part_is_neither_averaged_nor_in_states_nor_among_the_best_weights(tmp_path):
    state = composed(tmp_path, validate=lambda weights: 1.0, train=validated(32))
    assert state.ema.keys() == OWN
    assert state.best.keys() == OWN
    with safe_open(max(tmp_path.glob("state-*")), framework="pt") as file:
        names = set(file.keys())
    assert names
    assert not [name for name in names if "encoder" in name]
    assert {f"ema/{name}" for name in OWN} | {f"network /{name}" for name in OWN} <= names
    checkpoints.write_weights(tmp_path / "w.safetensors", state.best)
    assert checkpoints.read_tensors(tmp_path / "w.safetensors")[0].keys() == OWN


@pytest.mark.parametrize("network", [lambda model: model, lambda model: model.decoder], ids=["model", "its decoder"])
def test_any_kill_leaves_a_composed_model_bit_equal(tmp_path, network):
    whole = composed(tmp_path / "whole", network=network)
    for stop in (3, 2):
        assert composed(tmp_path / "killed", stop, network) is None
    resumed = composed(tmp_path / "killed", network=network)
    trained = network(resumed.model).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in network(whole.model).state_dict().items())
    assert torch.equal(whole.ema["decoder.weight"], resumed.ema["decoder.weight"])
    assert whole.rows == resumed.rows


def test_a_finished_part_is_not_trained_even_where_it_wants_a_gradient():
    model = Composed()
    assert model.encoder.weight.requires_grad
    state = loop.TrainState(model, [Player(model, None)], TRAIN, COMMON, frozen=FROZEN)
    assert [tuple(p.shape) for p in state.optimisers[0].param_groups[0]["params"]] == [(3, 4, 3, 3), (3,)]
