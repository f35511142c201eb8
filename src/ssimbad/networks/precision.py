"""What must not be rounded under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def uncast(x: Tensor) -> AbstractContextManager:
    """In it, what is float32 stays so under autocast; tensors without data (device meta) know no autocast."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
