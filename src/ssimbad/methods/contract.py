"""What a method is given and what it answers; every method module offers these three verbs.

build(setup) -> nn.Module
    The network that colours, freshly initialised (the caller seeds torch's generator around it).
training_step(model, batch, plan, draws, features) -> Losses
    The loss of one batch under the plan's objective, with gradients attached. A method whose networks train against
    each other offers players(model, plan, features) -> list[Player] instead.
colorize(model, sketch, reference, fresh, sampler) -> Tensor
    (B, 3, H, W) in [-1, 1] from sketch (B, 1, H, W), reference (B, 3, H, W) and fresh() -> (B, 3, H, W) ~ N(0, 1), each
    row from its image's own stream.

`SAMPLED` says whether it colours by a sampler or in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from ssimbad.methods import registry
from ssimbad.params.base import Above0, Network, Noise, Sampler, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.pairing.tps import Warp


class _Written(Strict):
    kind: str
    config: dict[str, Any]
    network: Network
    noise: Noise
    saturation: Above0
    phi: dict[str, Any] | None


@dataclass(frozen=True)
class Setup:
    """Everything that decides how a method's networks are built and used; stored beside the weights."""

    kind: str
    config: Any
    network: Network
    noise: Noise
    saturation: float
    phi: dict[str, Any] | None
    """The literal of the noise schedule in force (`selected` already looked up), None where the method has none."""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json"),
            "network": self.network.model_dump(mode="json"),
            "noise": self.noise.model_dump(mode="json"),
            "saturation": self.saturation,
            "phi": self.phi,
        }

    @classmethod
    def from_json(cls, value: Any) -> Setup:
        """What `to_json` made. Raises ValueError when it is something else."""
        written = _Written.model_validate(value)
        config = registry.module(written.kind).Config.model_validate(written.config)
        if bool(getattr(config, "phi", None)) != bool(written.phi):
            raise ValueError("phi: given exactly where the config names one")
        return cls(**{**dict(written), "config": config})


@dataclass(frozen=True)
class Batch:
    """One batch in [-1, 1] at training size: target and reference (B, 3, H, W), sketch (B, 1, H, W), float32.

    `warp`: the B warps that made the references out of the targets, so that every correspondence is known; `native`:
    the side at which they were warped before both were shrunk, the targets' own where None.
    """

    target: Tensor
    sketch: Tensor
    reference: Tensor
    warp: Warp | None = None
    native: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a training stage optimises: the objective, its typed options, and the row's sampler where it has one."""

    objective: str
    options: Any
    sampler: Sampler | None


class Draws(Protocol):
    """Fresh random numbers for the images of one batch; row i belongs to image i."""

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32 ~ N(0, 1)."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float64 in [0, 1)."""
        ...


@dataclass(frozen=True)
class Losses:
    """`loss`: the scalar to minimise. The rest is detached and for the log: `per_image`, `sigma`: (B,), sigma None if
    there is none; `terms`: scalars of which the loss is made."""

    loss: Tensor
    per_image: Tensor
    sigma: Tensor | None
    terms: Mapping[str, Tensor] = field(default_factory=dict)


Features = Callable[["Tensor"], "list[Tensor]"] | Callable[["Tensor", "Tensor"], "Tensor"]
"""What a loss looks through. alexnet: (B, 3, H, W) twice in [-1, 1] → (B,) LPIPS distances; vgg19: (B, 3, H, W) in
[-1, 1] → its feature maps."""


@dataclass(frozen=True)
class Player:
    """One party of a training: the network that it may change, its loss, and what its optimiser has of its own.

    Several players move in turn on the same images and the same draws, each after the others' latest move.
    """

    network: nn.Module
    step: Callable[[Batch, Draws], Losses]
    name: str = ""
    """Of its values in the curve and its tensors in the resumable state; empty for the model that colours."""
    rate: float = 1.0
    """Its learning rate, as a multiple of the stage's."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float | None = None
    """None: the one of all trainings."""


def players(method: ModuleType, model: nn.Module, plan: Plan, features: Features | None) -> list[Player]:
    """Who trains, in the order of their moves: what the method says, or the model alone on its `training_step`."""
    if hasattr(method, "players"):
        return method.players(model, plan, features)
    return [Player(model, partial(_alone, method, model, plan, features))]


def _alone(
    method: ModuleType, model: nn.Module, plan: Plan, features: Features | None, batch: Batch, draws: Draws
) -> Losses:
    return method.training_step(model, batch, plan, draws, features)
