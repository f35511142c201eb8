"""Stage nfe_figure: quality against the number of network calls, a panel per row and metric, a line per sampler.

With one seed the bands are the bootstrap intervals over test faces.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssimbad import artifacts
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.results import METRICS
from ssimbad.reporting.style import PALETTE, save, styled
from ssimbad.runtime.job import Job

COLUMNS = ["method", "stage", "seed", "sampler", "calls", "steps", "nfe", "metric", "value", "ci_low", "ci_high", "n"]
_MARKERS = ("o", "s", "^", "D")


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Draw nfe (PNG, PDF) and write its numbers (nfe .csv, _md, _tex).

    Inputs: values (list of `<method>/<stage>/seed-<n>.csv` of the stage nfe). Parameters: report.nfe, data.size,
    preset, the methods' labels.

    Raises:
        UserError: an input is missing or is named otherwise.
    """
    frame = res.read_rows(inputs["values"], "nfe")
    rows = list(dict.fromkeys(zip(frame["method"], frame["stage"], strict=True)))
    names = res.labels(rows, params.methods)
    artifacts.write_csv(outputs["nfe"], COLUMNS, frame.to_dict("records"))
    note = res.scale_note(params.preset, params.data.size, int(frame["n"].max()))
    tables = [_table(frame[frame["metric"] == metric], rows, names, metric, note) for metric in _metrics(frame)]
    artifacts.write_text(outputs["nfe_md"], markdown(tables))
    artifacts.write_text(outputs["nfe_tex"], latex(tables))
    save(_figure(frame, rows, names, f"Quality against network calls, same reference ({note})"), **_files(outputs))
    job.say(f"nfe_figure: {len(rows)} rows -> {outputs['nfe_png']}")


def _files(outputs: Mapping[str, Path]) -> dict[str, Path]:
    return {"png": outputs["nfe_png"], "pdf": outputs["nfe_pdf"]}


def _metrics(frame: pd.DataFrame) -> list[str]:
    return [metric for metric in METRICS if (frame["metric"] == metric).any()]


def _mean(frame: pd.DataFrame, row: res.Row, sampler: str) -> pd.Series:
    """Mean over seeds by the limit of calls."""
    return _of(frame, row, sampler).groupby("calls")["value"].mean()


def _of(frame: pd.DataFrame, row: res.Row, sampler: str) -> pd.DataFrame:
    return frame[(frame["method"] == row[0]) & (frame["stage"] == row[1]) & (frame["sampler"] == sampler)]


def _table(frame: pd.DataFrame, rows: list[res.Row], names: dict[res.Row, str], metric: str, note: str) -> Table:
    limits = sorted(frame["calls"].unique())
    lines: list[list[str] | str] = []
    for row in rows:
        for sampler in dict.fromkeys(frame["sampler"]):
            means = _mean(frame, row, sampler)
            if means.empty:  # a sampler of other kinds
                continue
            cells = [res.number(float(means[c]), metric) if c in means else DASH for c in limits]
            lines.append([names[row], sampler, *cells])
    columns = ["Method", "Sampler", *(f"≤ {c}" for c in limits)]
    title = f"{METRICS[metric][0]} at no more than so many network calls — {note}"
    notes = [
        "Same reference; mean over seeds. Calls of heun, phi2 and log2 are odd (2N − 1): one fewer than an even limit."
    ]
    notes += [res.ONE_SEED] if frame["seed"].nunique() == 1 else []
    return Table(title, f"nfe-{metric}", columns, lines, notes, words=2)


def _figure(frame: pd.DataFrame, rows: list[res.Row], names: dict[res.Row, str], title: str) -> Figure:
    metrics = _metrics(frame)
    with styled():
        size = (max(4.2, 2.3 * len(rows)), 2.1 * len(metrics) + 0.7)
        fig, grid = plt.subplots(
            len(metrics), len(rows), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
        )
        fig.suptitle(title, x=0.01, ha="left", fontsize=10)
        for i, metric in enumerate(metrics):
            for j, row in enumerate(rows):
                _panel(grid[i, j], frame[frame["metric"] == metric], row)
                grid[i, j].set_title(_wrapped(names[row]) if i == 0 else "", fontsize=8)
                grid[i, j].set_xlabel("network calls" if i == len(metrics) - 1 else "")
            grid[i, 0].set_ylabel(METRICS[metric][0])
        drawn = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid[0]]
        lines = {label: handle for panel in drawn for handle, label in panel}
        fig.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 7), fontsize=8)
    return fig


def _panel(axes: Axes, frame: pd.DataFrame, row: res.Row) -> None:
    limits = sorted(frame["calls"].unique())
    for k, sampler in enumerate(dict.fromkeys(frame["sampler"])):
        mine = _of(frame, row, sampler)
        if mine.empty:
            continue
        means = mine.groupby("nfe")[["value", "ci_low", "ci_high"]].mean()
        color = PALETTE[k % len(PALETTE)]
        marker = _MARKERS[k % len(_MARKERS)]
        axes.plot(means.index, means["value"], label=sampler, linewidth=1.2, color=color, marker=marker, markersize=3)
        if mine["seed"].nunique() == 1:
            axes.fill_between(means.index, means["ci_low"], means["ci_high"], color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(limits, [str(c) for c in limits])


def _wrapped(label: str) -> str:
    return label.replace(", ", ",\n")
