"""A trained model from its two files: NAME.safetensors and NAME.json, how it was made; or from a folder of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.overrides import TorchFunctionMode

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.methods.contract import Method, Part, Setup
from ssimbad.params.base import Colour, Positive
from ssimbad.runtime import devices
from ssimbad.training import checkpoints

_LARGEST = 1 << 16
"""Of the whole numbers in a description: widths, layers, timesteps."""
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_PER_TENSOR, _BESIDES = 2, 200
"""Tensors that building a network may make for each that is stored, and for none of them; those here make one."""


class _Made(BaseModel):
    """What colouring reads of NAME.json; the rest is for tables."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    setup: dict[str, Any]
    stage: str
    parameters: Positive
    colour: Colour


@dataclass(frozen=True)
class Trained:
    """Weights that are ready to be used, and what is known of them."""

    model: nn.Module
    setup: Setup
    parameters: int
    colour: Colour
    """How they colour where nobody says otherwise."""
    slot: str = ""
    """The training that made them."""

    @property
    def method(self) -> Method:
        return registry.get(self.setup.kind)


TENSORS, CONFIG = "model.safetensors", "config.json"
"""The two in a folder that was exported."""
STARTER = Path("ssimbad:starter")
"""Names the weights that come with the package, as no file of somebody's is named."""
SHIPPED = Path(__file__).parents[1] / "starter"


def files(weights: Path) -> tuple[Path, Path]:
    """The tensors and how they were made, of NAME.safetensors, of a folder, or of `STARTER`."""
    if weights == STARTER:
        weights = SHIPPED
    return (weights / TENSORS, weights / CONFIG) if weights.is_dir() else (weights, weights.with_suffix(".json"))


def trained(weights: Path, device: torch.device, channels_last: bool) -> Trained:
    """The model, ready to colour, and what its JSON tells.

    Raises:
        UserError: a file is missing, unreadable, or the two do not fit each other.
    """
    weights, beside = files(weights)
    if not weights.is_file():
        raise UserError(f"{weights}: no such weights; train them (`ssimbad status`) or fetch them (`dvc pull`)")
    if not beside.is_file():
        raise UserError(f"{beside}: missing; it tells how the weights beside it were made, copy it along with them")
    tensors, _ = checkpoints.read_tensors(weights)
    try:
        made = _Made.model_validate(artifacts.parsed_json(beside))
        setup = registry.setup_from(made.setup)
        colour = _colour(setup, made.colour, made.stage)
        stored = tuple(part for part in parts(setup) if any(name.startswith(part) for name in tensors))
        known = len(tensors) + _elsewhere(setup, stored, weights)
        _require_of_size(made.setup, setup, known, sum(tensor.numel() for tensor in tensors.values()))
        model = registry.built(setup)
    # The last of torch and NumPy: no memory for such a network.
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError):
        raise UserError(
            f"{beside}: no description of a model as this revision writes it; copy the one that was written with the"
            " weights, or train them again"
        ) from None
    checkpoints.load_into(model, tensors, weights, tuple(part for part in parts(setup) if part not in stored))
    fill(model, setup, stored)
    return Trained(devices.placed(model, device, channels_last).eval(), setup, made.parameters, colour, made.stage)


def _require_of_size(described: object, setup: Setup, known: int, numbers: int) -> None:
    """Raise ValueError for a network that holds more than the file's numbers, before there is memory for it.

    Args:
        known: tensors in all of its files.
    """
    if _largest(described) > _LARGEST:
        raise ValueError("no network has such a number")
    with _AtMost(_PER_TENSOR * known + _BESIDES), torch.device("meta"):
        tensors = registry.built(setup).state_dict()
    elsewhere = parts(setup)
    if sum(t.numel() for name, t in tensors.items() if not (elsewhere and name.startswith(elsewhere))) > numbers:
        raise ValueError("more numbers than the file has")


class _AtMost(TorchFunctionMode):
    """Within it so many tensors are made by this thread; ValueError at the first beyond them.

    A network of thousands of layers takes its time even where it takes no memory.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self._left = tensors

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._left -= func in _MAKERS
        if self._left < 0:
            raise ValueError("more tensors than the file has")
        return func(*args, **(kwargs or {}))


def _elsewhere(setup: Setup, but: tuple[str, ...], weights: Path) -> int:
    """How many tensors the files have that `fill` reads.

    Raises:
        UserError: one lies elsewhere than weights do that were trained or fetched here, or cannot be read.
    """
    count = 0
    for name, part in setup.needed.items():
        if isinstance(part, Part) and f"{name}." not in but:
            path = Path(part.weights)
            if not (_is_below(path, Path()) or _is_below(path, weights.parent)):
                raise UserError(
                    f"{files(weights)[1]}: needs {path}, which is neither below this folder nor beside the weights, and"
                    " is not opened; run in the checkout that trained them, or export them there"
                )
            count += len(checkpoints.read_names(path)) + _elsewhere(registry.setup_from(part.setup), (), weights)
    return count


def _is_below(path: Path, folder: Path) -> bool:
    """By its name: DVC makes links to the files in its cache, wherever that is."""
    own, root = (Path(os.path.abspath(place)) for place in (path, folder))  # noqa: PTH100
    return own.is_relative_to(root)


def _largest(value: object) -> int:
    """Of the whole numbers in a description."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0


def _colour(setup: Setup, colour: Colour, slot: str) -> Colour:
    method = registry.get(setup.kind)
    typed = colour.model_copy(update={"options": method.ColourOptions.model_validate(colour.options)})
    if method.colorize:
        registry.check_colour("colour", setup.kind, typed, setup.config, slot)
    return typed


def parts(setup: Setup) -> tuple[str, ...]:
    """Prefixes of the tensors that belong to other trainings."""
    return tuple(f"{name}." for name, needed in setup.needed.items() if isinstance(needed, Part))


def fill(model: nn.Module, setup: Setup, but: tuple[str, ...] = ()) -> None:
    """Bring the finished parts of other trainings into a model, frozen; and theirs into them.

    Args:
        but: prefixes of those that are there already.

    Raises:
        UserError: a file is missing, damaged or not the one that the setup names.
    """
    for name, part in setup.needed.items():
        if isinstance(part, Part) and f"{name}." not in but:
            path = Path(part.weights)
            tensors, _ = checkpoints.read_tensors(path)
            if artifacts.sha256(path) != part.sha256:
                raise UserError(f"{path}: not the weights that this model was trained with; fetch them or train again")
            module, inner = getattr(model, name), registry.setup_from(part.setup)
            checkpoints.load_into(module, tensors, path, parts(inner))
            fill(module, inner)
            module.requires_grad_(False).eval()


def part(weights: Path, made: Path) -> Part:
    """A finished part from its two files."""
    try:
        setup = artifacts.read_json(made)["setup"]
    except LookupError:
        raise UserError(f"{made}: no description of a model as this revision writes it; train it again") from None
    return Part(weights.as_posix(), artifacts.sha256(weights), setup)
