"""The loop: learning rate, clipping, EMA, exact resume, best weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssimbad.errors import UserError
from ssimbad.methods.contract import Losses
from ssimbad.networks.patch_gan import PatchGAN
from ssimbad.training import checkpoints, loop
from ssimbad.training.feed import BatchRng, Shard
from ssimbad.training.parallel import DataParallel, data_parallel

from .small import COMMON, CPU, TRAIN, HostReads, alone, build, feed, job, step, trained, validated


def optimise(state, loss):
    """One step on a given loss."""
    given = Losses(loss, torch.zeros(8), None)
    state.advance(lambda player: DataParallel(1, None).gradients(player.network, lambda shard: iter([given])))


def test_learning_rate_rises_then_falls_once():
    """D7: the published schedule climbs back to its peak."""
    rates = [loop.learning_rate(seen, TRAIN, 1e-8) for seen in range(1, 65)]
    assert rates[0] == pytest.approx(1e-3 / 16)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 15
    assert rates[-1] == pytest.approx(1e-8)
    assert all(a > b for a, b in itertools.pairwise(rates[15:]))


def test_gradient_is_clipped_by_its_true_norm():
    """D8: the published code clips gradients scaled by 65536."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    state = loop.TrainState(model, alone(model), TRAIN, COMMON)
    seen = {}
    state.optimisers[0].step = lambda: seen.update(norm=model.weight.grad.abs().item())
    optimise(state, (1000 * model.weight).sum())
    assert seen["norm"] == pytest.approx(1.0, rel=1e-4)
    optimise(state, (0.25 * model.weight).sum())
    assert seen["norm"] == pytest.approx(0.25, rel=1e-4)
    logged = next(value for _, _, name, value in state.rows if name == "gradient_norm")
    assert logged == pytest.approx((1000 + 0.25) / 2, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    model = torch.nn.Linear(1, 1)
    state = loop.TrainState(model, alone(model), TRAIN, COMMON)
    with pytest.raises(UserError, match="learning_rate"):
        state.advance(lambda player: [Losses(torch.tensor(float("nan")), torch.zeros(8), None)])
        state.settle()


def test_a_step_that_is_not_finite_is_taken_by_no_weight_and_told_before_a_state_is_written(tmp_path):
    """Whether it was finite is read from the device when the curve is; the first such step is the one that is named."""
    model = build()
    settled = []

    def breaks(batch, rng):
        losses = step(model, batch, rng)
        settled.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return losses if len(settled) < 2 else replace(losses, loss=losses.loss * float("nan"))

    common = COMMON.model_copy(update={"log_images": 64, "state_images": 32})
    state = loop.TrainState(model, alone(model, breaks), TRAIN, common, "pretrain-x")
    with pytest.raises(UserError, match=r"^pretrain-x: the loss is not finite after 8 images; lower the"):
        loop.fit(state, feed(), None, 5, job(tmp_path), "key")
    assert len(settled) == 4, "as many steps as lie before the state that is due"
    assert all(torch.equal(settled[1][name], weight) for name, weight in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_the_host_reads_from_the_device_for_the_curve_alone(tmp_path):
    """On a GPU it waits, at each number that it reads, until all that was asked for is computed."""
    model, reads = build(), {}
    for images in (32, 64):
        train = TRAIN.model_copy(update={"images": images})
        common = COMMON.model_copy(update={"log_images": 1000, "state_images": 1000})
        state = loop.TrainState(model, alone(model), train, common)
        state.window.settle = lambda name: None
        with HostReads() as reads[images]:
            loop.fit(state, feed(), None, 5, job(tmp_path), str(images))
    assert reads[64].count == reads[32].count


def test_the_curve_keeps_no_graph_alive():
    model = torch.nn.Linear(1, 1)
    state = loop.TrainState(model, alone(model), TRAIN, COMMON)
    value = model.weight.sum()
    given = Losses(value, value[None], None, {"part": value})
    state.advance(lambda player: DataParallel(1, None).gradients(player.network, lambda shard: iter([given])))
    (step,) = state.window.steps
    assert not any(v.requires_grad for v in (step.losses.loss, step.losses.per_image, step.losses.terms["part"]))


def test_what_is_not_finite_is_told_before_a_validation_is_made_of_it(tmp_path):
    def breaks(batch, rng):
        losses = step(model, batch, rng)
        return replace(losses, loss=losses.loss * float("nan"))

    def validated_once(weights):
        raise AssertionError("validated what has not been trained")

    model, common = build(), COMMON.model_copy(update={"log_images": 1000, "state_images": 1000})
    state = loop.TrainState(model, alone(model, breaks), validated(16), common, "pretrain-x")
    with pytest.raises(UserError, match=r"^pretrain-x: the loss is not finite after 0 images; lower the"):
        loop.fit(state, feed(), validated_once, 5, job(tmp_path), "key")


class Overflowing(torch.autograd.Function):
    """A loss of zero whose gradient is what one likes."""

    @staticmethod
    def forward(context, weight, value):
        context.shape, context.value = weight.shape, value
        return torch.zeros(())

    @staticmethod
    def backward(context, gradient):
        return torch.full(context.shape, context.value), None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_stops_before_a_weight_moves(tmp_path, value):
    """The loss is finite. 1e30 is too, but the norm by which it would be clipped is not."""
    model = build()
    first = {name: weight.clone() for name, weight in model.state_dict().items()}

    def poisoned(batch, rng):
        parameter = next(model.parameters())
        losses = step(model, batch, rng)
        return Losses(losses.loss + Overflowing.apply(parameter, value), losses.per_image, losses.sigma)

    state = loop.TrainState(model, alone(model, poisoned), TRAIN, COMMON, "pretrain-x")
    with pytest.raises(UserError, match=r"^pretrain-x: the gradient is not finite after 0 images; lower the"):
        loop.fit(state, feed(), None, 5, job(tmp_path), "key")
    assert all(torch.equal(first[name], weight) for name, weight in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


FORMATS = (torch.contiguous_format, torch.channels_last)


def laid_out(tensor, memory):
    return tensor.contiguous(memory_format=memory) if tensor.ndim == 4 else tensor


@pytest.mark.parametrize("weights", FORMATS, ids=str)
@pytest.mark.parametrize("gradients", FORMATS, ids=str)
@pytest.mark.parametrize("network", [lambda: PatchGAN([8, 16]), build], ids=["discriminator", "denoiser"])
def test_each_weight_follows_its_own_gradient_however_both_lie_in_memory(network, gradients, weights):
    """Against AdamW one parameter at a time, which pairs by place: the fused one pairs by memory."""
    torch.manual_seed(0)
    model, plain = network().to(memory_format=weights), network()
    plain.load_state_dict(model.state_dict())
    state = loop.TrainState(model, alone(model, step), TRAIN, COMMON)
    optimiser = torch.optim.AdamW(plain.parameters(), weight_decay=COMMON.weight_decay, foreach=False, fused=False)
    generator = torch.Generator().manual_seed(1)

    def drawn(player):
        for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
            gradient = 1e-3 * torch.randn(mine.shape, generator=generator)
            mine.grad, other.grad = laid_out(gradient, gradients).clone(), gradient
        yield Losses(torch.zeros(()), torch.zeros(8), None)

    for _ in range(3):
        state.advance(drawn)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), COMMON.clip)
        optimiser.param_groups[0]["lr"] = loop.learning_rate(state.seen, TRAIN, COMMON.minimum_rate)
        optimiser.step()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6), tuple(mine.shape)


