"""The training loop of every method: progress is counted in images seen, and any kill costs only the images since
the last state. To resume, run the same command again.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssimbad.errors import UserError, there
from ssimbad.methods.contract import Losses, Player
from ssimbad.params.blocks import Training
from ssimbad.params.methods import Train
from ssimbad.runtime import cores, devices, interrupt
from ssimbad.runtime.distributed import ALONE, ProcessGroup
from ssimbad.runtime.job import Job
from ssimbad.seeding import derive
from ssimbad.training import checkpoints
from ssimbad.training.exchange import Exchange, trainable
from ssimbad.training.feed import BatchRng, Feed, Shard, ahead

Row = tuple[int, str, str, float]
STATE_SECONDS = 900.0  # a state at least so often, however slow the images


def learning_rate(seen: int, train: Train, minimum: float) -> float:
    """Linear warm-up over `warmup_images`, then a cosine to `minimum` at `images`; `seen` counts this step's too."""
    if seen <= train.warmup_images:
        return train.learning_rate * seen / train.warmup_images
    share = (seen - train.warmup_images) / max(1, train.images - train.warmup_images)
    return minimum + (train.learning_rate - minimum) * (1 + math.cos(math.pi * share)) / 2


def ema_decay(seen: int, batch: int, share: float) -> float:
    """Decay per step for a half-life of `share` of the images seen so far (EDM's ramp-up)."""
    return 0.5 ** (batch / (share * seen)) if share and seen else 0.0


@dataclass(frozen=True)
class Step:
    """What an optimiser step leaves for the curve, still on the device: reading it there would wait for the device."""

    player: str
    losses: Losses
    norm: Tensor
    seen: int


@dataclass
class Window:
    """Means since the last row of the curve, in float64."""

    buckets: list[float]
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    """Not added up yet."""

    def settle(self, name: str) -> None:
        """Read from the device what the steps since the last time left there, and add it up.

        Raises:
            UserError: loss or gradient of one of them were not finite; `name` is the training's.
        """
        waiting, self.steps = self.steps, []
        for step in waiting:
            for what, value in (("loss", step.losses.loss), ("gradient", step.norm)):
                if not math.isfinite(float(value)):
                    raise UserError(
                        f"{name}: the {what} is not finite after {step.seen} images; "
                        "lower the learning_rate of this stage"
                    )
            self._settled(step)

    def _settled(self, step: Step) -> None:
        prefix, losses = f"{step.player}_" if step.player else "", step.losses
        values = losses.per_image.double().cpu()
        self._add(f"{prefix}loss", float(losses.loss))
        self._add(f"{prefix}gradient_norm", float(step.norm))
        for name, value in losses.terms.items():
            self._add(f"{prefix}loss_{name}", float(value))
        if losses.sigma is not None:
            edges = torch.tensor(self.buckets, dtype=torch.float64)
            for bucket, value in zip(torch.bucketize(losses.sigma.double().cpu(), edges), values, strict=True):
                self._add(f"{prefix}loss_sigma_{int(bucket)}", float(value))

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def rows(self, seen: int, rate: float) -> list[Row]:
        """Of what is settled; then it begins anew."""
        means = {name: total / self.counts[name] for name, total in sorted(self.sums.items())}
        self.sums, self.counts = {}, {}
        return [(seen, "train", name, value) for name, value in {**means, "learning_rate": rate}.items()]


@dataclass(frozen=True)
class Kept:
    """Averaged weights that are among the best on validation so far."""

    seen: int
    value: float
    weights: dict[str, Tensor]


