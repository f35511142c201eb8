"""Methods by name: a file of this package, or one that another package brings.

A package from outside names its method files in the entry-point group `ssimbad.methods`; a parameter never names code.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ssimbad.errors import UserError
from ssimbad.methods.contract import INPUTS, MASKS, SHARED, START, Method, Part, Setup, Shared
from ssimbad.params.base import SLOTS, TAKEN, Colour, Sampler, Size, Solver, Strict, slot_order
from ssimbad.samplers.counts import NONE, Calls

if TYPE_CHECKING:
    from torch import nn

    from ssimbad.networks.vqvae import Autoencoder
    from ssimbad.params.methods import Method as Block
    from ssimbad.params.methods import Train

GROUP = "ssimbad.methods"
_NOT_METHODS = {"registry", "contract", "chain", "losses"}


@cache
def places() -> dict[str, str]:
    """{kind: `module:name` of what defines it}, of this package and of others.

    Raises:
        UserError: two packages bring the same kind.
    """
    own = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in _NOT_METHODS)
    found = {name: f"{__package__}.{name}:METHOD" for name in own}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        if found.get(point.name, point.value) != point.value:
            raise UserError(f"{_of(point)}: method {point.name} is {found[point.name]} already; uninstall one of them")
        found[point.name] = point.value
    return found


def _of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def kinds() -> list[str]:
    """Names of all methods."""
    return sorted(places())


def get(kind: str) -> Method:
    """The method of a kind.

    Raises:
        ValueError: naming the known kinds.
        UserError: the file from outside is no method.
    """
    if kind not in places():
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds())}")
    return loaded(places()[kind])


@cache
def loaded(place: str) -> Method:
    """The method of a place, as `places` names it: its file is read once.

    Raises:
        UserError: it cannot be read, or what it holds is no method that can be used.
    """
    module, _, name = place.partition(":")
    try:
        method = getattr(importlib.import_module(module), name)
        fault = _fault(method)
    except (Exception, SystemExit) as error:  # whatever somebody's file does while it is read
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise UserError(f"{place}: no method that this version can use ({fault}); mend or uninstall the package")
    return method


def _fault(method: object) -> str | None:
    """What is wrong with something that should be a method."""
    if not isinstance(method, Method):
        return f"a {type(method).__name__}"
    forms = {
        "Config": _is_model(method.Config),
        "ColourOptions": _is_model(method.ColourOptions),
        "objectives": _maps(method.objectives, _is_model) and bool(method.objectives),
        "samplers": _maps(method.samplers, lambda calls: isinstance(calls, Calls)),
        "slots": _maps(method.slots, lambda found: _are_among(found, method.objectives)),
        "inputs": _are_among(method.inputs, INPUTS),
        "offers": _maps(method.offers, lambda form: isinstance(form, str)),
        "asks": _maps(method.asks, lambda form: isinstance(form, str)),
        "reads": _are_among(method.reads, SHARED),
        "rowless": _are_among(method.rowless, {*SLOTS, *method.slots}),
        "build": callable(method.build),
        "training_step or players": callable(method.training_step) or callable(method.players),
        "exported": method.exported is None or callable(method.exported),
        **{name: callable(getattr(method, name)) for name in ("needs", "fits", "suits", "remarks", "default_colour")},
    }
    if wrong := [name for name, right in forms.items() if not right]:
        return f"wrong form of {', '.join(wrong)}"
    pairs = {"reference": "sketch", **MASKS}  # no setting shows the one without the other
    for one, other in pairs.items():
        if one in method.inputs and other not in method.inputs:
            return f"it takes {one} and no {other}; take both, or none"
    unfit = [slot for slot in method.slots if not re.fullmatch("[a-z][a-z0-9_]*", slot) or slot in TAKEN]
    return f"slots of other names than stages and keys have: {', '.join(unfit)}" if unfit else None


def _is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Strict)


def _maps(found: object, right: Callable[[object], bool]) -> bool:
    return isinstance(found, Mapping) and all(isinstance(key, str) and right(value) for key, value in found.items())


def _are_among(found: object, known: Iterable[str]) -> bool:
    return isinstance(found, tuple) and set(found) <= set(known)


@cache
def usable() -> tuple[str, ...]:
    """Kinds without those whose packages are broken, which is told where somebody asks for them."""

    def works(kind: str) -> bool:
        try:
            return bool(get(kind))
        except UserError:
            return False

    return tuple(filter(works, kinds()))


@cache
def slots() -> tuple[str, ...]:
    """Names of all trainings, in the order of tables: the usual ones, then those that methods bring."""
    brought = {slot for kind in usable() for slot in get(kind).slots}
    return tuple(sorted({*SLOTS, *brought}, key=slot_order))


def own_slots(kind: Any) -> tuple[str, ...]:
    """Trainings that a kind names; none where there is no such kind, which is told where it is asked for."""
    try:
        return tuple(get(kind).slots)
    except (ValueError, TypeError, UserError):
        return ()


def needs(kind: str, config: Strict, slot: str) -> dict[str, str]:
    """What a training of a kind needs; see `Method.needs`.

    Raises:
        UserError: the method cannot tell.
    """
    found = _ask(kind, "needs", config, slot)
    if not _maps(found, lambda what: isinstance(what, str)) or not all(map(_is_part, found)):
        raise _fails(kind, "needs", f"names of parts and trainings expected, not {found!r}")
    return dict(found)


def _is_part(name: str) -> bool:
    return name.isidentifier() and name != "start"


def _ask(kind: str, what: str, *given: object, mistakes: tuple[type[Exception], ...] = ()) -> Any:
    """What a method's function says, which may be a stranger's; `mistakes`: errors by which it tells of the user's."""
    try:
        return getattr(get(kind), what)(*given)
    except mistakes:
        raise
    except (Exception, SystemExit) as error:
        raise _fails(kind, what, f"{type(error).__name__}: {error}") from None


