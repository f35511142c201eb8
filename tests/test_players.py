"""Networks that train in turns: each by its own optimiser, all of them resumable to the bit."""

from __future__ import annotations

import pytest
import torch

from ssimbad.methods.contract import Losses, Player
from ssimbad.training import loop

from .small import COMMON, TRAIN, feed, job


class Duel:
    """Two players on one number each: the model runs after its opponent, the opponent away from the model."""

    def __init__(self, common=COMMON, stop_after=None):
        self.model, self.opponent = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
        for network, value in ((self.model, 0.3), (self.opponent, -0.2)):
            torch.nn.init.constant_(network.weight, value)
        self.seen, self.stop_after = [], stop_after
        pair = [
            Player(self.opponent, self.away, name="opponent", rate=2.0, betas=(0.5, 0.999), weight_decay=0.0),
            Player(self.model, self.after),
        ]
        self.state = loop.TrainState(self.model, pair, TRAIN, common)

    def gap(self, rng):
        return (self.model.weight - self.opponent.weight + 0.1 * rng.normal(1)).square().mean(dim=1)

    def losses(self, sign, rng):
        self.seen.append((self.model.weight.item(), self.opponent.weight.item()))
        if self.stop_after and len(self.seen) > self.stop_after:
            raise KeyboardInterrupt
        gap = self.gap(rng)
        return Losses(sign * gap.mean(), gap.detach(), None, {"gap": gap.mean().detach()})

    def away(self, batch, rng):
        return self.losses(-1, rng)

    def after(self, batch, rng):
        return self.losses(1, rng)

    def fit(self, folder):
        try:
            loop.fit(self.state, feed(), None, 5, job(folder), "key")
        except KeyboardInterrupt:
            return None
        return self


def test_players_move_in_turn_each_by_its_own_optimiser(tmp_path):
    duel = Duel().fit(tmp_path)
    first, second = duel.seen[:2]
    assert first[0] == second[0], "the model has not moved when its opponent does"
    assert first[1] != second[1], "the opponent has moved before the model does"
    betas = [o.param_groups[0]["betas"] for o in duel.state.optimisers]
    assert betas == [(0.5, 0.999), (0.9, 0.999)]
    assert [o.param_groups[0]["weight_decay"] for o in duel.state.optimisers] == [0.0, 0.01]
    # Adam's first step is the learning rate itself: half of 1e-3 in the warm-up, twice that for the opponent.
    assert second[1] - first[1] == pytest.approx(-2 * 0.5e-3, rel=1e-3)
    names = {name for _, _, name, _ in duel.state.rows}
    assert {"loss", "loss_gap", "opponent_loss", "opponent_loss_gap", "opponent_gradient_norm"} <= names


def test_average_and_best_weights_are_the_models(tmp_path):
    duel = Duel()
    loop.fit(duel.state, feed(), lambda weights: float(weights["weight"]), 5, job(tmp_path), "key")
    assert list(duel.state.ema) == ["weight"]
    assert duel.state.ema["weight"].item() == pytest.approx(duel.model.weight.item(), abs=5e-3)
    assert abs(duel.state.ema["weight"].item() - duel.opponent.weight.item()) > 0.1


def test_any_kill_leaves_all_players_bit_equal(tmp_path):
    whole = Duel().fit(tmp_path / "whole")
    for stop in (5, 6, 1):
        assert Duel(stop_after=stop).fit(tmp_path / "killed") is None
    resumed = Duel().fit(tmp_path / "killed")
    assert len(resumed.seen) < len(whole.seen)
    for mine, other in ((whole.model, resumed.model), (whole.opponent, resumed.opponent)):
        assert torch.equal(mine.weight, other.weight)
    assert torch.equal(whole.state.ema["weight"], resumed.state.ema["weight"])
    assert whole.state.rows == resumed.state.rows
