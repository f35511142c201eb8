"""The model card of exported weights: Markdown below the block of metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ssimbad.metrics import registry
from ssimbad.pairing.settings import SETTINGS

_BY_ID = {metric.id: metric for metric in registry.metrics()}
_UNKNOWN = (
    "The rights in the faces of the training stay with their owners, and nobody here knows them: whoever hands these"
    " weights on is to see to the right to do so."
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a card is made of."""

    config: Mapping[str, Any]
    """As config.json has it."""
    label: str
    colour: str
    """How the row colours, in words."""
    takes: Sequence[str]
    source: str
    """Kind of the source of faces."""
    faces: Mapping[str, int]
    """By split."""
    native: int
    """Side at which the faces are stored, pixels."""
    styles: Sequence[str]
    """Of the lines that trainings saw."""
    companions: float
    """Share of their references that showed another face in the image's colours."""
    licence: str
    """As the hub names it; empty where nobody knows."""
    credit: str
    trainings: Sequence[Mapping[str, Any]]
    """How the weights were made, and those before them, in the order of the work."""
    summaries: Sequence[Mapping[str, Any]]
    """Of the stage evaluate; empty where nothing was measured."""


def text(told: Told) -> str:
    """The whole card."""
    parts = [_title(told), _use(told), _data(told), _budget(told), _metrics(told), _limits(told), _licence(told)]
    return "\n\n".join([f"---\n{_metadata(told)}\n---", *parts]) + "\n"


def _metadata(told: Told) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-to-image",
            dataset_type=told.source, dataset_name=f"{told.source}, {setting}", dataset_config=setting,
            metric_type=metric, metric_name=_BY_ID[metric].label, metric_value=entry["value"],
        )
        for setting, metric, entry in _measured(told)
    ]  # fmt: skip
    return ModelCardData(
        license=told.licence or "other", license_name=None if told.licence else "unknown",
        library_name="ssimbad", pipeline_tag="image-to-image",
        tags=["colorization", "line-art", "anime", told.config["setup"]["kind"]],
        model_name=told.config["row"], eval_results=results or None,
    ).to_yaml()  # fmt: skip


def _measured(told: Told) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(setting, metric, entry) of everything that has a value."""
    for summary in told.summaries:
        for metric, entry in summary["metrics"].items():
            if entry["value"] is not None and metric in _BY_ID:
                yield summary["setting"], metric, entry


def _title(told: Told) -> str:
    size = told.config["setup"]["size"]
    given = [name.replace("_", " ") for name in told.takes if name != "sketch"]
    after = f" after a {' and a '.join(given)}" if given else ""
    return (
        f"# {told.label}, {told.config['row']}\n\nColours sketches of anime faces{after}, in a square of {size} pixels;"
        f" {told.colour}. Seed {told.config['seed']}."
    )


def _use(told: Told) -> str:
    lines = [
        "from ssimbad.colorize.painter import Painter",
        "",
        'painter = Painter.from_pretrained("FOLDER or OWNER/NAME")',
        'image = painter.colour(sketch, reference, fit="sketch").image  # bytes or uint8 arrays → (H, W, 3) uint8',
    ]
    code = "\n".join(["```python", *lines, "```"])
    return f"## Use\n\n{code}{_graph(told)}"


def _graph(told: Told) -> str:
    if not (onnx := told.config.get("onnx")):
        return ""
    said = (
        f"\n\n`{onnx['file']}` (ONNX, opset {onnx['opset']}) is one call of the network: {', '.join(onnx['inputs'])} →"
        f" {onnx['output']}, float32, pictures in [-1, 1], channels first, a sketch's paper 1."
    )
    if "levels" not in onnx:
        return f"{said} One call is the answer."
    return (
        f"{said} The chain begins with x = {onnx['start']:g} · noise and goes through the `levels` of config.json; by"
        " Euler x becomes denoised + following/sigma · (x - denoised). Guidance, where the row has any, is not in it."
    )


def _data(told: Told) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in told.faces.items())
    made = f" The faces are {told.credit}." if told.credit else ""
    styles = "" if list(told.styles) == ["xdog"] else f", in training in the styles {', '.join(told.styles)}"
    others = f", {told.companions:.0%} of them of other faces in the same colours" if told.companions else ""
    return (
        f"## Data\n\nSource: {told.source}. Faces: {counts}; stored at {told.native} pixels.{made} Sketches: XDoG"
        f" of the faces, unless the source brings its own{styles}. References: thin-plate-spline warps of the"
        f" faces{others}."
    )


def _budget(told: Told) -> str:
    rows = [
        [f"{made['method']}/{made['stage']}", made["train"]["objective"], f"{made['images']:,}", made["train"]["batch"]]
        for made in told.trainings
    ]
    table = tabulate(rows, ["training", "objective", "images seen", "batch"], tablefmt="github", disable_numparse=True)
    stored = f", stored as {told.config['stored']}; the numbers below are of float32" if "stored" in told.config else ""
    return f"## Budget\n\nParameters: {told.config['parameters']:,}{stored}.\n\n{table}"


def _metrics(told: Told) -> str:
    rows = [
        [
            SETTINGS[setting].words, f"{_BY_ID[metric].label} {_BY_ID[metric].better}",
            *(_BY_ID[metric].shown(entry[key]) for key in ("value", "ci_low", "ci_high")), entry["n"],
        ]
        for setting, metric, entry in _measured(told)
    ]  # fmt: skip
    heads = ["setting", "metric", "value", "from", "to", "n"]
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True) if rows else "Not measured."
    return f"## Metrics\n\n{table}"


def _limits(told: Told) -> str:
    size = told.config["setup"]["size"]
    return (
        f"## Limits\n\nThe network sees {size} × {size} pixels, whatever the sketch's size, and colours what resembles"
        " the faces above: one face that fills the sheet. Other subjects, and lines of other kinds, were not in the"
        " training. Numbers hold for the test faces of the same source."
    )


def _licence(told: Told) -> str:
    said = (
        f"The training faces are {told.credit}; these weights come under the same terms." if told.credit else _UNKNOWN
    )
    return f"## Licence\n\n{said} The code that made and runs them: MIT."
