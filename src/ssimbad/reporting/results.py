"""What the stage evaluate wrote, read back: one Result per method, stage, seed and setting."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypedDict

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from scipy.special import stdtrit

from ssimbad import artifacts
from ssimbad.errors import UserError, first_line
from ssimbad.metrics import registry
from ssimbad.pairing import settings
from ssimbad.params.base import Positive, Strict, slot_order

if TYPE_CHECKING:
    from ssimbad.metrics.measure import Entry, Interval

BY_ID = {metric.id: metric for metric in registry.metrics()}
METRICS = {metric.id: (metric.label, metric.decimals, metric.better) for metric in BY_ID.values()}
"""metric: name, decimals shown, direction of better; in the order of the tables."""
NOT_MEASURED: Entry = {
    "value": None, "ci_low": None, "ci_high": None, "n": None,
    "reason": "not measured for this row; run the stage evaluate again if it should be",
}  # fmt: skip


class Labelled(Protocol):
    """A method, as far as tables name it."""

    @property
    def label(self) -> str: ...


class Line(TypedDict, total=False):
    """A line of a table, by its columns; of these those that the table has."""

    method: str
    stage: str
    seed: int | str
    setting: str
    metric: str
    than_method: str
    than_stage: str
    measure: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    seeds: int
    reason: str | None
    published: float | None
    right: float
    other: float
    difference: float | None
    pflop: float
    images: int
    chain: int
    nfe: int


SETTLED = 1.0
"""dB of PSNR below which two trainings, one of each method, do not tell the methods from seeds and rounding: about
twice the greatest standard deviation of a difference of equal seeds in `make seeds` (0.54)."""
ONE_SEED = (
    "One seed: an interval over test faces holds for these very weights. Another seed moves a row (those of the demo's"
    " size by a standard deviation of 0.05 to 0.55 dB), and another machine does so too, by its rounding; below"
    f" {SETTLED} dB of PSNR nothing is claimed without several seeds, and for other metrics no such limit is known."
)
"""What the intervals leave out, for the notes of every table with rows of one seed."""

Row = tuple[str, str]
"""(method, stage): one row of the table."""


@dataclass(frozen=True)
class Result:
    """Summary and per-image values of one evaluation; `images` is indexed by id, one column per metric."""

    method: str
    stage: str
    seed: int
    setting: str
    n: int
    size: int
    metrics: dict[str, Entry]
    images: pd.DataFrame

    @property
    def row(self) -> Row:
        return (self.method, self.stage)


class _Entry(BaseModel):
    """What is read of one; facts of metrics stand beside it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    reason: str | None = None


class _Summary(Strict):
    """The JSON of an evaluation."""

    method: str
    stage: str
    seed: Annotated[int, Field(ge=0)]
    setting: str
    n: Positive
    size: Positive
    metrics: dict[str, _Entry]

    @field_validator("setting")
    @classmethod
    def _known(cls, setting: str) -> str:
        if setting not in settings.SETTINGS:
            raise ValueError(f"expected one of {', '.join(settings.SETTINGS)}")
        return setting


def read(summary: bytes, values: bytes) -> Result:
    """One evaluation, of the bytes of its two files, which somebody else may have written.

    Raises:
        ValueError: one line that says what of which file is none that the stage writes.
    """
    try:
        told = json.loads(summary)
        _Summary.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{where!r:.80}: {first['msg'].removeprefix('Value error, ')}") from None
    except RecursionError:
        raise ValueError("values in values in values, too deep to read") from None
    try:
        return Result(**told, images=_images(values))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"its .csv: {first_line(error)}") from None


def _images(values: bytes) -> pd.DataFrame:
    """By id, each once; of the metrics numbers or nothing. Raises what pandas does, and ValueError."""
    frame = pd.read_csv(io.BytesIO(values), dtype={"id": str}).set_index("id")
    if not len(frame) or not frame.index.is_unique:
        raise ValueError("no images, or one of them twice")
    for metric in METRICS:
        if metric in frame:
            column = frame[metric]
            if not pd.api.types.is_numeric_dtype(column) or np.isinf(column.to_numpy(np.float64)).any():
                raise ValueError(f"{metric}: not numbers alone")
    return frame


def load(summaries: Iterable[Path], images: Iterable[Path]) -> list[Result]:
    """Results in table order: methods as they come, then stage, seed and setting.

    A summary `…/<setting>.json` belongs to the values `…/<setting>.csv` in the same folder.

    Raises:
        UserError: a summary without its values, or a file that cannot be read.
    """
    values = {path.with_suffix(""): path for path in images}
    results = []
    for path in summaries:
        if path.with_suffix("") not in values:
            raise UserError(f"{path}: {path.with_suffix('.csv').name} beside it is not among the inputs")
        frame = pd.read_csv(values[path.with_suffix("")], dtype={"id": str}).set_index("id")
        results.append(Result(**artifacts.read_json(path), images=frame))
    methods = list(dict.fromkeys(result.method for result in results))
    order = list(settings.SETTINGS)
    return sorted(
        results,
        key=lambda r: (methods.index(r.method), slot_order(r.stage), r.seed, order.index(r.setting)),
    )


