"""A trained model from its two files: NAME.safetensors and NAME.json, how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.methods.contract import Setup
from ssimbad.training import checkpoints


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
    made = artifacts.read_json(beside)
    try:
        setup = Setup.from_json(made["setup"])
    except (KeyError, TypeError, ValueError, ValidationError):
        raise UserError(
            f"{beside}: does not describe a model; copy the one that was written with the weights"
        ) from None
    model = registry.module(setup.kind).build(setup)
    tensors, _ = checkpoints.read_tensors(weights)
    checkpoints.load_into(model, tensors, weights)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory).eval(), made
