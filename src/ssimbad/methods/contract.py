"""What a method is: everything that the pipeline asks of one, in one place.

A method is a file of this package (or of another one, found by the entry-point group `ssimbad.methods`) that ends in
`METHOD = Method(...)`. The file is light to import: torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, cast, get_type_hints, overload

from ssimbad.errors import there
from ssimbad.params.base import Above0, Colour, Network, Noise, Strict
from ssimbad.samplers.counts import Calls

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.pairing.tps import Warp
    from ssimbad.samplers.ode import Watch

Shared = TypedDict("Shared", {"network": Network, "noise": Noise, "schedule.saturation": Above0}, total=False)
"""Parameters outside its own block that a method may read to build its networks."""
SHARED: Mapping[str, Any] = get_type_hints(Shared, include_extras=True)
"""By name the type of each."""

PHI = "phi"
"""The noise schedule that the study selects, as something that a training needs."""

START = "start"
"""The weights from which a training starts, as something that it needs besides."""


class NoOptions(Strict):
    """Nothing to choose."""


AUTOENCODER = "autoencoder"
"""A form of parts: `encode`, (B, 3, H, W) in [-1, 1] → (B, code_size, H/4, W/4), `decode` back, and `code_size`."""


@dataclass(frozen=True)
class Setup:
    """Everything that decides how a method's networks are built and used; stored beside the weights."""

    kind: str
    config: Any
    size: int
    """Side of the images, pixels."""
    shared: Shared = field(default_factory=lambda: Shared())
    """Those of `SHARED` that the method reads."""
    needed: Mapping[str, Part | Mapping[str, Any]] = field(default_factory=dict)
    """By the names of the method's `needs`: a part, or the literal of phi."""


@dataclass(frozen=True)
class Part:
    """A finished part of a model that another training made: neither trained nor averaged nor stored once more.

    `weights`: its file; `sha256` of it; `setup`: of the training that made it, in JSON's form.
    """

    weights: str
    sha256: str
    setup: Mapping[str, Any]


_NOTHING, _NO_WARP = cast("Tensor", None), cast("Warp", None)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a method is given of a batch, at training size, float32; None for what it does not take. The types are of
    what it takes: a method reads nothing else.

    In [-1, 1]: `sketch` (B, 1, H, W); `reference` (B, 3, H, W); `face` (B, 3, H, W), the face itself, for a method that
    degrades and restores it: a task of its own, with a setting of its own. `mask` and `reference_mask`, the figures in
    sketch and reference, (B, 1, H, W) in [0, 1], 1 = figure, soft.
    """

    sketch: Tensor = _NOTHING
    reference: Tensor = _NOTHING
    face: Tensor = _NOTHING
    mask: Tensor = _NOTHING
    reference_mask: Tensor = _NOTHING


INPUTS = tuple(f.name for f in fields(Conditions))
"""What a method can say that it takes."""
MASKS = {"mask": "sketch", "reference_mask": "reference"}
"""Those that are masks, in [0, 1], and in what each marks the figure."""


@dataclass(frozen=True, kw_only=True)
class Batch(Conditions):
    """One batch to train on: `target` (B, 3, H, W) float32 in [-1, 1], and its conditions.

    `warp`: the B warps that made the references out of the targets, so that every correspondence is known; `native`:
    the side at which they were warped before both were shrunk, the targets' own where None.
    """

    target: Tensor
    warp: Warp = _NO_WARP
    native: int | None = None
    progress: float = 0.0
    """Share of the training's images that were seen before this batch, in [0, 1): for what changes as it goes on."""


@dataclass(frozen=True)
class Plan:
    """What a training optimises: the objective, and its typed options."""

    objective: str
    options: Any


class Rng(Protocol):
    """Fresh random numbers for the images of one batch; row i belongs to image i."""

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32 ~ N(0, 1)."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float64 in [0, 1)."""
        ...


class Fresh(Protocol):
    """Noise of any shape for the images that are coloured together; row i from the stream of image i alone."""

    def __call__(self, *shape: int) -> Tensor:
        """(B, *shape) float32 ~ N(0, 1)."""
        ...


