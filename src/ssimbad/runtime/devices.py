"""Where a stage computes."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssimbad.errors import UserError, first_line
from ssimbad.runtime import cores

Backend = str | Callable[..., Callable[..., Any]]
_KINDS = ("cpu", "cuda")  # others lack float64, or hold no values at all (`meta`)


def visible() -> list[torch.device]:
    """The devices of this job: those of `SSIMBAD_DEVICE` (`cuda:1`, or several: `cuda:0,cuda:1`, even `cpu,cpu`), else
    all CUDA devices that can be seen, else the CPU.

    Raises:
        UserError: the variable names a device that is not there, or that is neither a CPU nor a CUDA device.
    """
    wanted = os.environ.get("SSIMBAD_DEVICE", "auto")
    if wanted == "auto" and not torch.cuda.is_available():
        return [torch.device("cpu")]
    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    try:
        found = [torch.device(name.strip()) for name in wanted.split(",")]
        for device in found:
            if device.type not in _KINDS:
                raise ValueError(f"nothing is computed on {device.type}")
            torch.zeros(1, device=device)
        return found
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"SSIMBAD_DEVICE={wanted}: not usable ({reason}); use cpu, cuda or auto") from None


def workers(places: Sequence[torch.device], threads: int) -> list[torch.device]:
    """Where work is done side by side: each GPU of the places once, a CPU once per granted core."""
    return [place for place in places for _ in range(max(1, threads) if place.type == "cpu" else 1)]


def pick(number: int = 0) -> torch.device:
    """The device of process `number` on this machine; see `visible` for the errors."""
    found = visible()
    return found[number % len(found)]


def placed(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The model on a device, its weights in that order of memory."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory)  # ty: ignore[no-matching-overload] in no signature, but in the docs


def regions(model: nn.Module) -> list[nn.Module]:
    """The blocks of which a network is built: the outermost modules with parts, of classes of its own, of which it has
    several. The whole of a model without such."""
    counts = Counter(type(module) for module in model.modules())

    def is_block(module: nn.Module) -> bool:
        kind = type(module)
        container = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        own = not kind.__module__.startswith("torch.")
        return own and not container and counts[kind] > 1 and any(True for _ in module.children())

    def blocks(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            yield from [child] if is_block(child) else blocks(child)

    return list(blocks(model)) or [model]


def compiled(model: nn.Module, backend: Backend = "inductor") -> nn.Module:
    """The model, each of its regions compiled by itself when it is first called; weights and their names stay.

    Of a region's class there is one program for each set of shapes that its instances have, with gradients and without.
    What the compiler cannot follow, such as a block that draws random numbers of its own, is computed as before.
    """
    found = regions(model)
    for region in found:
        region.compile(backend=backend, dynamic=False, recompile_limit=4 * len(found))
    return model


def precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16: as asked, or for `auto` bf16 where the device computes with it (on a CPU by AMX), else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if amx() else "fp32"


def home(network: torch.nn.Module) -> torch.device:
    """The device where a network's weights are; the CPU for one without weights."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions on a GPU in full float32 and by the same algorithm every time, for numbers that are compared."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def hardware(device: torch.device) -> str:
    """What benchmarks are filed under: the card's name, or the processor's with the cores granted here."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {cores.granted()} cores"


def name(device: torch.device) -> str:
    """For the logbook: the card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
