"""What a metric is given and what it declares; every metric is one file of this room with a `METRIC`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from ssimbad.pairing.xdog import XDoGConfig

T = TypeVar("T")

LAST = 1000
ABSENT = {
    "targets": "no right answer to compare with",
    "faces": "no set of faces to compare with",
    "lines": "no sketch given",
    "references": "no reference shown",
    "masks": "no true mask of the figure",
}
SWITCHED_OFF = "feature network switched off (weights.enabled: false)"


class Unmeasurable(ValueError):  # noqa: N818 - says what the images are, not what went wrong here
    """These images have no such value; the message is the reason, as it stands under the table."""


@dataclass(frozen=True)
class Lines:
    """The given sketches, (N, kH, kW) uint8, 255 = white paper, k ≥ 1, and how lines are drawn from the answers: by
    XDoG's constants (`xdog.XDoGConfig`) with each image's own sigma, (N,) pixels of the sketch."""

    sketches: np.ndarray
    sigmas: np.ndarray
    config: XDoGConfig


@dataclass(frozen=True)
class Given:
    """Answers, (N, H, W, 3) uint8, and what they are measured by; what is None is not there. A metric
    reads by `errors.there` what it `needs`.

    `targets` and `references` (N, H, W, 3) uint8, `masks` (N, H, W) uint8, 255 = figure of the sketch, and `lines`
    belong to the answers by position; `faces`, (M, H, W, 3) uint8, is a set, in no order.
    """

    images: np.ndarray
    targets: np.ndarray | None = None
    faces: np.ndarray | None = None
    references: np.ndarray | None = None
    lines: Lines | None = None
    networks: Mapping[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    """Feature networks with their published weights, once per worker (those on a CPU are one and the same)."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why something is not there, by its name; else `ABSENT` or `SWITCHED_OFF` says it."""
    seed: int = 0
    """Of random subsets."""
    seen: dict[str, object] = field(default_factory=dict)
    masks: np.ndarray | None = None
    described: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(M, D) float64 of `faces` by a network's name, where they were described before (metrics/face_features.py)."""

    def part(self, start: int, stop: int) -> Given:
        """The answers of [start, stop) with what belongs to them; nothing that was looked at is kept."""
        rows = slice(start, stop)
        lines = self.lines and replace(self.lines, sketches=self.lines.sketches[rows], sigmas=self.lines.sigmas[rows])
        return replace(
            self,
            images=self.images[rows],
            targets=None if self.targets is None else self.targets[rows],
            references=None if self.references is None else self.references[rows],
            masks=None if self.masks is None else self.masks[rows],
            lines=lines,
            seen={},
        )

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several metrics look at, made by the first of them."""
        if name not in self.seen:
            self.seen[name] = make()
        return cast("T", self.seen[name])

    def reason(self, needs: tuple[str, ...]) -> str | None:
        """Why one of the needs cannot be met; None: all are there."""
        for need in needs:
            if need in ABSENT:
                if getattr(self, need) is None:
                    return self.absent.get(need, ABSENT[need])
            elif not self.networks.get(need):
                return self.absent.get(need, SWITCHED_OFF)
        return None


class Facts(TypedDict, total=False):
    """What a metric can say of how it measured."""

    scales: int
    """Of MS-SSIM."""


@dataclass(frozen=True)
class Metric:
    """A column of the tables."""

    id: str
    label: str
    """As printed, with its unit."""
    decimals: int
    better: Literal["↑", "↓"]
    function: Callable[[Given], np.ndarray | float]
    """Per image: (N,) float64, each value the same in whatever company; of a set: one float. Raises Unmeasurable."""
    needs: tuple[str, ...]
    """Besides the answers: `targets`, `faces`, `references`, `lines`, `masks`, and names of feature networks."""
    of_set: bool = False
    optional: bool = False
    """Left out, instead of a dash, where what it needs is not there: for what few studies have."""
    place: int = LAST
    """In the tables; those of one place go by their ids."""
    facts: Callable[[Given], Facts] = lambda given: {}
    """Stored beside the value."""
    note: str = ""
    """A sentence for the foot of every main table that shows it."""

    def shown(self, value: float | None, signed: bool = False) -> str:
        """A value with the metric's decimals; a dash for None; a true minus sign."""
        return "—" if value is None else f"{value:{'+' if signed else ''}.{self.decimals}f}".replace("-", "−")
