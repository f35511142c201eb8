"""Methods by name: a file of this package, or one that another package brings.

A package from outside names its method files in the entry-point group `ssimbad.methods`; a parameter never names code.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ssimbad.errors import UserError
from ssimbad.methods.contract import INPUTS, MASKS, SHARED, Method, Part, Setup
from ssimbad.params.base import SLOTS, Colour, Sampler, Size, Solver, slot_order

if TYPE_CHECKING:
    from torch import nn

    from ssimbad.params.methods import Method as Block
    from ssimbad.params.methods import Train

GROUP = "ssimbad.methods"
_NOT_METHODS = {"registry", "contract", "chain", "losses"}


@cache
def modules() -> dict[str, str]:
    """{kind: module that defines it}, of this package and of others.

    Raises:
        UserError: two packages bring the same kind.
    """
    own = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in _NOT_METHODS)
    found = {name: f"{__package__}.{name}" for name in own}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        if found.get(point.name, point.module) != point.module:
            raise UserError(f"{_of(point)}: method {point.name} is {found[point.name]} already; uninstall one of them")
        found[point.name] = point.module
    return found


def _of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def kinds() -> list[str]:
    """Names of all methods."""
    return sorted(modules())


def get(kind: str) -> Method:
    """The method of a kind.

    Raises:
        ValueError: naming the known kinds.
        UserError: the file from outside is no method.
    """
    if kind not in modules():
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds())}")
    return _loaded(modules()[kind])


@cache
def _loaded(module: str) -> Method:
    try:
        method = importlib.import_module(module).METHOD
    except (ImportError, AttributeError) as error:
        raise UserError(f"{module}: no method ({error}); mend or uninstall the package that brings it") from None
    wrong = [*(set(method.inputs) - set(INPUTS)), *(set(method.reads) - set(SHARED))]
    if not isinstance(method, Method) or wrong:
        raise UserError(f"{module}: METHOD is no Method of this version ({', '.join(wrong) or type(method).__name__})")
    if unfit := [slot for slot in method.slots if not re.fullmatch("[a-z][a-z0-9_]*", slot)]:
        raise UserError(f"{module}: METHOD has slots that cannot be names of stages ({', '.join(unfit)}); rename them")
    if "reference" in method.inputs and "sketch" not in method.inputs:
        raise UserError(f"{module}: METHOD takes a reference and no sketch, which no setting shows; take both, or none")
    if bare := [mask for mask, of in MASKS.items() if mask in method.inputs and of not in method.inputs]:
        raise UserError(f"{module}: METHOD takes {bare[0]} and no {MASKS[bare[0]]}; take both, or none")
    return method


@cache
def slots() -> tuple[str, ...]:
    """Names of all trainings, in the order of tables: the usual ones, then those that methods bring."""
    brought = {slot for kind in kinds() for slot in own_slots(kind)}
    return tuple(sorted({*SLOTS, *brought}, key=slot_order))


def own_slots(kind: Any) -> tuple[str, ...]:
    """Trainings that only this kind has; none where there is no such kind, which is told where it is asked for."""
    try:
        return get(kind).slots
    except (ValueError, TypeError, UserError):
        return ()


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
    for slot in (*SLOTS, *method.slots):
        if isinstance(train := block.get(slot), dict):
            found[slot] = _typed_training(slot, method, block["kind"], train)
    if isinstance(rows := block.get("colour"), dict):
        found["colour"] = {name: _typed_colour(f"colour.{name}", method, row) for name, row in rows.items()}
    return found


def _typed_training(slot: str, method: Method, kind: str, train: dict[str, Any]) -> dict[str, Any]:
    objective = train.get("objective")
    if not isinstance(objective, str):
        return train
    if objective not in method.objectives:
        known = ", ".join(method.objectives)
        raise _wrong(f"{slot}.objective", f"kind {kind} has no objective {objective!r}; it has {known}")
    found = dict(train)
    found["options"] = _typed(f"{slot}.options", method.objectives[objective], train.get("options", {}))
    if isinstance(validation := train.get("validation"), dict) and validation.get("colour"):
        place = f"{slot}.validation.colour"
        found["validation"] = {**validation, "colour": _typed_colour(place, method, validation["colour"])}
    return found


def _typed_colour(place: str, method: Method, row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {**row, "options": _typed(f"{place}.options", method.ColourOptions, row.get("options", {}))}


def _typed(place: str, model: type[BaseModel], values: Any) -> BaseModel:
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


def check(name: str, block: Block, size: int, shared: Mapping[str, Any]) -> None:
    """Validate one block of `methods`, whose config is its own, for images of `size`.

    Raises:
        ValueError: naming the wrong key.
    """
    method = get(block.kind)
    if block.weights is None:
        try:
            method.fits(block.config, size, shared)
        except ValueError as error:
            raise ValueError(f"methods.{name}.{error}") from None
    for stage, row in block.colour.items():
        check_colour(f"methods.{name}.colour.{stage}", block.kind, row)
    for slot, train in block.trainings.items():
        key = f"methods.{name}.{slot}"
        if train.validation:
            _check_validation(f"{key}.validation", block.kind, train)
        if chain := getattr(train.options, "sampler", None):
            check_sampler(f"{key}.options.sampler", block.kind, chain)


def _check_validation(key: str, kind: str, train: Train) -> None:
    colour = train.validation.colour
    if colour:
        check_colour(f"{key}.colour", kind, colour)
    elif get(kind).score is None:
        raise ValueError(f"{key}.colour: missing; it says how the validation faces are coloured")


def check_colour(key: str, kind: str, colour: Colour) -> None:
    """Raises ValueError when a kind cannot colour so."""
    method = get(kind)
    if method.colorize is None:
        raise ValueError(f"{key}: kind {kind} does not colour; remove it")
    if (colour.sampler is not None) != bool(method.samplers):
        wanted = "missing" if colour.sampler is None else f"kind {kind} colours in one pass; remove it"
        raise ValueError(f"{key}.sampler: {wanted}")
    if colour.sampler:
        check_sampler(f"{key}.sampler", kind, colour.sampler)
    elif colour.samples > 1:
        raise ValueError(f"{key}.samples: kind {kind} has one answer, so that their mean is it; remove it")


def check_sampler(key: str, kind: str, sampler: Solver) -> None:
    """Raises ValueError when a kind has no such sampler."""
    known = get(kind).samplers
    if sampler.name not in known:
        raise ValueError(f"{key}.name: kind {kind} has no sampler {sampler.name!r}; it has {', '.join(known)}")


def nfe(kind: str, colour: Colour) -> int:
    """Network calls per coloured image."""
    one = get(kind).samplers[colour.sampler.name].of(colour.sampler.steps) if colour.sampler else 1
    return one * colour.samples


def features(train: Train) -> str | None:
    """The feature network that a training's loss looks through (a key of `weights`), None where it needs none."""
    return getattr(train.options, "features", None)


