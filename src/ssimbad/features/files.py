"""Reading a feature network's weights file: tensors, and nothing that could run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ssimbad.errors import UserError


def read_state(path: Path, name: str) -> dict[str, torch.Tensor]:
    """State dictionary of a .pth file; nothing in it is executed. `name`: of the network whose file it should be.

    Raises:
        UserError: the file cannot be read as tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a file that is none of its own
        kind = type(error).__name__
        raise UserError(
            f"{path}: no PyTorch weights ({kind}); delete it and check weights.{name} in params.yaml"
        ) from None


def read_part(path: Path, name: str, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file whose names begin so, under the rest of their names, float32.

    Raises:
        UserError: it is no such file; a pickle or a TorchScript archive, which could run code, is not even opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key.removeprefix(prefix): file.get_tensor(key).float() for key in names}
    except (SafetensorError, OSError):
        raise UserError(
            f"{path}: no safetensors file (older ones, which could run code, are refused);"
            f" delete it and check weights.{name} in params.yaml"
        ) from None


@contextmanager
def filling(path: Path, name: str, whose: str) -> Iterator[None]:
    """While a network takes its tensors from a state that was read from `path`.

    Raises:
        UserError: one is missing or has another shape.
    """
    try:
        yield
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        raise UserError(f"{path}: not {whose}; check weights.{name} in params.yaml") from None