class TrainState:
    """A training under way: the players with their optimisers, the EMA of the model, curve, best weights.

    Args:
        name: of its stage instance, for messages.
        frozen: prefixes of the model's tensors that are no part of this training, such as `encoder.`: neither trained
            nor averaged, nor in states, nor among the best weights.
    """

    def __init__(
        self,
        model: nn.Module,
        players: list[Player],
        train: Train,
        common: Training,
        name: str = "training",
        frozen: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.model, self.players, self.train, self.common = model, players, train, common
        self._frozen = frozen
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.startswith(frozen):
                parameter.requires_grad_(False)
        self.optimisers = [self._optimiser(player) for player in players]
        self.ema = {k: v.detach().clone() for k, v in self._own(model).items()}
        self.kept: list[Kept] = []
        self.seen = 0
        self.rows: list[Row] = []
        self.window = Window(common.buckets)
        self.precision = common.precision
        """Of the training as it goes on: fp32 or bf16."""

    def _optimiser(self, player: Player) -> torch.optim.Optimizer:
        decay = self.common.weight_decay if player.weight_decay is None else player.weight_decay
        return torch.optim.AdamW(
            trainable(player.network),
            lr=self.train.learning_rate * player.rate,
            betas=player.betas,
            weight_decay=decay,
            fused=True,
        )

    def _own(self, network: nn.Module) -> dict[str, Tensor]:
        """The tensors of a player's network, or of the model, without the frozen ones."""
        if not self._frozen:
            return network.state_dict()
        place = next((f"{name}." if name else "" for name, part in self.model.named_modules() if part is network), None)
        tensors = network.state_dict()
        return {k: v for k, v in tensors.items() if place is None or not f"{place}{k}".startswith(self._frozen)}

    @property
    def best(self) -> dict[str, Tensor]:
        """The averaged weights that were best on validation, {} before the first."""
        return self.kept[0].weights if self.kept else {}

    @property
    def best_psnr(self) -> float:
        """Their value on validation."""
        return self.kept[0].value if self.kept else -math.inf

    def advance(self, gradients: Callable[[Player], Iterable[Losses]]) -> None:
        """One batch: each player in turn makes its steps, then the EMA follows the model.

        Args:
            gradients: of a player's losses, one step after the other: leaves the gradient in `.grad` of its network.

        Raises:
            UserError: as `settle`.
        """
        rate = learning_rate(self.seen + self.train.batch, self.train, self.common.minimum_rate)
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            for losses in gradients(player):
                self._step(player, optimiser, losses, rate)
        self.seen += self.train.batch
        self._update_ema()
        if self.seen % self.common.log_images < self.train.batch or self.seen >= self.train.images:
            self.settle()
            self.rows += self.window.rows(self.seen, rate)

    def settle(self) -> None:
        """Look at what the steps so far have left on the device.

        Raises:
            UserError: a loss or gradient was not finite; the weights do not have that step.
        """
        self.window.settle(self.name)

    def _step(self, player: Player, optimiser: torch.optim.Optimizer, losses: Losses, rate: float) -> None:
        """One AdamW step on the true gradient in `.grad`, clipped by its norm; none where loss or norm are not finite,
        which the device decides and `settle` then tells.
        """
        norm = nn.utils.clip_grad_norm_(trainable(player.network), self.common.clip)
        _align(player.network)
        for group in optimiser.param_groups:
            group["lr"] = rate * player.rate
        # What a gradient scaler would say of overflows, to the optimiser that is made for it.
        unsound = ~(torch.isfinite(norm) & torch.isfinite(losses.loss))
        optimiser.found_inf = unsound.float()  # ty: ignore[missing-attribute] in no signature, but asked by `step`
        optimiser.step()
        self.window.steps.append(Step(player.name, losses, norm, self.seen))

    def _update_ema(self) -> None:
        decay = ema_decay(self.seen, self.train.batch, self.common.ema)
        own = self._own(self.model)
        moved = [name for name, value in own.items() if value.is_floating_point()]
        with torch.no_grad():
            # Together: one by one, a GPU spends longer on starting than on computing.
            torch._foreach_lerp_([self.ema[name] for name in moved], [own[name] for name in moved], 1 - decay)
            for name in own.keys() - set(moved):  # a counter, a mask: the latest
                self.ema[name].copy_(own[name])

    @property
    def validation_due(self) -> bool:
        """Whether a validation is due here and has not been made yet."""
        train = self.train
        every = train.validation.every if train.validation else 0
        due = _due(self.seen, every, train.batch) or self.seen >= train.images
        return bool(self.seen and due and (self.seen, "val") not in {(seen, split) for seen, split, *_ in self.rows})

    def record_validation(self, value: float) -> None:
        """Remember the averaged weights if they are among the best on validation so far; of equals the first."""
        own = self.train.validation and not self.train.validation.colour
        self.rows.append((self.seen, "val", "score" if own else "psnr", value))
        last = self.kept[-1].value if len(self.kept) == self.common.keep else -math.inf
        if value > last:
            self.kept.append(Kept(self.seen, value, {k: v.clone() for k, v in self.ema.items()}))
            self.kept = sorted(self.kept, key=lambda kept: -kept.value)[: self.common.keep]

    def save(self, folder: Path, key: str) -> None:
        """Write a state of what is settled."""
        groups = {"ema": self.ema, **{f"kept {kept.seen}": kept.weights for kept in self.kept}}
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            groups[f"network {player.name}"] = self._own(player.network)
            groups[f"moments {player.name}"] = checkpoints.moments(optimiser)
        facts: dict[str, Any] = {
            "key": key,
            "seen": self.seen,
            "precision": self.precision,
            "rows": self.rows,
            "kept": [(kept.seen, kept.value) for kept in self.kept],
            "window": [self.window.sums, self.window.counts],
        }
        checkpoints.write_state(folder, self.seen, groups, facts)

    def resume(self, folder: Path, key: str) -> bool:
        """Continue from the newest state of this configuration, if there is one."""
        found = checkpoints.latest_state(folder, key)
        if found is None:
            return False
        groups, facts = found
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            network, own = player.network, self._own(player.network)
            frozen = {k: v for k, v in network.state_dict().items() if k not in own}
            network.load_state_dict(frozen | groups[f"network {player.name}"])
            checkpoints.restore_moments(optimiser, groups.get(f"moments {player.name}", {}))
        device = next(self.model.parameters()).device

        def placed(group: str) -> dict[str, Tensor]:
            return {k: v.to(device) for k, v in groups[group].items()}

        self.ema = placed("ema")
        self.kept = [Kept(seen, value, placed(f"kept {seen}")) for seen, value in facts["kept"]]
        self.seen, self.precision = facts["seen"], facts.get("precision", self.precision)
        self.rows = [tuple(row) for row in facts["rows"]]
        self.window.sums, self.window.counts = facts["window"]
        return True


def _align(network: nn.Module) -> None:
    """Lay each gradient out in memory as its parameter is: the fused optimiser pairs them in the order of memory."""
    for parameter in network.parameters():
        gradient = parameter.grad
        if gradient is not None and _steps(gradient) != _steps(parameter):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _steps(tensor: Tensor) -> list[int]:
    """Strides of the axes along which there is more than one element."""
    return [stride for stride, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]


class DataParallel:
    """Equal shares of every batch, computed side by side: threads on a CPU, one process per GPU.

    A CPU thread computes with one core, so that the sums, and the last bits of the weights, depend on the number of
    shares alone and not on the machine's cores; it is also faster than sharing each operation of a small batch. All
    threads run the same modules: a step must not change their buffers.

    Args:
        micro: equal parts of a share, computed one after the other: gradient accumulation.
        exchanges: of gradients between processes, by network; none where this process is alone.
        after: exchange after the backward pass. So it is always for several threads, which would reach the buckets in
            any order.
    """

    def __init__(
        self,
        count: int,
        pool: ThreadPoolExecutor,
        group: ProcessGroup = ALONE,
        micro: int = 1,
        exchanges: Mapping[nn.Module, Exchange] | None = None,
        after: bool = False,
    ) -> None:
        self._shards = [Shard(group.rank * count + i, group.world_size * count) for i in range(count)]
        self._map, self._group, self._micro = pool.map if count > 1 else map, group, micro
        self._exchanges, self._after = exchanges or {}, after or count > 1

    def gradients(self, network: nn.Module, work: Callable[[Shard], Iterator[Losses]]) -> Iterator[Losses]:
        """Run `work` on every shard, one loss at a time; yield the losses of the global batch.

        At each `yield` the mean gradient is in the network's `.grad`, and `work` goes on from the weights as the caller
        then leaves them. This is the one place where the shares of a global batch become one gradient.

        Raises:
            RuntimeError: the shares make different numbers of steps.
        """
        parameters, exchange = trainable(network), self._exchanges.get(network)
        after = exchange if self._after else None
        accumulated = partial(_exchanged, exchange) if exchange and not after else partial(_accumulated, parameters)
        streams = [[work(part) for part in shard.split(self._micro)] for shard in self._shards]
        while True:
            done = list(self._map(accumulated, streams))
            counts = {len(losses) for losses, _ in done}
            if counts == {0}:
                return
            if counts != {self._micro}:
                raise RuntimeError("a training step yields more losses for one part of a batch than for another")
            totals = [sum(parts[1:], parts[0]) for parts in zip(*(gradients for _, gradients in done), strict=True)]
            for parameter, total in zip(parameters, after.means(totals) if after else totals, strict=True):
                parameter.grad = total / (len(done) * self._micro)
            yield _global(_concatenated([losses for several, _ in done for losses in several]), self._group)


def _accumulated(parameters: list[nn.Parameter], streams: list[Iterator[Losses]]) -> tuple[list[Losses], list[Tensor]]:
    """The next loss of each stream that has one, and the sum of their gradients."""
    several: list[Losses] = []
    total: list[Tensor] = []
    for losses in (found for stream in streams if (found := next(stream, None)) is not None):
        gradients = torch.autograd.grad(losses.loss, parameters, materialize_grads=True)
        total = [a + b for a, b in zip(total, gradients, strict=True)] if several else list(gradients)
        several.append(replace(losses, loss=losses.loss.detach()))
    return several, total


def _exchanged(exchange: Exchange, streams: list[Iterator[Losses]]) -> tuple[list[Losses], list[Tensor]]:
    """The same, but the sum is the mean over the processes, exchanged while the last loss is differentiated."""
    several: list[Losses] = []
    exchange.clear()
    for losses in (found for stream in streams if (found := next(stream, None)) is not None):
        several.append(replace(losses, loss=losses.loss.detach()))
        exchange.backward(losses.loss, last=len(several) == len(streams))
    return several, exchange.gradients if several else []


@contextmanager
def data_parallel(
    count: int,
    group: ProcessGroup = ALONE,
    micro: int = 1,
    exchanges: Mapping[nn.Module, Exchange] | None = None,
    after: bool = False,
) -> Iterator[DataParallel]:
    """`count` shares of every batch in each process of the group, for as long as the block lasts: see `DataParallel`.

    The calling thread, which clips, steps and averages, computes with one core as well.
    """
    with cores.alone(), ThreadPoolExecutor(count, initializer=cores.one) as pool:
        yield DataParallel(count, pool, group, micro, exchanges, after)


def micro_batches(share: int, most: int | None) -> int:
    """Into how many equal parts a share of so many images is cut for parts of at most `most` images."""
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= (most or share))


