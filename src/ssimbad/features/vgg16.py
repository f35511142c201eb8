"""The network of LPIPS (Zhang et al. 2018), version 0.1, by VGG-16: for the loss alone, never for the metric."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ssimbad.features import alexnet

SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"


def load(path: Path) -> nn.Module:
    """The network with torchvision's VGG-16 from a local file, in evaluation mode on the CPU.

    Raises:
        UserError: the file is no state dictionary of torchvision's VGG-16.
    """
    return alexnet.filled(path, "vgg16", "vgg", "torchvision's VGG-16")
