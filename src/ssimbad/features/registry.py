"""Feature networks by name: what metrics and losses look through. A feature network is a module in this package.

Its name is the key of its weights file in the parameters (`weights.<name>`), and it offers
- `SHA256`: of the published weights file. A number from any other weights is never called FID, KID or LPIPS;
- `load(path)`: the network with the weights of a file, on the CPU. Raises UserError when the file holds something else;
- where sets of images are compared by it, `described(images, *copies)`: (N, H, W, 3) uint8 → (N, D) float64.

This module is light; those of the networks import torch and more.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ssimbad import features

if TYPE_CHECKING:
    import torch
    from torch import nn

_NOT_NETWORKS = {"registry", "stage", "files"}


def names() -> list[str]:
    """Names of all feature networks."""
    return sorted(m.name for m in pkgutil.iter_modules(features.__path__) if m.name not in _NOT_NETWORKS)


def module(name: str) -> ModuleType:
    """The module of a network. Raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown feature network {name!r}; known: {', '.join(names())}")
    return importlib.import_module(f"ssimbad.features.{name}")


def load(name: str, path: Path, device: torch.device) -> nn.Module:
    """A network from its weights file: frozen, in evaluation mode, on the device; see the network's own `load`."""
    return module(name).load(path).to(device).eval().requires_grad_(False)


def among(inputs: Mapping[str, Path], device: torch.device) -> nn.Module | None:
    """The network whose file is among a training's inputs, for its loss; None where there is none.

    Raises:
        UserError: the file holds something else.
    """
    found = next((name for name in names() if name in inputs), None)
    return load(found, inputs[found], device) if found else None