def needs_features(train: Train) -> bool:
    """Whether the training cannot do without its feature network."""
    return features(train) is not None and not getattr(train.options, "OPTIONAL_FEATURES", False)


def colour_of(kind: str, config: Any, train: Train) -> Colour:
    """How the weights of a training colour where nobody says otherwise: as they were chosen or trained to."""
    if train.validation and train.validation.colour:
        return train.validation.colour
    sampler: Sampler | None = getattr(train.options, "sampler", None)
    method = get(kind)
    return Colour(sampler=sampler, options=method.ColourOptions()) if sampler else method.default_colour(config)


def built(setup: Setup) -> nn.Module:
    """The model of a setup, freshly initialised."""
    return get(setup.kind).build(setup)


def described(setup: Setup) -> dict[str, Any]:
    """A setup in JSON's form."""
    return {
        "kind": setup.kind,
        "config": setup.config.model_dump(mode="json"),
        "size": setup.size,
        "shared": {key: TypeAdapter(SHARED[key]).dump_python(v, mode="json") for key, v in setup.shared.items()},
        "needed": {name: dict(vars(v)) if hasattr(v, "sha256") else v for name, v in setup.needed.items()},
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
    shared = {key: TypeAdapter(SHARED[key]).validate_python(v, strict=True) for key, v in written["shared"].items()}
    size = TypeAdapter(Size).validate_python(written["size"], strict=True)
    method.fits(config, size, shared)
    needed = {name: _needed(value) for name, value in written["needed"].items()}
    if not any(set(needed) == set(method.needs(config, slot)) for slot in (*SLOTS, *method.slots)):
        raise ValueError("needed: other things than the method needs")
    return Setup(written["kind"], config, size, shared, needed)


def _needed(value: dict[str, Any]) -> Any:
    if not {"weights", "sha256"} <= set(value):
        return dict(value)
    setup_from(value["setup"])  # so that whoever fills the part finds a setup there
    return Part(**value)