def _fails(kind: str, what: str, said: str) -> UserError:
    return UserError(f"kind {kind}: its `{what}` fails ({said}); mend or uninstall the package that brings it")


def typed(block: dict[str, Any]) -> dict[str, Any]:
    """One block of `methods` with config and options as the models of its kind.

    What is of the wrong form is left as it is, for the block's own model to refuse.

    Raises:
        PydanticCustomError: with the key of a wrong value below the block in its context.
    """
    if not isinstance(block.get("kind"), str):
        return block
    try:
        method = get(block["kind"])
    except ValueError as error:
        raise _wrong("kind", str(error)) from None
    found = dict(block)
    if block.get("weights") is None:
        found["config"] = _typed("config", method.Config, block.get("config", {}))
    elif block.get("config"):
        raise _wrong("config", "belongs to the training whose weights are borrowed; remove it")
    for slot in {*SLOTS, *method.slots}:
        if isinstance(train := block.get(slot), dict):
            found[slot] = _typed_training(slot, method, block["kind"], train)
    if isinstance(rows := block.get("colour"), dict):
        found["colour"] = {name: _typed_colour(f"colour.{name}", method, row) for name, row in rows.items()}
    return found


def _typed_training(slot: str, method: Method, kind: str, train: dict[str, Any]) -> dict[str, Any]:
    objective = train.get("objective")
    if not isinstance(objective, str):
        return train
    known = method.slots.get(slot, tuple(method.objectives))
    if objective not in known:
        there = f" in {slot}" if objective in method.objectives else ""
        named = f"kind {kind} has no objective {objective!r}{there}"
        raise _wrong(f"{slot}.objective", f"{named}; it has {', '.join(known)}")
    found = dict(train)
    found["options"] = _typed(f"{slot}.options", method.objectives[objective], train.get("options", {}))
    if isinstance(validation := train.get("validation"), dict) and validation.get("colour"):
        place = f"{slot}.validation.colour"
        found["validation"] = {**validation, "colour": _typed_colour(place, method, validation["colour"])}
    return found


