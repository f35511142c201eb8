"""Where a stage computes."""

from __future__ import annotations

import os

import torch

from ssimbad.errors import UserError


def pick() -> torch.device:
    """`SSIMBAD_DEVICE` if set, else the CUDA device when there is one, else the CPU.

    Raises:
        UserError: the variable names a device that is not there.
    """
    wanted = os.environ.get("SSIMBAD_DEVICE", "auto")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=wanted)
        return torch.device(wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"SSIMBAD_DEVICE={wanted}: not usable ({reason}); use cpu, cuda or auto") from None


def name(device: torch.device) -> str:
    """For the logbook: the card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
