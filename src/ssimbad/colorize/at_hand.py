"""Trained weights that are here, the best first, and those that come with the package."""

from __future__ import annotations

from pathlib import Path

from ssimbad import artifacts
from ssimbad.colorize import load

JUDGED = "cross-true"
"""The setting by whose PSNR weights are chosen: it wants the reference's colours in the sketch's shape."""


def found(models: Path = Path("models"), metrics: Path = Path("reports/metrics")) -> dict[Path, float | None]:
    """{NAME.safetensors with NAME.json beside it: PSNR in dB of the row of that name, None where none was measured}.

    Those that were measured first, from the best; then those of refinements; last `load.STARTER`.
    """
    there = [path for path in models.glob("*/*/seed-*.safetensors") if path.with_suffix(".json").exists()]
    known = {path: _measured(metrics / path.relative_to(models).with_suffix("") / f"{JUDGED}.json") for path in there}

    def order(path: Path) -> tuple[float, bool, str]:
        value = known[path]
        return (float("inf") if value is None else -value, path.parent.name != "finetune", path.as_posix())

    return {path: known[path] for path in sorted(there, key=order)} | {load.STARTER: None}


def best() -> Path:
    """The first of `found`."""
    return next(iter(found()))


def _measured(summary: Path) -> float | None:
    try:
        value = artifacts.parsed_json(summary)["metrics"]["psnr"]["value"]
        return None if value is None else float(value)
    except (OSError, ValueError, LookupError, TypeError):
        return None
