"""Stage reverse_figures: what a DDPM that is given nothing draws, and what it makes of noisy faces."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssimbad import artifacts
from ssimbad.errors import UserError, there
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.grids import picture_grid
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.style import save
from ssimbad.runtime.job import Job

VARIANCES = {"beta": "β", "posterior": "β̃"}
CHAINS = {"whole": "from the last timestep, as published", "matched": "from its own timestep"}
COLUMNS = ["what", "t", "chain", "variance", "metric", "value", "ci_low", "ci_high", "n"]


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Draw reverse_samples_*, reverse_trajectories_* (one per variance) and reverse_recover_* (one per chain), PNG and
    PDF, and write reverse (.csv, _md, _tex): its numbers.

    Inputs: pictures (.zip), values (.csv) of the stage reverse. Parameters: report.reverse, data.size, preset, the
    methods' labels.

    Raises:
        UserError: an input is missing, or the pictures are not all there.
    """
    asked = there(params.report.reverse)
    pictures = _groups(inputs["pictures"])
    frame = pd.read_csv(inputs["values"]).astype({"t": "Int64"})
    label = params.methods[asked.weights.partition("/")[0]].label
    scale = "demo-scale, " if res.demo_scale(params.preset) else ""
    note = f"{label}; {scale}{params.data.size}×{params.data.size}, {asked.steps} steps"
    for variance, sign in VARIANCES.items():
        for name, rows in (
            ("samples", _in_rows(pictures[f"samples-{variance}"], asked.columns)),
            ("trajectories", [pictures[f"trajectories-{variance}-{k}"] for k in range(asked.trajectories)]),
        ):
            fig = picture_grid(f"{name.capitalize()}, σ² = {sign} ({note})", [("", row) for row in rows], [])
            save(fig, *(outputs[f"reverse_{name}_{variance}_{kind}"] for kind in ("png", "pdf")))
    times = [int(t) for t in dict.fromkeys(frame[frame["what"] == "noisy"]["t"])]
    for chain, words in CHAINS.items():
        rows, columns = _recovered(pictures, times, chain)
        fig = picture_grid(f"Faces brought back {words} ({note})", rows, columns)
        save(fig, *(outputs[f"reverse_recover_{chain}_{kind}"] for kind in ("png", "pdf")))
    lines = frame.astype(object).where(frame.notna(), None).to_dict("records")
    artifacts.write_csv(outputs["reverse"], COLUMNS, lines)
    tables = _tables(lines, times, note)
    artifacts.write_text(outputs["reverse_md"], markdown(tables))
    artifacts.write_text(outputs["reverse_tex"], latex(tables))
    job.say(f"reverse_figures: {len(pictures)} groups of pictures -> {outputs['reverse_md']}")


def _groups(path: Path) -> dict[str, np.ndarray]:
    """{name: (N, S, S, 3) uint8} of an archive of `<name>-<number>.png`."""
    found: dict[str, list[np.ndarray]] = {}
    for name, image in sorted(artifacts.read_png_zip(path).items()):
        found.setdefault(name.rpartition("-")[0], []).append(image)
    if "original" not in found:
        raise UserError(f"{path}: not the pictures of this version; run the stage reverse again")
    return {name: np.stack(images) for name, images in found.items()}


def _in_rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """Rows of so many pictures, the last one filled up with white."""
    height = math.ceil(len(images) / columns)
    canvas = np.full((height * columns, *images.shape[1:]), 255, np.uint8)
    canvas[: len(images)] = images
    return list(canvas.reshape(height, columns, *images.shape[1:]))


def _recovered(
    pictures: Mapping[str, np.ndarray], times: list[int], chain: str
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """A row per face; for each t the source's four columns: original, noisy, recovered by either variance."""
    groups, columns = [], []
    for t in times:
        groups += [pictures["original"], pictures[f"noisy-{t}"]]
        groups += [pictures[f"{chain}-{t}-{variance}"] for variance in VARIANCES]
        columns += ["original", f"t = {t}", *VARIANCES.values()]
    return [("", np.stack([group[k] for group in groups])) for k in range(len(groups[0]))], columns


def _tables(lines: list[dict[str, Any]], times: list[int], note: str) -> list[Table]:
    def cell(what: str, t: int | None, chain: str | None, variance: str | None, metric: str) -> str:
        wanted = {"what": what, "t": t, "chain": chain, "variance": variance, "metric": metric}
        [line] = [x for x in lines if all(x[key] == value for key, value in wanted.items())]
        digits = 2 if metric == "psnr" else 3
        ends = "" if line["ci_low"] is None else f" [{line['ci_low']:.{digits}f}, {line['ci_high']:.{digits}f}]"
        return f"{line['value']:.{digits}f}{ends}"

    tables = []
    for metric, title in (("psnr", "PSNR to the original (dB)"), ("contrast", "Contrast")):
        original = DASH if metric == "psnr" else cell("original", None, None, None, metric)
        rows = [
            [str(t), words, original, cell("noisy", t, None, None, metric)]
            + [cell("recovered", t, chain, variance, metric) for variance in VARIANCES]
            for t in times
            for chain, words in CHAINS.items()
        ]
        columns = ["t", "chain", "original", "noisy", *(f"recovered, {sign}" for sign in VARIANCES.values())]
        tables.append(Table(f"{title} of faces brought back — {note}", f"reverse-{metric}", columns, rows, words=2))
    tables[1].notes.append("Contrast: standard deviation of a picture's values in [0, 1]; a blank picture has none.")
    asked = [1, *(t for t in times if t != 1)]
    rows = [[str(t), *(cell("noise", t, chain, None, "coefficient") for chain in CHAINS)] for t in asked]
    notes = [
        "Coefficient of the regression of the predicted noise, at its size in x_t, on x_t, per face. 1: the whole"
        " input is taken for noise, and the step subtracts it. At the last timestep the network has only"
        " ever seen noise.",
    ]
    title = f"What of a face noised to t is taken for noise — {note}"
    columns = ["noised to t", "asked at the last timestep", "asked at t"]
    return [*tables, Table(title, "reverse-noise", columns, rows, notes)]