@dataclass(frozen=True)
class Losses:
    """`loss`: the scalar to minimise. The rest is detached and for the log: `per_image`, `sigma`: (B,), sigma None if
    there is none; `terms`: scalars of which the loss is made."""

    loss: Tensor
    per_image: Tensor
    sigma: Tensor | None
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Features(Protocol):
    """What a loss looks through. Each network answers in one of two ways; a loss names one that answers in its way."""

    @overload
    def __call__(self, images: Tensor, /) -> list[Tensor]:
        """vgg19: (B, 3, H, W) in [-1, 1] → its feature maps."""
        ...

    @overload
    def __call__(self, images: Tensor, targets: Tensor, /) -> Tensor:
        """alexnet, vgg16, clip: (B, 3, H, W) twice in [-1, 1] → (B,) distances."""
        ...


@dataclass(frozen=True)
class Player:
    """One party of a training: the network that it may change, its loss, and what its optimiser has of its own.

    Several players move in turn on the same images and the same draws, each after the others' latest move.
    """

    network: nn.Module
    step: Callable[[Batch, Rng], Losses | Iterator[Losses]]
    """The loss of one batch. As a generator it makes several optimiser steps of one batch: the weights have moved
    between one `yield` and the next, and nothing is differentiated across it (detach what is carried over)."""
    name: str = ""
    """Of its values in the curve and its tensors in the resumable state; empty for the model that colours."""
    rate: float = 1.0
    """Its learning rate, as a multiple of the stage's."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float | None = None
    """None: the one of all trainings."""

    def losses(self, batch: Batch, rng: Rng) -> Iterator[Losses]:
        """One after the other, each of an optimiser step."""
        made = self.step(batch, rng)
        if isinstance(made, Losses):
            yield made
        else:
            yield from made


C = TypeVar("C", bound=Strict)
"""Of the config."""
M = TypeVar("M", bound="nn.Module")
"""Of the whole model."""
R = TypeVar("R", bound=Strict)
"""Of the options of a row."""
_NO_OPTIONS: type[Any] = NoOptions


@dataclass(frozen=True)
class Exported:
    """One network call as programs without this package can make it: tensors in, a picture in [-1, 1] out.

    A row that colours by a sampler is a chain of such calls: from x = `start` · noise, noise ~ N(0, 1), at the first of
    `levels` to the last, which is 0.
    """

    call: Callable[..., Tensor]
    """(model, *inputs) → (B, 3, H, W) float32, made of what graphs can hold."""
    inputs: Mapping[str, tuple[int, ...]]
    """In the order of the call's arguments: the shape of each for one image; all float32, pictures in [-1, 1]."""
    output: str = "image"
    levels: tuple[float, ...] = ()
    """Empty where one call is the answer."""
    start: float = 0.0


