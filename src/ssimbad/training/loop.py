"""The training loop of every method: progress is counted in images seen, and any kill costs only the images since
the last state. To resume, run the same command again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
        self._add("loss", float(losses.loss.detach()))
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
        """One AdamW step on the true gradient, clipped by its norm, then the EMA."""
        if not math.isfinite(float(losses.loss.detach())):
            raise UserError(f"the loss is not finite after {self.seen} images; lower the learning_rate of this stage")
        self.optimiser.zero_grad(set_to_none=True)
        losses.loss.backward()
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


def fit(
    run: Run,
    step: Step,
    feed: Feed,
    validate: Callable[[dict[str, Tensor]], float] | None,
    seed: int,
    job: Job,
    key: str,
    shard: Shard = Shard(),  # noqa: B008 - frozen
) -> tuple[float, int]:
    """Train until `train.images` are seen, saving state in `job.scratch`; returns (seconds, images) of this process."""
    train, common = run.train, run.common
    if run.resume(job.scratch, key):
        job.say(f"{job.name}: resumed at {run.seen} of {train.images} images")
        job.tags(resumed=run.seen)
    device = next(run.model.parameters()).device
    logged = len(run.rows)
    started, first = time.perf_counter(), run.seen
    with job.progress(train.images, "images", done=run.seen) as bar:
        while run.seen < train.images:
            batch = feed.batch(run.seen, train.batch, shard)
            draws = StepDraws(derive(seed, "noise", run.seen), train.batch, shard, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=common.precision == "bf16"):
                losses = step(run.model, batch, draws)
            run.optimise(losses)
            bar.set_postfix(loss=f"{float(losses.loss.detach()):.4f}", refresh=False)
            bar.update(train.batch)
            if validate and (_due(run.seen, train.validate_images, train.batch) or run.seen >= train.images):
                run.judge(validate(run.ema))
            if len(run.rows) > logged:
                rate = {"images_per_second": (run.seen - first) / (time.perf_counter() - started)}
                job.metrics(run.seen, {f"{split}/{name}": v for _, split, name, v in run.rows[logged:]} | rate)
                logged = len(run.rows)
            if _due(run.seen, common.state_images, train.batch) and run.seen < train.images:
                run.save(job.scratch, key)
    return time.perf_counter() - started, run.seen - first


def _due(seen: int, every: int, batch: int) -> bool:
    return bool(every) and seen % every < batch