def _concatenated(parts: list[Losses]) -> Losses:
    """Of the whole share, without the graph: the curve reads them when the step is long gone."""
    loss = torch.stack([p.loss.detach() for p in parts]).mean()
    sigma = None if parts[0].sigma is None else torch.cat([there(p.sigma) for p in parts])
    terms = {name: torch.stack([p.terms[name].detach() for p in parts]).mean() for name in parts[0].terms}
    return Losses(loss, torch.cat([p.per_image.detach() for p in parts]), sigma, terms)


def _global(losses: Losses, group: ProcessGroup) -> Losses:
    """The losses of the global batch, from those of this process's rows."""
    if group.world_size == 1:
        return losses
    scalars = group.all_gather(torch.stack([losses.loss, *losses.terms.values()])[None]).mean(dim=0)
    sigma = None if losses.sigma is None else group.all_gather(losses.sigma)
    return Losses(
        scalars[0], group.all_gather(losses.per_image), sigma, dict(zip(losses.terms, scalars[1:], strict=True))
    )


def fit(
    state: TrainState,
    feed: Feed,
    validate: Callable[[dict[str, Tensor]], float] | None,
    seed: int,
    job: Job,
    key: str,
    picture: Callable[[dict[str, Tensor]], np.ndarray] | None = None,
) -> tuple[float, int]:
    """Train until `train.images` are seen, saving state in `job.scratch`; returns (seconds, images) of this process.

    Args:
        validate: averaged weights → how good they are, asked of all processes together; None: the last are the result.
        picture: averaged weights → (H, W, 3) uint8 for the logbook, asked of the leader alone every
            `training.grid.every` images.
    """
    train, common, group = state.train, state.common, job.group
    if state.resume(job.scratch, key):
        job.say(f"{job.name}: resumed at {state.seen} of {train.images} images")
        job.tags(resumed=state.seen)
    device = next(state.model.parameters()).device
    state.precision = devices.precision(state.precision, device)
    exchanges = _synchronise(state, group)
    if common.precision == "auto":
        job.say(f"{job.name}: precision {state.precision}")

    def shard_losses(player: Player, shard: Shard) -> Iterator[Losses]:
        batch = replace(source.batch(state.seen, train.batch, shard), progress=state.seen / train.images)
        rng = BatchRng(derive(seed, "noise", state.seen), train.batch, shard, device)
        stream = player.losses(batch, rng)
        while True:
            # Around each loss anew: autocast belongs to a thread, and the next loss may be another thread's.
            with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
                losses = next(stream, None)
            if losses is None:
                return
            yield losses

    shares = common.threads if device.type == "cpu" else 1
    micro = micro_batches(train.batch // (shares * group.world_size), common.micro_batch)
    started, first, logged = time.perf_counter(), state.seen, len(state.rows)
    saved = time.monotonic()
    pictured = common.grid.every if picture and common.grid and group.is_leader else 0
    with (
        job.progress(train.images, "images", done=state.seen) as bar,
        data_parallel(shares, group, micro, exchanges, common.exchange == "after") as parallel,
        ahead(feed, train.images, common.prefetch) as source,
        interrupt.Watch() as watch,
    ):
        while True:
            # A state that is due comes before a validation, which may outlast the time that SIGTERM leaves.
            if validate and state.validation_due:
                state.settle()
                state.record_validation(validate(state.ema))
            if picture and state.seen and _due(state.seen, pictured, train.batch):
                job.picture(state.seen, "validation", picture(state.ema))
            if len(state.rows) > logged:
                values = {f"{split}/{name}": v for _, split, name, v in state.rows[logged:]}
                if state.seen > first:  # not before the first step, in a validation that was still due
                    values["images_per_second"] = (state.seen - first) / (time.perf_counter() - started)
                job.metrics(state.seen, values)
                logged = len(state.rows)
                if told := _told(values):  # not after a validation alone
                    bar.set_postfix(told, refresh=False)
            if state.seen >= train.images:
                break
            state.advance(lambda player: parallel.gradients(player.network, partial(shard_losses, player)))
            bar.update(train.batch)
            if state.seen >= train.images and not validate:
                continue
            reason = watch.due
            # Clocks differ: the processes agree on whether a state is due, and all look at what it would hold.
            stop, late = group.any(reason is not None, time.monotonic() - saved > STATE_SECONDS)
            if stop or late or _due(state.seen, common.state_images, train.batch):
                state.settle()
                saved = time.monotonic()
                if group.is_leader:
                    job.confirm()
                    state.save(job.scratch, key)
            if stop:
                why = reason or "another process of this training was asked to stop"
                job.say(f"{job.name}: {why}; {state.seen} of {train.images} images are saved, the same command goes on")
                sys.exit(interrupt.EXIT)
    if group.is_leader and state.kept[1:]:
        job.confirm()
        folder = checkpoints.write_kept(job.scratch, [(kept.seen, kept.value, kept.weights) for kept in state.kept[1:]])
        job.say(f"{job.name}: the {len(state.kept) - 1} next best weights are in {folder}, named by images and value")
    return time.perf_counter() - started, state.seen - first


def _told(values: Mapping[str, float]) -> dict[str, str]:
    """The players' losses among the newest values, for the line of progress."""
    shown = {name.removeprefix("train/").replace("_", " "): f"{value:.4f}" for name, value in values.items()}
    return {name: value for name, value in shown.items() if name == "loss" or name.endswith(" loss")}


def _synchronise(state: TrainState, group: ProcessGroup) -> dict[nn.Module, Exchange]:
    """All processes at the same image with the same weights, and what exchanges the gradients of each player.

    Raises:
        UserError: they read different states.
    """
    places = group.all_gather(torch.tensor([state.seen])).tolist()
    if len(set(places)) > 1:
        raise UserError(
            f"the processes of this training resume at {places} images; let all nodes see the same work/ and run again"
        )
    cast = group.all_gather(torch.tensor([float(state.precision == "bf16")]))
    state.precision = "bf16" if cast[0] else "fp32"  # as the first of them
    if group.world_size == 1:
        return {}
    bf16 = state.common.exchange == "bf16"
    return {player.network: Exchange(player.network, group, bf16) for player in state.players}


def _due(seen: int, every: int, batch: int) -> bool:
    return bool(every) and seen % every < batch