def test_a_discriminator_trains_alike_whatever_the_layout_of_its_pictures():
    """Of channels_last pictures the gradients of contiguous weights come out channels_last."""
    torch.manual_seed(0)
    first = PatchGAN([8, 16]).state_dict()
    pictures = torch.rand(8, 4, 16, 16)
    ends = []
    for memory in FORMATS:
        critic = PatchGAN([8, 16])
        critic.load_state_dict(first)
        seen = pictures.contiguous(memory_format=memory)

        def critic_step(batch, rng, critic=critic, seen=seen):
            loss = critic.layers(seen).square().mean()
            return Losses(loss, torch.zeros(8), None)

        state = loop.TrainState(critic, alone(critic, critic_step), TRAIN, COMMON)
        for _ in range(3):
            state.advance(
                lambda player: DataParallel(1, None).gradients(player.network, lambda shard: player.losses(0, 0))
            )
        ends.append(critic.state_dict())
    for name in first:
        assert torch.allclose(ends[0][name], ends[1][name], atol=1e-5), name


def test_shares_of_a_batch_make_the_gradient_of_the_whole(tmp_path):
    model = build()
    data = feed()

    def work(shard):
        yield step(model, data.batch(8, 8, shard), BatchRng(1, 8, shard, CPU))

    (whole,) = DataParallel(1, None).gradients(model, work)
    plain = [p.grad.clone() for p in model.parameters()]
    with data_parallel(2) as parallel:
        (halves,) = parallel.gradients(model, work)
    assert halves.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert torch.equal(halves.sigma, whole.sigma)
    for gradient, parameter in zip(plain, model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-7)