@dataclass(frozen=True)
class Method(Generic[C, M, R]):
    """One kind of method. Only `Config`, `objectives`, `build` and what trains and colours are always needed.

    A method that does not train against an opponent gives `training_step`; one whose networks train in turns gives
    `players` instead.
    """

    Config: type[C]
    """Of `methods.<name>.config`."""
    objectives: Mapping[str, type[Strict]]
    """What its trainings can optimise: name → model of the options. Options whose loss looks through a feature network
    name it in a property `features`, and in `OPTIONAL_FEATURES` whether they can do without."""
    build: Callable[[Setup], M]
    """The whole model, freshly initialised (the caller seeds torch's generator around it); parts of other trainings
    among its `needs` stand in it under their names, and are filled by the caller."""
    colorize: Callable[[M, Conditions, Fresh, Colour, Watch | None], Tensor] | None = None
    """(model, given, fresh, colour, watch) → (B, 3, H, W) in [-1, 1]; None for a method that has no row."""
    training_step: Callable[[M, Batch, Plan, Rng, Features | None], Losses] | None = None
    """The loss of one batch under the plan's objective, with gradients attached."""
    players: Callable[[M, Plan, Features | None], list[Player]] | None = None
    """Who trains, in the order of their moves."""
    score: Callable[[M, Batch], Tensor] | None = None
    """Of a training whose answers have no target, or that is no row: (B,) values of a validation batch, higher is
    better, by which its best weights are chosen; None: the PSNR of the coloured validation faces."""
    rowless: tuple[str, ...] = ("encoder",)
    """Those of its trainings whose weights do not colour."""
    inputs: tuple[str, ...] = ("sketch", "reference")
    """Of `INPUTS`: what it is given in training and, unless `shown` says otherwise, in colouring."""
    shown: Callable[[R], tuple[str, ...]] | None = None
    """(colour options) → of `INPUTS`, what a row that colours so is given: of weights that can be put to uses which
    their training does not know; None: what the training is given."""
    traces_warps: bool = False
    """Whether its trainings ask where the warp has moved each place of the image; then no other face can be the
    reference."""
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Trainings besides `encoder`, `pretrain` and `finetune`, which any method may have: keys of its block and names of
    stages; with the objectives that each can have. Those of the usual three that are not named can have any."""
    measures: Callable[[M, Iterator[Batch]], Mapping[str, float]] | None = None
    """(model, batches of all validation faces) → {what: value}: what a finished training says of itself besides. It is
    written beside the weights and has a table of its own, `reports/tables/measures.md`."""
    samplers: Mapping[str, Calls] = field(default_factory=dict)
    """The samplers by which it colours and what they cost; none: it answers in one pass."""
    by_noise: bool = True
    """Whether an answer by a sampler depends on noise; where it does not, several samples are one."""
    ColourOptions: type[R] = _NO_OPTIONS
    """Of `methods.<name>.colour.<stage>.options`. Options under which a sampler's call is several network calls tell
    their number in a property `calls`; those that make others before the sampler begins, which in a property `before`,
    the `Calls` of an image of N steps."""
    default_colour: Callable[[C], Colour] = lambda config: Colour()
    """How weights colour whose training says nothing of it, by the config."""
    reads: tuple[str, ...] = ()
    """Of `SHARED`: what its networks are built from, besides its config."""
    needs: Callable[[C, str], Mapping[str, str]] = lambda config, slot: {}
    """(config, slot) → {name: `phi`, or a training `<method>/<slot>`, or a slot of the same block, or `start`: the
    training whose weights it starts from, as they were}."""
    offers: Mapping[str, str] = field(default_factory=dict)
    """{slot: form}: of its trainings those whose weights other kinds can build on, and as what (`AUTOENCODER`)."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """{name among its `needs`: form}: of parts that may come from another kind."""
    fits: Callable[[C, int, Shared], None] = lambda config, size, shared: None
    """Raises ValueError, which begins with the wrong key, when images of this size will not do."""
    suits: Callable[[C, R, str], None] = lambda config, options, slot: None
    """(config, colour options, slot) → raises ValueError, which begins with the wrong key of the options, when the
    weights of that training of this config cannot colour so."""
    exported: Callable[[M, Setup, Colour], Exported] | None = None
    """(model, setup, how it colours) → its network call for other programs; None: it cannot be had as one graph."""
    remarks: Callable[[C, Any, bool], list[str]] = lambda config, options, features: []
    """(config, options, whether the feature network was there) → what of a training departs from the method's
    description, for the notes under the tables."""

    def takes(self, options: R) -> tuple[str, ...]:
        """What a row with these colour options is given."""
        return self.shown(options) if self.shown else self.inputs

    def parties(self, model: M, plan: Plan, features: Features | None) -> list[Player]:
        """Who trains: what the method says, or the model alone on its `training_step`."""
        if self.players:
            return self.players(model, plan, features)
        return [Player(model, partial(_alone, there(self.training_step), model, plan, features))]


def _alone(
    step: Callable[..., Losses], model: nn.Module, plan: Plan, features: Features | None, batch: Batch, rng: Rng
) -> Losses:
    return step(model, batch, plan, rng, features)
