"""The training loop of every method: progress is counted in images seen, and any kill costs only the images since
the last state. To resume, run the same command again.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssimbad import interrupt
from ssimbad.errors import UserError
from ssimbad.job import Job
from ssimbad.methods.contract import Batch, Draws, Losses
from ssimbad.params import Train, Training
from ssimbad.seeding import derive
from ssimbad.training import checkpoints
from ssimbad.training.feed import Feed, Shard, StepDraws

Step = Callable[[nn.Module, Batch, Draws], Losses]
Row = tuple[int, str, str, float]


def learning_rate(seen: int, train: Train, minimum: float) -> float:
    """Linear warm-up over `warmup_images`, then a cosine to `minimum` at `images`; `seen` counts this step's too."""
    if seen <= train.warmup_images:
        return train.learning_rate * seen / train.warmup_images
    share = (seen - train.warmup_images) / max(1, train.images - train.warmup_images)
    return minimum + (train.learning_rate - minimum) * (1 + math.cos(math.pi * share)) / 2


def ema_decay(seen: int, batch: int, share: float) -> float:
    """Decay per step for a half-life of `share` of the images seen so far (EDM's ramp-up)."""
    return 0.5 ** (batch / (share * seen)) if share and seen else 0.0


@dataclass
class Window:
    """Means since the last row of the curve, in float64."""

    buckets: list[float]
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, losses: Losses, norm: float) -> None:
        values = losses.per_image.double().cpu()
        self._add("loss", float(losses.loss))
        self._add("gradient_norm", norm)
        if losses.sigma is not None:
            edges = torch.tensor(self.buckets, dtype=torch.float64)
            for bucket, value in zip(torch.bucketize(losses.sigma.double().cpu(), edges), values, strict=True):
                self._add(f"loss_sigma_{int(bucket)}", float(value))

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def rows(self, seen: int, rate: float) -> list[Row]:
        means = {name: total / self.counts[name] for name, total in sorted(self.sums.items())}
        self.sums, self.counts = {}, {}
        return [(seen, "train", name, value) for name, value in {**means, "learning_rate": rate}.items()]


class Run:
    """A training under way: model, EMA, optimiser, curve, best weights."""

    def __init__(self, model: nn.Module, train: Train, common: Training) -> None:
        self.model, self.train, self.common = model, train, common
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=train.learning_rate, weight_decay=common.weight_decay, fused=True
        )
        self.ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.best: dict[str, Tensor] = {}
        self.best_psnr = -math.inf
        self.seen = 0
        self.rows: list[Row] = []
        self.window = Window(common.buckets)

    def optimise(self, losses: Losses) -> None:
        """One AdamW step on the true gradient in `.grad`, clipped by its norm, then the EMA."""
        if not math.isfinite(float(losses.loss)):
            raise UserError(f"the loss is not finite after {self.seen} images; lower the learning_rate of this stage")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.common.clip)
        self.seen += self.train.batch
        rate = learning_rate(self.seen, self.train, self.common.minimum_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        decay = ema_decay(self.seen, self.train.batch, self.common.ema)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay)
        self.window.add(losses, float(norm))
        if self.seen % self.common.log_images < self.train.batch or self.seen >= self.train.images:
            self.rows += self.window.rows(self.seen, rate)

    def judge(self, psnr: float) -> None:
        """Remember the averaged weights if they colour the validation split best so far."""
        self.rows.append((self.seen, "val", "psnr", psnr))
        if psnr > self.best_psnr:
            self.best_psnr, self.best = psnr, {k: v.clone() for k, v in self.ema.items()}

    def save(self, folder: Path, key: str) -> None:
        groups = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "best": self.best,
            "moments": checkpoints.moments(self.optimiser),
        }
        facts: dict[str, Any] = {
            "key": key,
            "seen": self.seen,
            "rows": self.rows,
            "best_psnr": None if self.best_psnr == -math.inf else self.best_psnr,
            "window": [self.window.sums, self.window.counts],
        }
        checkpoints.write_state(folder, self.seen, groups, facts)

    def resume(self, folder: Path, key: str) -> bool:
        """Continue from the newest state of this configuration, if there is one."""
        found = checkpoints.latest_state(folder, key)
        if found is None:
            return False
        groups, facts = found
        self.model.load_state_dict(groups["model"])
        device = next(self.model.parameters()).device
        self.ema = {k: v.to(device) for k, v in groups["ema"].items()}
        self.best = {k: v.to(device) for k, v in groups.get("best", {}).items()}
        checkpoints.restore_moments(self.optimiser, groups.get("moments", {}))
        self.seen = facts["seen"]
        self.rows = [tuple(row) for row in facts["rows"]]
        self.best_psnr = -math.inf if facts["best_psnr"] is None else facts["best_psnr"]
        self.window.sums, self.window.counts = facts["window"]
        return True


