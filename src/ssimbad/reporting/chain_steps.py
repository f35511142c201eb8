"""Stage chain_steps: refinement through chains of different lengths at equal training compute, as a figure.

Each panel has a metric against the length of the chain; rows that are no part of the comparison are level lines.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssimbad.errors import UserError
from ssimbad.params.tree import Params
from ssimbad.reporting import results as res
from ssimbad.reporting.results import METRICS
from ssimbad.reporting.style import PALETTE, save, styled
from ssimbad.runtime.job import Job

_WORDS = {"same": "same reference", "cross": "cross, published protocol", "cross-true": "cross, true answer"}


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Draw chain_steps (PNG, PDF) from compute (.csv). Parameters: report.chain_steps, preset, data.size, labels.

    Raises:
        UserError: the table has no row of a method that report.chain_steps names.
    """
    frame = pd.read_csv(inputs["compute"])
    frame = frame.dropna(subset="value")
    if lost := set(params.report.chain_steps) - set(frame["method"]):
        raise UserError(f"{inputs['compute']}: no values of {min(lost)}; run the stage compute again")
    rows = list(dict.fromkeys(zip(frame["method"], frame["stage"], strict=True)))
    names = res.labels(rows, params.methods)
    note = res.scale_note(params.preset, params.data.size, int(frame["n"].max()))
    save(_figure(frame, params.report.chain_steps, names, note), outputs["chain_steps_png"], outputs["chain_steps_pdf"])
    job.say(f"chain_steps: {len(params.report.chain_steps)} lengths -> {outputs['chain_steps_png']}")


def _figure(frame: pd.DataFrame, compared: list[str], names: dict[res.Row, str], note: str) -> Figure:
    metrics = [m for m in METRICS if (frame["metric"] == m).any()]
    settings = [s for s in _WORDS if (frame["setting"] == s).any()]
    with styled():
        size = (3.0 * len(settings), 2.3 * len(metrics) + 0.9)
        fig, grid = plt.subplots(len(metrics), len(settings), figsize=size, squeeze=False, layout="constrained")
        fig.suptitle(f"Refinement through chains of different lengths at equal training compute\n({note})", fontsize=10)
        for i, metric in enumerate(metrics):
            for j, setting in enumerate(settings):
                here = frame[(frame["metric"] == metric) & (frame["setting"] == setting)]
                _panel(grid[i, j], here, compared, names)
                grid[i, j].set_title(_WORDS[setting] if i == 0 else "", fontsize=9)
                grid[i, j].set_xlabel("network calls in the chain" if i == len(metrics) - 1 else "")
            grid[i, 0].set_ylabel(" ".join(METRICS[metric][::2]))
        handles, labels = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return fig


def _panel(axes: Axes, here: pd.DataFrame, compared: list[str], names: dict[res.Row, str]) -> None:
    curve = here[here["method"].isin(compared) & (here["stage"] == "finetune")].sort_values("chain")
    spread = [curve["value"] - curve["ci_low"], curve["ci_high"] - curve["value"]]
    axes.errorbar(
        curve["chain"], curve["value"], yerr=spread, label="refined through the chain", color=PALETTE[0], marker="o",
        markersize=4, linewidth=1.2, capsize=2,
    )  # fmt: skip
    others = here.drop(curve.index)
    for k, line in enumerate(others.to_dict("records")):
        color, style = PALETTE[1 + k % (len(PALETTE) - 1)], ("--", "-.", ":")[k % 3]
        label = names[line["method"], line["stage"]]
        axes.axhline(line["value"], color=color, linestyle=style, label=label, linewidth=1.2)
        axes.axhspan(line["ci_low"], line["ci_high"], color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(curve["chain"].unique()), [str(c) for c in sorted(curve["chain"].unique())])
