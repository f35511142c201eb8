"""How fast a device is: measured by benchmarks/gpu.py, or told on the command line; never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssimbad import artifacts
from ssimbad.errors import ParameterError
from ssimbad.params.tree import Params

BENCHMARKS = Path("reports/benchmarks")
UNKNOWN = "unknown — no benchmark of this device; pass --images-per-second"


@dataclass(frozen=True)
class Rates:
    """Images per second by kind of work (train, refine, sample), and where they come from.

    `refine` and `sample` hold (images per second, steps of the chain); `told`: the one rate came from the command line
    and is scaled to every network by its operations; `lanes`: so many images are computed side by side at these rates,
    one on each core of a CPU.
    """

    source: str
    train: float | None = None
    refine: tuple[float, int] | None = None
    sample: tuple[float, int] | None = None
    told: bool = False
    lanes: int = 1


NONE = Rates(UNKNOWN)


def find(p: Params, device: str | None, told: float | None, folder: Path = BENCHMARKS) -> Rates:
    """The rates of a device by the name of its file or of the card.

    Raises:
        ParameterError: a rate that is not above zero, or a device that was named and never measured.
    """
    if told is not None:
        if not 0 < told < math.inf:
            raise ParameterError(f"--images-per-second {told:g}: expected a number above 0")
        return Rates(f"scaled by operations from {told:g} training images/s", train=told, told=True)
    measured = {path.stem: artifacts.read_json(path) for path in sorted(folder.glob("*.json"))}
    measured = {name: made for name, made in measured.items() if not made["smoke"]}
    if device is None:
        device = present()
    chosen = next((made for name, made in measured.items() if device in (name, made["device"])), None)
    if chosen is None:
        if device is not None and device != present():
            known = ", ".join(measured) or f"none yet ({folder} is empty; run benchmarks/gpu.py)"
            raise ParameterError(f"--device {device}: no benchmark of it; measured are {known}")
        return NONE
    return _of(p, chosen)


def present() -> str:
    """The name of the device that this job would take, as a benchmark of it says."""
    from ssimbad.runtime import devices

    return devices.hardware(devices.visible()[0])


def _of(p: Params, made: dict[str, Any]) -> Rates:
    if made["network"] != p.network.model_dump(mode="json") or made["size"] != p.data.size:
        return Rates(f"unknown — {made['device']} was measured with another network or size; pass --images-per-second")
    ok = [row for row in made["rows"] if row["outcome"] == "ok"]
    mode = _mode(p, {row["mode"] for row in ok})
    if mode is None:
        return Rates(f"unknown — {made['device']} was not measured in {p.training.precision}; pass --images-per-second")

    def fastest(kind: str, **wanted: str | int | None) -> dict[str, Any] | None:
        asked = {"kind": kind, "mode": mode, **wanted}
        rows = [row for row in ok if all(row[key] == value for key, value in asked.items())]
        return max(rows, key=lambda r: r["images_per_second"] * (r["steps"] or 1)) if rows else None

    train, refine, sample = fastest("train"), fastest("refine", checkpointing=True), fastest("sample")
    return Rates(
        f"measured on {made['device']}",
        train["images_per_second"] if train else None,
        (refine["images_per_second"], refine["steps"]) if refine else None,
        (sample["images_per_second"], sample["steps"]) if sample else None,
        lanes=made.get("lanes", 1),
    )


def _mode(p: Params, measured: set[str]) -> str | None:
    """Which of the ways of computing that were measured is that of the parameters, if one is."""
    asked = p.training.precision
    if asked == "auto":
        asked = "bf16" if any(way.startswith("bf16") for way in measured) else "fp32"
    ways = [f"{asked}, channels-last", asked] if p.training.channels_last else [asked]
    return next((way for way in ways if way in measured), None)
