"""The training loop of every method: progress is counted in images seen, and any kill costs only the images since
the last state. To resume, run the same command again.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssimbad.errors import UserError
from ssimbad.methods.contract import Losses, Player
from ssimbad.params.blocks import Training
from ssimbad.params.methods import Train
from ssimbad.runtime import devices, interrupt
from ssimbad.runtime.distributed import ProcessGroup
from ssimbad.runtime.job import Job
from ssimbad.seeding import derive
from ssimbad.training import checkpoints
from ssimbad.training.curve import Row, Step, Window
from ssimbad.training.exchange import Exchange, trainable
from ssimbad.training.feed import BatchRng, Feed, Shard, ahead
from ssimbad.training.parallel import data_parallel, micro_batches

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
