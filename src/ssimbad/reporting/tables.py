"""Stage tables: every number of the report as CSV, Markdown and LaTeX."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from ssimbad import artifacts
from ssimbad.params.tree import Params
from ssimbad.reporting import comparisons, main_table, r2_table, results
from ssimbad.reporting.markup import Table, latex, markdown
from ssimbad.runtime.job import Job


class Inputs(TypedDict):
    """Files that the stage reads."""

    summaries: list[Path]
    images: list[Path]
    baselines: Path
    r2: Path
    made: list[Path]


def run(params: Params, inputs: Inputs, outputs: Mapping[str, Path], job: Job) -> None:
    """Write main, r2, reference_use and differences.

    Inputs: summaries (list of .json), images (list of .csv), baselines (.json), r2 (.csv), made (list of .json: how the
    weights were made).
    Outputs: main, reference_use, differences (.csv), each also with _md and _tex; r2_md, r2_tex.
    Parameters: preset, evaluation, schedule.confidence (of r2), the methods' labels.

    Raises:
        UserError: an input is missing or does not fit the others.
    """
    found = results.load(inputs["summaries"], inputs["images"])
    names = results.labels(results.rows(found), params.methods)
    confidence = params.evaluation.confidence
    note = results.scale_note(params.preset, found[0].size, found[0].n)

    artifacts.write_csv(outputs["main"], main_table.COLUMNS, main_table.long_form(found, confidence))
    baselines = artifacts.read_json(inputs["baselines"])
    made = [artifacts.read_json(path) for path in inputs["made"]]
    _print(outputs, "main", main_table.layout(found, baselines, names, params.preset, confidence, made, params.methods))

    use = comparisons.reference_use(found, params.evaluation)
    artifacts.write_csv(outputs["reference_use"], comparisons.USE_COLUMNS, use)
    _print(outputs, "reference_use", [comparisons.use_table(use, names, note, confidence)])

    pairs = comparisons.differences(found, params.evaluation)
    artifacts.write_csv(outputs["differences"], comparisons.PAIR_COLUMNS, pairs)
    _print(outputs, "differences", [comparisons.differences_table(pairs, names, note, confidence)])

    _print(outputs, "r2", [r2_table.layout(inputs["r2"], params.preset, params.schedule.confidence)])
    job.say(f"tables: {len(names)} rows -> {outputs['main']}, {outputs['main_md']}")


def _print(outputs: Mapping[str, Path], name: str, tables: list[Table]) -> None:
    artifacts.write_text(outputs[f"{name}_md"], markdown(tables))
    artifacts.write_text(outputs[f"{name}_tex"], latex(tables))
