"""The curve of a training: what its steps leave on the device, and the means of it that are written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssimbad.errors import UserError
from ssimbad.methods.contract import Losses

Row = tuple[int, str, str, float]


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