def test_two_shares_give_the_same_bits_twice(tmp_path):
    common = COMMON.model_copy(update={"threads": 2})
    first, second = (trained(tmp_path / name, common=common) for name in "ab")
    assert all(torch.equal(first.ema[k], second.ema[k]) for k in first.ema)


def test_weights_and_curve_are_bit_equal_whatever_the_process_was_granted(tmp_path):
    """Every part of a step and the validation compute with one core per thread: no barrier waits for another core."""
    train = validated(32)
    runs = []
    for before in (1, 2, 3):
        used = set()

        def validate(weights, used=used):
            used.add(torch.get_num_threads())
            return float(sum(value.double().sum() for value in weights.values()))

        def step_(optimiser, *_, used=used):
            used.add(torch.get_num_threads())

        hook = register_optimizer_step_pre_hook(step_)
        torch.set_num_threads(before)
        try:
            common = COMMON.model_copy(update={"threads": 2})
            runs.append(trained(tmp_path / str(before), train, validate=validate, common=common))
            assert (used, torch.get_num_threads()) == ({1}, before)
        finally:
            torch.set_num_threads(1)
            hook.remove()
    for other in runs[1:]:
        assert all(torch.equal(runs[0].ema[k], other.ema[k]) for k in runs[0].ema)
        assert other.rows == runs[0].rows


def test_ema_follows_with_the_stated_half_life():
    assert loop.ema_decay(1000, 50, 0.05) == pytest.approx(0.5)
    assert loop.ema_decay(1000, 25, 0.05) == pytest.approx(0.5**0.5)
    assert loop.ema_decay(0, 8, 0.05) == 0
    assert loop.ema_decay(1000, 8, 0.0) == 0


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_any_kill_leaves_bit_equal_weights(tmp_path, memory):
    whole = trained(tmp_path / "whole", memory=memory)
    for stop in (3, 3, 1):
        assert trained(tmp_path / "killed", stop_after=stop, memory=memory) is None
    resumed = trained(tmp_path / "killed", memory=memory)
    for name, value in whole.ema.items():
        assert torch.equal(value, resumed.ema[name]), name
    assert whole.rows == resumed.rows


@pytest.mark.parametrize("settings", [{}, {"threads": 2}, {"micro_batch": 2}], ids=str)
def test_batches_made_ahead_train_the_same_bits_after_any_kill(tmp_path, settings):
    common = COMMON.model_copy(update=settings)
    whole = trained(tmp_path / "whole", common=common)
    prefetching = common.model_copy(update={"prefetch": True})
    assert trained(tmp_path / "killed", stop_after=5, common=prefetching) is None
    resumed = trained(tmp_path / "killed", common=prefetching)
    assert whole.rows == resumed.rows
    assert all(torch.equal(value, resumed.ema[name]) for name, value in whole.ema.items())


