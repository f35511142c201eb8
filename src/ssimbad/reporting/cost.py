"""The cost table. Times differ from machine to machine, so it is no declared output of any stage."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.params.base import slot_order
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.results import demo_scale

MEASURED = [
    *["method", "stage", "seed", "phase", "setting", "device", "parameters", "images", "seconds", "images_per_second"],
    *["nfe", "seconds_per_image"],
]
COLUMNS = [*MEASURED, "device_hours"]
PHASES = ("train", "colorize")


Amount = Annotated[float, Field(ge=0)] | None
Count = Annotated[int, Field(ge=0)] | None


class Measured(BaseModel):
    """One measurement; what was not measured is None."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    fingerprint: str | None = None
    method: str | None = None
    stage: str | None = None
    seed: int | None = None
    phase: str | None = None
    setting: str | None = None
    device: str | None = None
    parameters: Count = None
    images: Count = None
    seconds: Amount = None
    images_per_second: Amount = None
    nfe: Count = None
    seconds_per_image: Amount = None
    devices: Annotated[int, Field(ge=1)] = 1
    """How many shared the work."""


def read(path: Path) -> Measured:
    """A measurement from its file. Raises UserError when it is none; without a remedy, which the caller knows."""
    try:
        return Measured.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{path}: no measurement of a cost") from None


def write(
    costs: Iterable[Measured], tables: Path, labels: Mapping[str, str] | None = None, preset: str = ""
) -> Path | None:
    """Make cost.csv, cost.md and cost.tex in `tables`.

    Args:
        costs: phase train or colorize; seconds are wall time; nfe counts network calls per image. None is an empty
            field and prints as a dash.
        labels: printed name per method id.
        preset: its name in the title, `demo` marked as demo-scale.

    Returns:
        The CSV, or None where nothing has been measured yet (then nothing is written).
    """
    lines = sorted(map(_line, costs), key=_order)
    if not lines:
        return None
    artifacts.write_csv(tables / "cost.csv", COLUMNS, lines)
    table = _layout(lines, labels or {}, preset)
    artifacts.write_text(tables / "cost.md", markdown([table]))
    artifacts.write_text(tables / "cost.tex", latex([table]))
    return tables / "cost.csv"


def _line(measured: Measured) -> dict[str, Any]:
    line = {key: getattr(measured, key) for key in MEASURED}
    seconds, devices = measured.seconds, measured.devices
    if devices > 1:
        line["device"] = f"{devices} × {line['device']}"
    return line | {"device_hours": None if seconds is None else round(devices * seconds / 3600, 4)}


def _order(line: dict[str, Any]) -> tuple[str, tuple[int, str], int, str, str]:
    method, stage, phase = (str(line[key]) for key in ("method", "stage", "phase"))
    place = PHASES.index(phase) if phase in PHASES else len(PHASES)
    return method, slot_order(stage), place, str(line["seed"]), str(line["setting"])


def _layout(lines: list[dict[str, Any]], labels: Mapping[str, str], preset: str) -> Table:
    def cell(line: dict[str, Any], key: str, spec: str = "") -> str:
        return DASH if line[key] is None else format(line[key], spec)

    rows = [
        [
            labels.get(line["method"], cell(line, "method")),
            cell(line, "stage"),
            cell(line, "seed"),
            cell(line, "phase"),
            cell(line, "setting"),
            cell(line, "device"),
            cell(line, "parameters", ","),
            cell(line, "images", ","),
            cell(line, "images_per_second", ".1f"),
            cell(line, "device_hours", ".2f"),
            cell(line, "nfe"),
            cell(line, "seconds_per_image", ".3g"),
        ]
        for line in lines
    ]
    columns = [
        *["Method", "Stage", "Seed", "Phase", "Setting", "Device", "Parameters", "Images", "Images/s", "Device-hours"],
        *["NFE", "Seconds/image"],
    ]
    scale = " (demo-scale)" if demo_scale(preset) else f" ({preset})" if preset else ""
    notes = [
        "Wall time on the machine that ran it, of the last process that trained: a resumed training counts from there.",
        "Parameters: of the network that colours. Images: seen by that process, or coloured.",
        "NFE: network calls per coloured image.",
    ]
    return Table(f"Cost{scale}", "cost", columns, rows, notes, words=6)
