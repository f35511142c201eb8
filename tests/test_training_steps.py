"""How a batch becomes optimiser steps: several of them, in parts that fit into memory, in threads and in processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssimbad.methods.contract import Losses, Player
from ssimbad.training import loop
from ssimbad.training.feed import BatchRng, Shard
from ssimbad.training.parallel import data_parallel, micro_batches

from .small import COMMON, CPU, TRAIN, alone, build, feed, job, step


def common(**changes):
    return COMMON.model_copy(update=changes)


class Chain(nn.Module):
    """A state that is walked in three segments, each with a loss of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1).to(memory_format=torch.channels_last)  # as the pictures are

    def walk(self, batch, rng):
        x = batch.target + rng.normal(*batch.target.shape[1:])
        for number in range(3):
            x = x + self.layer(x)
            per_image = (x - batch.target).square().mean(dim=(1, 2, 3))
            yield Losses(per_image.mean(), per_image.detach(), None, {"last": torch.tensor(float(number))})
            x = x.detach()


def walked(folder, stop_after=None, settings=COMMON, walk=Chain.walk):
    """Train a chain; `stop_after` raises in the middle of a batch, as a kill would."""
    model, begun = Chain(), []

    def killed(batch, rng):
        begun.append(1)
        for losses in walk(model, batch, rng):
            if stop_after and len(begun) > stop_after:
                raise KeyboardInterrupt
            yield losses

    state = loop.TrainState(model, [Player(model, killed)], TRAIN, settings)
    try:
        loop.fit(state, feed(), None, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None
    return state


def close(one, other, rtol=1e-4, atol=1e-6):
    return all(torch.allclose(value, other[name], rtol=rtol, atol=atol) for name, value in one.items())


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_each_loss_of_a_batch_moves_the_weights_before_the_next_as_a_plain_loop_would(tmp_path):
    """Bit for bit."""
    state = walked(tmp_path)
    model, data = Chain(), feed()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=COMMON.weight_decay, fused=True)
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    steps = 0
    for seen in range(0, 64, 8):
        rng = BatchRng(loop.derive(5, "noise", seen), 8, Shard(), CPU)
        optimiser.param_groups[0]["lr"] = loop.learning_rate(seen + 8, TRAIN, COMMON.minimum_rate)
        for losses in model.walk(data.batch(seen, 8, Shard()), rng):
            optimiser.zero_grad()
            losses.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), COMMON.clip)
            optimiser.step()
            steps += 1
        for name, value in model.state_dict().items():
            ema[name].lerp_(value, 1 - loop.ema_decay(seen + 8, 8, COMMON.ema))
    assert steps == 24
    assert equal(model.state_dict(), state.model.state_dict())
    assert equal(ema, state.ema)


def test_the_curve_has_the_means_of_all_steps(tmp_path):
    rows = walked(tmp_path).rows
    assert [value for *_, name, value in rows if name == "loss_last"] == [1.0] * 4


def test_a_kill_within_a_batch_of_several_steps_costs_that_batch_and_no_bit(tmp_path):
    whole = walked(tmp_path / "whole")
    for stop in (3, 2):
        assert walked(tmp_path / "killed", stop) is None
    resumed = walked(tmp_path / "killed")
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
    assert equal(whole.ema, resumed.ema)
    assert whole.rows == resumed.rows


@pytest.mark.parametrize("settings", [{"threads": 2}, {"micro_batch": 2}, {"threads": 2, "micro_batch": 1}], ids=str)
def test_shares_and_parts_walk_several_steps_together(tmp_path, settings):
    whole, parts = walked(tmp_path / "whole"), walked(tmp_path / "parts", settings=common(**settings))
    assert close(whole.model.state_dict(), parts.model.state_dict())
    again = walked(tmp_path / "again", settings=common(**settings))
    assert equal(again.model.state_dict(), parts.model.state_dict())


def test_parts_of_a_batch_that_disagree_on_the_number_of_steps_are_an_error(tmp_path):
    def uneven(model, batch, rng):
        steps = list(model.walk(batch, rng))
        yield from steps if batch.target.mean() > 0 else steps[:2]

    settings = common(threads=8)
    with pytest.raises(RuntimeError, match="more losses for one part of a batch than for another"):
        walked(tmp_path, settings=settings, walk=uneven)


def test_a_finite_loss_is_asked_of_every_step(tmp_path):
    def breaks(model, batch, rng):
        for number, losses in enumerate(model.walk(batch, rng)):
            yield Losses(losses.loss * (1 if number < 2 else float("nan")), losses.per_image, None, losses.terms)

    with pytest.raises(loop.UserError, match="the loss is not finite after 0 images"):
        walked(tmp_path, walk=breaks)


@pytest.mark.parametrize(
    ("share", "most", "parts"),
    [(8, None, 1), (8, 8, 1), (8, 100, 1), (8, 4, 2), (8, 3, 4), (8, 1, 8), (6, 4, 2), (7, 3, 7)],
)
def test_a_share_is_cut_into_as_few_equal_parts_as_fit(share, most, parts):
    assert micro_batches(share, most) == parts


def test_parts_of_a_shard_are_its_rows_in_order():
    rows = [part.rows(24) for part in Shard(1, 3).split(4)]
    assert [i for r in rows for i in range(r.start, r.stop)] == list(range(8, 16))


def gradients(micro, threads=1):
    model, data = build(), feed()

    def work(shard):
        assert shard.rows(8).stop - shard.rows(8).start == 8 // (micro * threads)
        yield step(model, data.batch(8, 8, shard), BatchRng(1, 8, shard, CPU))

    with data_parallel(threads, micro=micro) as parallel:
        (losses,) = parallel.gradients(model, work)
        return losses, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("micro", "threads"), [(2, 1), (8, 1), (2, 2), (4, 2)])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro, threads):
    whole, plain = gradients(1)
    losses, accumulated = gradients(micro, threads)
    assert (accumulated - plain).norm() < 1e-5 * plain.norm()
    assert losses.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert torch.equal(losses.sigma, whole.sigma), "the draws are the batch's, in its order"
    assert torch.allclose(losses.per_image, whole.per_image, rtol=1e-4)


def test_a_training_in_small_parts_ends_where_one_in_whole_batches_does(tmp_path):
    ends = []
    for most in (None, 2):
        model = build()
        state = loop.TrainState(
            model, alone(model, lambda b, d, m=model: step(m, b, d)), TRAIN, common(micro_batch=most)
        )
        loop.fit(state, feed(), None, 5, job(tmp_path / str(most)), "key")
        ends.append(state)
    assert close(ends[0].ema, ends[1].ema, rtol=1e-3, atol=1e-5)
    values = [[value for *_, value in state.rows] for state in ends]
    assert values[1] == pytest.approx(values[0], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_accumulation_on_a_gpu_takes_less_memory_and_gives_the_same_gradient():
    device, found = torch.device("cuda"), {}
    model = build().to(device)
    data = feed(n=64, device=device)
    for micro in (1, 8):

        def work(shard):
            yield step(model, data.batch(0, 64, shard), BatchRng(1, 64, shard, device))

        torch.cuda.reset_peak_memory_stats()
        with data_parallel(1, micro=micro) as parallel:
            list(parallel.gradients(model, work))
        found[micro] = torch.cuda.max_memory_allocated(), torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found[8][0] < found[1][0]
    assert (found[8][1] - found[1][1]).norm() < 1e-3 * found[1][1].norm()
