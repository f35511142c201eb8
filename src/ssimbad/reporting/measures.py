"""Stage measures: what trainings say of themselves besides their curve, over the validation faces."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import there
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import Table, latex, markdown
from ssimbad.reporting.results import Line
from ssimbad.runtime.job import Job

COLUMNS = ["method", "stage", "seed", "measure", "value", "n"]


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Write measures (.csv with `COLUMNS`, _md, _tex).

    Inputs: made (list of .json: how weights were made). `n` counts validation faces. Parameters: data.val, data.size,
    preset, evaluation.confidence, the methods' labels.
    """
    made = [artifacts.read_json(path) for path in inputs["made"]]
    lines: list[Line] = [
        {
            "method": m["method"],
            "stage": m["stage"],
            "seed": m["seed"],
            "measure": what,
            "value": value,
            "n": params.data.val,
        }
        for m in made
        for what, value in m["measures"].items()
    ]
    artifacts.write_csv(outputs["measures"], COLUMNS, [{**x, "value": f"{x['value']:.6g}"} for x in lines])
    table = _layout(lines, params)
    artifacts.write_text(outputs["measures_md"], markdown([table]))
    artifacts.write_text(outputs["measures_tex"], latex([table]))
    job.say(f"measures: {len(made)} trainings -> {outputs['measures']}, {outputs['measures_md']}")


def _layout(lines: list[Line], params: Params) -> Table:
    values: dict[tuple[str, str, str], list[float]] = {}
    for line in lines:
        values.setdefault((line["method"], line["stage"], line["measure"]), []).append(there(line["value"]))
    words = {"encoder": "autoencoder", "pretrain": "pretraining", "finetune": "finetuning"}
    rows: list[list[str] | str] = []
    for (method, stage, what), found in values.items():
        heading = f"{params.methods[method].label}: {words[stage]}"
        rows += [] if heading in rows else [heading]
        rows.append([what, _told(found, params.evaluation.confidence), str(len(found))])
    scale = "demo-scale, " if res.demo_scale(params.preset) else ""
    title = f"What trainings measure of themselves — {scale}{params.data.size}×{params.data.size} pixels"
    notes = [
        f"Over the {params.data.val} validation faces, images in [-1, 1], averaged weights. They choose no weights but"
        " where a training has no row, and none of them is a score of the test faces.",
        *([f"Several seeds: mean and {100 * params.evaluation.confidence:g} % Student t interval over seeds."]
          if max(map(len, values.values())) > 1 else []),
    ]  # fmt: skip
    return Table(title, "measures", ["Measure", "Value", "Seeds"], rows, notes, words=1)


def _told(values: list[float], confidence: float) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    entry = res.students_t(np.array(values), confidence)
    return f"{entry['value']:.4g} [{entry['ci_low']:.4g}, {entry['ci_high']:.4g}]"