def test_a_kill_between_rows_and_validations_changes_nothing(tmp_path):
    """The open window of the curve and the best weights so far are part of a state."""
    train = validated(24)
    common = COMMON.model_copy(update={"log_images": 40, "buckets": [0.1, 1.0]})

    first = {name: value.clone() for name, value in build().state_dict().items()}

    def score(weights):
        """Best at the first validation, before the last kill."""
        return -sum(float((weights[name] - first[name]).double().square().sum()) for name in sorted(weights))

    whole = trained(tmp_path / "whole", train, validate=score, common=common)
    for stop in (3, 3, 1):
        assert trained(tmp_path / "killed", train, stop, score, common) is None
    resumed = trained(tmp_path / "killed", train, validate=score, common=common)
    assert whole.rows == resumed.rows
    assert whole.best_psnr == resumed.best_psnr == whole.rows[0][-1]
    assert all(torch.equal(value, resumed.best[name]) for name, value in whole.best.items())


def test_a_training_that_dies_in_its_last_validation_has_only_that_to_repeat(tmp_path):
    def dies(weights):
        raise KeyboardInterrupt

    train = validated(64)
    assert trained(tmp_path, train, validate=dies) is None
    _, facts = checkpoints.latest_state(tmp_path, "key")
    assert facts["seen"] == 64
    assert trained(tmp_path, train, validate=lambda weights: 1.0).best_psnr == 1.0


def test_slow_images_are_saved_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STATE_SECONDS", 0.0)
    trained(tmp_path, stop_after=3, common=COMMON.model_copy(update={"state_images": 1000}))
    _, facts = checkpoints.latest_state(tmp_path, "key")
    assert facts["seen"] == 24


def test_no_state_is_saved_once_an_input_was_touched(tmp_path):
    """The states before stay, and the same command goes on from the last of them."""
    asked = []

    def confirm():
        asked.append(len(list(tmp_path.glob("state-*"))))
        if len(asked) == 3:
            raise UserError("an input changed")

    model = build()
    state = loop.TrainState(model, alone(model), TRAIN, COMMON)
    with pytest.raises(UserError, match="an input changed"):
        loop.fit(state, feed(), None, 5, replace(job(tmp_path), confirm=confirm), "key")
    assert asked == [0, 1, 2], "asked before each state"
    _, facts = checkpoints.latest_state(tmp_path, "key")
    assert facts["seen"] == 32


def test_best_weights_are_chosen_on_validation(tmp_path):
    scores = iter([10.0, 30.0, 20.0, 5.0])
    seen = []

    def validate(weights):
        seen.append({k: v.clone() for k, v in weights.items()})
        return next(scores)

    state = trained(tmp_path, train=validated(16), validate=validate)
    assert len(seen) == 4
    assert state.best_psnr == 30.0
    assert all(torch.equal(state.best[k], seen[1][k]) for k in state.best)
    assert [v for _, split, _, v in state.rows if split == "val"] == [10.0, 30.0, 20.0, 5.0]


def test_curve_has_loss_per_sigma_bucket(tmp_path):
    state = trained(tmp_path)
    names = {name for _, _, name, _ in state.rows}
    assert {"loss", "gradient_norm", "learning_rate", "loss_sigma_0", "loss_sigma_1", "loss_sigma_2"} <= names
    assert {seen for seen, *_ in state.rows} == {16, 32, 48, 64}


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


def test_one_player_trains_as_a_plain_loop_would(tmp_path):
    """Bit for bit: what several players need must not change the methods that have one."""
    state = trained(tmp_path)
    model, data = build(), feed()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    for seen in range(0, 64, 8):
        optimiser.zero_grad()
        step(
            model, data.batch(seen, 8, Shard()), BatchRng(loop.derive(5, "noise", seen), 8, Shard(), CPU)
        ).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), COMMON.clip)
        optimiser.param_groups[0]["lr"] = loop.learning_rate(seen + 8, TRAIN, COMMON.minimum_rate)
        optimiser.step()
        for name, value in model.state_dict().items():
            ema[name].lerp_(value, 1 - loop.ema_decay(seen + 8, 8, COMMON.ema))
    assert all(torch.equal(ema[k], state.ema[k]) for k in ema)
