"""The loop: order, learning rate, clipping, EMA, exact resume, validation, devices."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ssimbad.errors import UserError
from ssimbad.job import Job
from ssimbad.methods import edm
from ssimbad.methods.contract import Losses, Plan
from ssimbad.pairing.tps import Law
from ssimbad.params import Sampler, Train, Training
from ssimbad.training import checkpoints, loop
from ssimbad.training.feed import Feed, Shard, StepDraws

from .test_methods import build

CPU = torch.device("cpu")
LAW = Law(0.3, 0.7, 0.25, 2)
COMMON = Training(
    threads=1, precision="fp32", channels_last=True, weight_decay=0.01, clip=1.0, ema=0.05, minimum_rate=1e-8,
    log_images=16, state_images=16, buckets=[0.1, 1.0],
)  # fmt: skip
TRAIN = Train(
    objective="denoising", images=64, batch=8, learning_rate=1e-3, warmup_images=16, validate_images=0,
    sampler=Sampler(name="euler", steps=2),
)  # fmt: skip


def feed(size=16, native=32, n=20, seed=5):
    generator = np.random.default_rng(0)
    faces = generator.integers(0, 256, (n, native, native, 3), dtype=np.uint8)
    return Feed(faces, faces[..., 0], size, LAW, seed, CPU, True)


def step(model, batch, draws):
    return edm.training_step(model, batch, Plan("denoising", edm.Denoising(), TRAIN.sampler), draws)


def job(folder):
    return Job("pretrain", folder, method="ssimbad", seed=0)


def optimise(run, loss):
    """One step on a given loss."""
    run.optimise(loop.Workers(1, None).gradients(run.model, lambda shard: Losses(loss, torch.zeros(8), None)))


def trained(folder, train=TRAIN, stop_after=None, validate=None, common=COMMON):
    """Train; `stop_after` raises in the middle, as a kill would. The model is laid out as in the stage."""
    run = loop.Run(build().to(memory_format=torch.channels_last), train, common)
    calls = []

    def counting(*args):
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        return step(*args)

    try:
        loop.fit(run, counting, feed(), validate, 5, job(folder), "key")
    except KeyboardInterrupt:
        return None
    return run


def test_learning_rate_rises_then_falls_once():
    """D7: the published schedule climbs back to its peak."""
    rates = [loop.learning_rate(seen, TRAIN, 1e-8) for seen in range(1, 65)]
    assert rates[0] == pytest.approx(1e-3 / 16)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 15
    assert rates[-1] == pytest.approx(1e-8)
    assert all(a > b for a, b in itertools.pairwise(rates[15:]))


def test_an_epoch_shows_every_image_once_and_the_next_another_order():
    data = feed()
    first, second = data.order(0, 20), data.order(20, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert data.order(13, 10).tolist() == [*first[13:], *second[:3]]


def test_batches_come_from_images_seen_alone():
    one, two = feed(), feed()
    one.batch(0, 8, Shard())
    a, b = one.batch(24, 8, Shard()), two.batch(24, 8, Shard())
    assert torch.equal(a.reference, b.reference)
    assert a.target.shape == (8, 3, 16, 16)
    assert a.sketch.shape == (8, 1, 16, 16)
    assert not torch.equal(a.reference, one.batch(44, 8, Shard()).reference)


def test_shards_are_the_rows_of_the_global_batch():
    whole = feed().batch(8, 8, Shard())
    parts = [feed().batch(8, 8, Shard(rank, 2)) for rank in (0, 1)]
    for name in ("target", "sketch", "reference"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))
    whole_noise = StepDraws(1, 8, Shard(), CPU).normal(3, 4, 4)
    assert torch.equal(whole_noise[4:], StepDraws(1, 8, Shard(1, 2), CPU).normal(3, 4, 4))


def test_gradient_is_clipped_by_its_true_norm():
    """D8: the published code clips gradients scaled by 65536."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    run = loop.Run(model, TRAIN, COMMON)
    seen = {}
    run.optimiser.step = lambda: seen.update(norm=model.weight.grad.abs().item())
    optimise(run, (1000 * model.weight).sum())
    assert seen["norm"] == pytest.approx(1.0, rel=1e-4)
    optimise(run, (0.25 * model.weight).sum())
    assert seen["norm"] == pytest.approx(0.25, rel=1e-4)
    logged = next(value for _, _, name, value in run.rows if name == "gradient_norm")
    assert logged == pytest.approx((1000 + 0.25) / 2, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    run = loop.Run(torch.nn.Linear(1, 1), TRAIN, COMMON)
    with pytest.raises(UserError, match="learning_rate"):
        run.optimise(Losses(torch.tensor(float("nan")), torch.zeros(8), None))


def test_shares_of_a_batch_make_the_gradient_of_the_whole(tmp_path):
    model = build()
    data = feed()

    def work(shard):
        return step(model, data.batch(8, 8, shard), StepDraws(1, 8, shard, CPU))

    whole = loop.Workers(1, None).gradients(model, work)
    plain = [p.grad.clone() for p in model.parameters()]
    with loop.workers(2) as crew:
        halves = crew.gradients(model, work)
    assert halves.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert torch.equal(halves.sigma, whole.sigma)
    for gradient, parameter in zip(plain, model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-7)


def test_two_shares_give_the_same_bits_twice(tmp_path):
    common = COMMON.model_copy(update={"threads": 2})
    first, second = (trained(tmp_path / name, common=common) for name in "ab")
    assert all(torch.equal(first.ema[k], second.ema[k]) for k in first.ema)


def test_ema_follows_with_the_stated_half_life():
    assert loop.ema_decay(1000, 50, 0.05) == pytest.approx(0.5)
    assert loop.ema_decay(1000, 25, 0.05) == pytest.approx(0.5**0.5)
    assert loop.ema_decay(0, 8, 0.05) == 0
    assert loop.ema_decay(1000, 8, 0.0) == 0


def test_any_kill_leaves_bit_equal_weights(tmp_path):
    whole = trained(tmp_path / "whole")
    for stop in (3, 3, 1):
        assert trained(tmp_path / "killed", stop_after=stop) is None
    resumed = trained(tmp_path / "killed")
    for name, value in whole.ema.items():
        assert torch.equal(value, resumed.ema[name]), name
    assert whole.rows == resumed.rows


def test_two_states_are_kept_and_a_broken_one_is_passed_over(tmp_path):
    trained(tmp_path, stop_after=7)
    states = sorted(tmp_path.glob("state-*"))
    assert [s.name for s in states] == ["state-000000000032.safetensors", "state-000000000048.safetensors"]
    states[-1].write_bytes(states[-1].read_bytes()[:100])
    _, facts = checkpoints.latest_state(tmp_path, "key")
    assert facts["seen"] == 32


def test_a_state_of_another_configuration_is_refused(tmp_path):
    trained(tmp_path, stop_after=3)
    with pytest.raises(UserError, match="another configuration"):
        checkpoints.latest_state(tmp_path, "other key")


def test_best_weights_are_chosen_on_validation(tmp_path):
    scores = iter([10.0, 30.0, 20.0, 5.0])
    seen = []

    def validate(weights):
        seen.append({k: v.clone() for k, v in weights.items()})
        return next(scores)

    run = trained(tmp_path, train=TRAIN.model_copy(update={"validate_images": 16}), validate=validate)
    assert len(seen) == 4
    assert run.best_psnr == 30.0
    assert all(torch.equal(run.best[k], seen[1][k]) for k in run.best)
    assert [v for _, split, _, v in run.rows if split == "val"] == [10.0, 30.0, 20.0, 5.0]


def test_curve_has_loss_per_sigma_bucket(tmp_path):
    run = trained(tmp_path)
    names = {name for _, _, name, _ in run.rows}
    assert {"loss", "gradient_norm", "learning_rate", "loss_sigma_0", "loss_sigma_1", "loss_sigma_2"} <= names
    assert {seen for seen, *_ in run.rows} == {16, 32, 48, 64}


def test_files_hold_arrays_and_text_only(tmp_path):
    trained(tmp_path, stop_after=3)
    path = next(iter(tmp_path.glob("state-*")))
    with safe_open(path, framework="np") as file:
        assert set(file.metadata()) == {"facts"}
        json.loads(file.metadata()["facts"])
    pickle = tmp_path / "weights.safetensors"
    torch.save({"a": torch.zeros(1)}, pickle)
    with pytest.raises(UserError, match="safetensors"):
        checkpoints.read_tensors(pickle)


def test_weights_of_another_network_are_refused(tmp_path):
    checkpoints.write_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    weights, _ = checkpoints.read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="another network"):
        checkpoints.load_into(build(), weights, tmp_path / "w.safetensors")


def test_near_the_time_limit_a_state_is_saved_and_the_same_command_goes_on(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    monkeypatch.setenv("SSIMBAD_DEADLINE", "1")
    for _ in range(3):
        with pytest.raises(SystemExit) as caught:
            trained(tmp_path / "cut")
        assert caught.value.code == 75
    monkeypatch.delenv("SSIMBAD_DEADLINE")
    resumed = trained(tmp_path / "cut")
    assert all(torch.equal(whole.ema[k], resumed.ema[k]) for k in whole.ema)