def read_rows(paths: Iterable[Path], stage: str) -> pd.DataFrame:
    """The files `<method>/<stage>/seed-<n>.csv` that a stage wrote for each row, as one frame with columns of these.

    Raises:
        UserError: a file is missing, empty or named otherwise.
    """
    frames = []
    for path in paths:
        match = re.search(r"([^/]+)/([^/]+)/seed-(\d+)\.csv$", path.as_posix())
        if not match:
            raise UserError(f"{path}: not of the form <method>/<stage>/seed-<n>.csv; name it so")
        try:
            frame = pd.read_csv(path)
        except (FileNotFoundError, pd.errors.EmptyDataError):
            raise UserError(f"{path}: not there or empty; run the stage {stage}") from None
        frames.append(frame.assign(method=match[1], stage=match[2], seed=int(match[3])))
    return pd.concat(frames, ignore_index=True)


def row(file: str) -> Row | None:
    """The row that a file `…/<method>/<stage>/seed-<n>…` belongs to; None for any other file."""
    match = re.search(r"([^/]+)/([^/]+)/seed-\d+[./]", file)
    return (match[1], match[2]) if match else None


def rows(results: Iterable[Result]) -> list[Row]:
    """Rows of the table, in its order."""
    return list(dict.fromkeys(result.row for result in results))


def over_seeds(results: list[Result], metric: str, confidence: float) -> Entry:
    """One entry {value, ci_low, ci_high, n, seeds[, reason]} for the seeds of one row in one setting.

    With one seed it is that seed's entry, its interval over test images. With more, value is the mean over
    seeds, the interval is Student's t over seeds, and n counts the seeds.
    """
    entries = [result.metrics.get(metric, NOT_MEASURED) for result in results]
    values = np.array([entry["value"] for entry in entries if entry["value"] is not None], dtype=np.float64)
    if len(entries) == 1 or len(values) < len(entries):
        absent = [entry for entry in entries if entry["value"] is None]
        return {**(absent or entries)[0], "seeds": len(entries)}
    return {**students_t(values, confidence), "n": len(values), "seeds": len(values)}


def interval(entry: Entry) -> Interval:
    """Of what an entry says."""
    return {"value": entry["value"], "ci_low": entry["ci_low"], "ci_high": entry["ci_high"]}


def students_t(values: np.ndarray, confidence: float) -> Interval:
    """{value, ci_low, ci_high}: mean and Student's t interval of (n,) values, n ≥ 2."""
    mean = float(values.mean())
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"value": round(mean, 5), "ci_low": round(mean - half, 5), "ci_high": round(mean + half, 5)}


def labels(present: Iterable[Row], methods: Mapping[str, Labelled]) -> dict[Row, str]:
    """Printed name per row: the method's label from the parameters, with the stage where it has both."""
    present = list(present)
    both = {method for method, _ in present if len({s for m, s in present if m == method}) > 1}
    words = {"pretrain": "pretrained", "finetune": "finetuned"}
    return {
        (method, stage): methods[method].label + (f", {words.get(stage, stage)}" if method in both else "")
        for method, stage in present
    }


def number(value: float | None, metric: str, signed: bool = False) -> str:
    """A value with the metric's decimals; a dash for None; a true minus sign."""
    return BY_ID[metric].shown(value, signed)


def with_interval(entry: Entry | Line, metric: str, signed: bool = False) -> str:
    """`value [low, high]`, without brackets where there is no interval."""
    text = number(entry["value"], metric, signed)
    if entry["value"] is None or entry["ci_low"] is None:
        return text
    return f"{text} [{number(entry['ci_low'], metric, signed)}, {number(entry['ci_high'], metric, signed)}]"


def difference(entry: Entry | Line, metric: str, seeds: int) -> str:
    """`+value [low, high]` of two rows; marked where one seed of each cannot establish it (`SETTLED`)."""
    text, value = with_interval(entry, metric, signed=True), entry["value"]
    doubtful = metric == "psnr" and seeds == 1 and value is not None and abs(round(value, 2)) < SETTLED
    return f"{text} (not established: one seed)" if doubtful else text


def scale_note(preset: str, size: int, n: int) -> str:
    """Words for a title: what the numbers were measured on, and a plain warning at demo scale."""
    measured = f"{size}×{size} pixels, {n} test faces"
    return f"demo-scale, not comparable with published numbers: {measured}" if demo_scale(preset) else measured


def demo_scale(preset: str) -> bool:
    """Whether a preset is the demo or one of its kind, such as demo-all."""
    return preset.split("-")[0] == "demo"