class Workers:
    """Equal shares of every batch, computed side by side: threads on a CPU, the one process on a GPU.

    A CPU thread computes with one core, so that the sums, and the last bits of the weights, depend on the number of
    shares alone and not on the machine's cores; it is also faster than sharing each operation of a small batch.
    """

    def __init__(self, count: int, pool: ThreadPoolExecutor) -> None:
        self._shards = [Shard(rank, count) for rank in range(count)]
        self._map = pool.map if count > 1 else map

    def gradients(self, model: nn.Module, work: Callable[[Shard], Losses]) -> Losses:
        """Run `work` on every shard; leave the mean gradient in `.grad` and return the joined losses, detached."""
        parameters = list(model.parameters())

        def share(shard: Shard) -> tuple[Losses, tuple[Tensor, ...]]:
            losses = work(shard)
            return losses, torch.autograd.grad(losses.loss, parameters, materialize_grads=True)

        done = list(self._map(share, self._shards))
        for parameter, *parts in zip(parameters, *(gradients for _, gradients in done), strict=True):
            parameter.grad = sum(parts[1:], parts[0]) / len(parts)
        return _joined([losses for losses, _ in done])


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """`count` shares of every batch for as long as the block lasts."""
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield Workers(count, pool)


def _joined(parts: list[Losses]) -> Losses:
    loss = torch.stack([p.loss.detach() for p in parts]).mean()
    sigma = None if parts[0].sigma is None else torch.cat([p.sigma for p in parts])
    return Losses(loss, torch.cat([p.per_image for p in parts]), sigma)


def fit(
    run: Run,
    step: Step,
    feed: Feed,
    validate: Callable[[dict[str, Tensor]], float] | None,
    seed: int,
    job: Job,
    key: str,
) -> tuple[float, int]:
    """Train until `train.images` are seen, saving state in `job.scratch`; returns (seconds, images) of this process."""
    train, common = run.train, run.common
    if run.resume(job.scratch, key):
        job.say(f"{job.name}: resumed at {run.seen} of {train.images} images")
        job.tags(resumed=run.seen)
    device = next(run.model.parameters()).device

    def work(shard: Shard) -> Losses:
        batch = feed.batch(run.seen, train.batch, shard)
        draws = StepDraws(derive(seed, "noise", run.seen), train.batch, shard, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=common.precision == "bf16"):
            return step(run.model, batch, draws)

    started, first, logged = time.perf_counter(), run.seen, len(run.rows)
    with (
        job.progress(train.images, "images", done=run.seen) as bar,
        workers(common.threads if device.type == "cpu" else 1) as crew,
        interrupt.Watch() as watch,
    ):
        while run.seen < train.images:
            losses = crew.gradients(run.model, work)
            run.optimise(losses)
            bar.set_postfix(loss=f"{float(losses.loss):.4f}", refresh=False)
            bar.update(train.batch)
            if validate and (_due(run.seen, train.validate_images, train.batch) or run.seen >= train.images):
                run.judge(validate(run.ema))
            if len(run.rows) > logged:
                rate = {"images_per_second": (run.seen - first) / (time.perf_counter() - started)}
                job.metrics(run.seen, {f"{split}/{name}": v for _, split, name, v in run.rows[logged:]} | rate)
                logged = len(run.rows)
            if run.seen >= train.images:
                break
            if _due(run.seen, common.state_images, train.batch):
                run.save(job.scratch, key)
            if reason := watch.due:
                run.save(job.scratch, key)
                job.say(
                    f"{job.name}: {reason}; {run.seen} of {train.images} images are saved, the same command goes on"
                )
                sys.exit(interrupt.EXIT)
    return time.perf_counter() - started, run.seen - first


def _due(seen: int, every: int, batch: int) -> bool:
    return bool(every) and seen % every < batch