def _typed_colour(place: str, method: Method, row: object) -> object:
    if not isinstance(row, dict):
        return row
    return {**row, "options": _typed(f"{place}.options", method.ColourOptions, row.get("options", {}))}


def _typed(place: str, model: type[BaseModel], values: object) -> BaseModel:
    if isinstance(values, BaseModel):
        return values
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([place, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            raise _wrong(where, f"unknown key; known keys: {', '.join(model.model_fields) or 'none'}") from None
        raise _wrong(where, first["msg"].removeprefix("Value error, ")) from None


def _wrong(place: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("below", "{text}", {"below": place, "text": text})


def check(name: str, block: Block, size: int, shared: Shared, borrowed: Strict | None = None) -> None:
    """Validate one block of `methods` for images of `size`.

    Args:
        borrowed: the config of the weights that it borrows, where they are there.

    Raises:
        ValueError: naming the wrong key.
    """
    config = borrowed if block.weights else block.config
    if block.weights is None:
        try:
            _ask(block.kind, "fits", block.config, size, shared, mistakes=(ValueError,))
        except ValueError as error:
            raise ValueError(f"methods.{name}.{error}") from None
    for stage, row in block.colour.items():
        check_colour(f"methods.{name}.colour.{stage}", block.kind, row, config, stage)
    for slot, train in block.trainings.items():
        key = f"methods.{name}.{slot}"
        if START in needs(block.kind, block.config, slot).values() and not train.start:
            raise ValueError(f"{key}.start: missing; kind {block.kind} goes on from weights, name their training")
        if train.validation:
            _check_validation(f"{key}.validation", block.kind, slot, train.validation.colour, config)
        if chain := getattr(train.options, "sampler", None):
            check_sampler(f"{key}.options.sampler", block.kind, chain)


def _check_validation(key: str, kind: str, slot: str, colour: Colour | None, config: Strict | None) -> None:
    if colour and slot in get(kind).rowless:
        raise ValueError(f"{key}.colour: weights of {slot} do not colour; remove it, their own score chooses")
    if colour:
        check_colour(f"{key}.colour", kind, colour, config, slot)
        if more := set(get(kind).takes(colour.options)) - set(get(kind).inputs):
            what = " and ".join(name for name in INPUTS if name in more)
            raise ValueError(f"{key}.colour.options: so it would need {what}, which the training is not given")
    elif get(kind).score is None:
        raise ValueError(f"{key}.colour: missing; it says how the validation faces are coloured")


def check_colour(key: str, kind: str, colour: Colour, config: Strict | None = None, slot: str = "") -> None:
    """Raises ValueError when a kind, or the weights of that training of that config, cannot colour so."""
    method = get(kind)
    if method.colorize is None:
        raise ValueError(f"{key}: kind {kind} does not colour; remove it")
    if (colour.sampler is not None) != bool(method.samplers):
        wanted = "missing" if colour.sampler is None else f"kind {kind} colours in one pass; remove it"
        raise ValueError(f"{key}.sampler: {wanted}")
    if colour.sampler:
        check_sampler(f"{key}.sampler", kind, colour.sampler)
    if colour.samples > 1 and not (colour.sampler and method.by_noise):
        raise ValueError(f"{key}.samples: kind {kind} has one answer, not samples from noise; remove it")
    if config is not None:
        try:
            _ask(kind, "suits", config, colour.options, slot, mistakes=(ValueError,))
        except ValueError as error:
            raise ValueError(f"{key}.options.{error}") from None


def check_sampler(key: str, kind: str, sampler: Solver) -> None:
    """Raises ValueError when a kind has no such sampler."""
    known = get(kind).samplers
    if sampler.name not in known:
        raise ValueError(f"{key}.name: kind {kind} has no sampler {sampler.name!r}; it has {', '.join(known)}")
    most = known[sampler.name].most
    if most and getattr(sampler, "steps", 1) > most:
        raise ValueError(f"{key}.steps: {sampler.name} has at most {most}; give {most}")


def cost(kind: str, sampler: str, options: Strict) -> Calls:
    """What a sampler of a kind costs under a row's options."""
    own = get(kind).samplers[sampler].times(getattr(options, "calls", 1))
    return own.plus(getattr(options, "before", NONE))


def nfe(kind: str, colour: Colour) -> int:
    """Network calls per coloured image."""
    one = cost(kind, colour.sampler.name, colour.options).of(colour.sampler.steps) if colour.sampler else 1
    return one * colour.samples


def features(train: Train) -> str | None:
    """The feature network that a training's loss looks through (a key of `weights`), None where it needs none."""
    return getattr(train.options, "features", None)


def needs_features(train: Train) -> bool:
    """Whether the training cannot do without its feature network."""
    return features(train) is not None and not getattr(train.options, "OPTIONAL_FEATURES", False)


def colour_of(kind: str, config: Strict, train: Train) -> Colour:
    """How the weights of a training colour where nobody says otherwise: as they were chosen or trained to."""
    if train.validation and train.validation.colour:
        return train.validation.colour
    sampler: Sampler | None = getattr(train.options, "sampler", None)
    method = get(kind)
    if sampler:
        return Colour(sampler=sampler, options=method.ColourOptions())
    if not isinstance(colour := _ask(kind, "default_colour", config), Colour):
        raise _fails(kind, "default_colour", f"no Colour but {colour!r}")
    return colour


def built(setup: Setup) -> nn.Module:
    """The model of a setup, freshly initialised."""
    return get(setup.kind).build(setup)


def part(setup: Setup, name: str) -> nn.Module | None:
    """A part of a model, freshly built, to be filled by the caller; None where the setup has none of that name."""
    needed = setup.needed.get(name)
    return built(setup_from(needed.setup)) if isinstance(needed, Part) else None


def autoencoder(setup: Setup, name: str) -> Autoencoder | None:
    """The same of a part in the form `AUTOENCODER`, for which a method `asks`."""
    return cast("Autoencoder | None", part(setup, name))


def described(setup: Setup) -> dict[str, Any]:
    """A setup in JSON's form."""
    return {
        "kind": setup.kind,
        "config": setup.config.model_dump(mode="json"),
        "size": setup.size,
        "shared": {key: TypeAdapter(SHARED[key]).dump_python(v, mode="json") for key, v in setup.shared.items()},
        "needed": {name: dict(vars(v)) if isinstance(v, Part) else v for name, v in setup.needed.items()},
    }


_WRITTEN = {"kind", "config", "size", "shared", "needed"}


def setup_from(written: Any) -> Setup:
    """What `described` made. Raises ValueError (or LookupError, TypeError) when it is something else."""
    if set(written) != _WRITTEN:
        raise ValueError(f"a setup has the keys {', '.join(sorted(_WRITTEN))}")
    method = get(written["kind"])
    config = method.Config.model_validate(written["config"])
    if set(written["shared"]) != set(method.reads):
        raise ValueError("shared: other parameters than the method reads")
    given = {key: TypeAdapter(SHARED[key]).validate_python(v, strict=True) for key, v in written["shared"].items()}
    shared = Shared(**given)
    size = TypeAdapter(Size).validate_python(written["size"], strict=True)
    method.fits(config, size, shared)
    needed = {name: _needed(value) for name, value in written["needed"].items()}
    if not any(set(needed) == set(method.needs(config, slot)) for slot in {*SLOTS, *method.slots}):
        raise ValueError("needed: other things than the method needs")
    return Setup(written["kind"], config, size, shared, needed)


def _needed(value: dict[str, Any]) -> Part | dict[str, Any]:
    if not {"weights", "sha256"} <= set(value):
        return dict(value)
    setup_from(value["setup"])  # so that whoever fills the part finds a setup there
    return Part(**value)
