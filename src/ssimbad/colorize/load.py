"""A trained model from its two files: NAME.safetensors and NAME.json, how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.methods.contract import Setup
from ssimbad.params.base import Positive, Sampler, Size
from ssimbad.training import checkpoints


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Trained(_Form):
    sampler: Sampler | None


class _Made(_Form):
    """What colouring reads of NAME.json; the rest is for tables."""

    setup: dict[str, Any]
    size: Size
    parameters: Positive
    train: _Trained


def trained(weights: Path, device: torch.device, channels_last: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The model, ready to colour, and its JSON.

    Raises:
        UserError: a file is missing, unreadable, or the two do not fit each other.
    """
    beside = weights.with_suffix(".json")
    if not weights.exists():
        raise UserError(f"{weights}: no such weights; train them (`ssimbad status`) or fetch them (`dvc pull`)")
    if not beside.exists():
        raise UserError(f"{beside}: missing; it tells how the weights beside it were made, copy it along with them")
    try:
        made = artifacts.parsed_json(beside)
        model = _built(made)
    except (ValueError, TypeError, ArithmeticError, RuntimeError):  # the last of torch: no memory for such a network
        raise UserError(
            f"{beside}: does not describe a model; copy the one that was written with the weights"
        ) from None
    tensors, _ = checkpoints.read_tensors(weights)
    checkpoints.load_into(model, tensors, weights)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory).eval(), made


def _built(made: Any) -> nn.Module:
    """The model that the JSON describes, without its weights; raises whatever a wrong value leads to."""
    read = _Made.model_validate(made)
    setup = Setup.from_json(read.setup)
    method = registry.module(setup.kind)
    setup.network.require_size(read.size)
    registry.require_size(setup.kind, setup.config, read.size)
    if (read.train.sampler is not None) != method.SAMPLED:
        raise ValueError("train.sampler: given exactly where the method colours by one")
    return method.build(setup)
