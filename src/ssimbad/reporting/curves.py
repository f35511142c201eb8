"""Training curves: loss, loss per noise level, validation PSNR; a line of panels per row of the main table."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ssimbad.reporting.style import PALETTE, styled

_TITLE_WIDTH = 38
"""Characters of a row's title in a line."""

_MEASURES = {"psnr": "validation PSNR (dB)", "score": "validation, its own score"}
"""By what weights are chosen: the coloured faces, or what a training without a row measures."""

SPAN = 7
"""Rows of the curve file in the centred mean that is drawn: a trailing one would lag behind the loss. Of few rows there
is none: it would be a flat line through a loss that falls."""


def training_curves(title: str, curves: list[tuple[str, list[pd.DataFrame]]]) -> Figure:
    """One figure.

    Args:
        title: above the panels.
        curves: (label, one frame per seed); a frame has columns images, split, name, value.

    Returns:
        The figure, for `style.save`.
    """
    panels = [_loss, _buckets]
    if any(frame["name"].isin(_MEASURES).any() for _, frames in curves for frame in frames):
        panels.append(_validation)
    with styled():
        size = (max(6.2, 3.1 * len(panels)), 2.1 * len(curves) + 0.4)
        fig, grid = plt.subplots(
            len(curves), len(panels), figsize=size, squeeze=False, sharex="row", layout="constrained"
        )
        fig.suptitle(title, x=0.01, ha="left", fontsize=10)
        for i, (label, frames) in enumerate(curves):
            # Not over the next panel, where its legend is.
            grid[i, 0].set_title(textwrap.fill(label, _TITLE_WIDTH), fontsize=9, loc="left")
            for axes, panel in zip(grid[i], panels, strict=True):
                panel(axes, frames)
                axes.set_xlabel("images seen" if i == len(curves) - 1 else "")
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return fig


def _series(frame: pd.DataFrame, name: str, split: str) -> pd.Series:
    chosen = frame[(frame["name"] == name) & (frame["split"] == split)].dropna(subset="value")
    return chosen.set_index("images")["value"].sort_index()


def _smooth(series: pd.Series) -> pd.Series:
    return series if len(series) < 2 * SPAN else series.rolling(SPAN, center=True, min_periods=1).mean()


def _loss(axes: Axes, frames: list[pd.DataFrame]) -> None:
    for frame in frames:
        loss = _series(frame, "loss", "train")
        axes.plot(loss.index, loss, color=PALETTE[0], alpha=0.25, linewidth=0.8)
        axes.plot(loss.index, _smooth(loss), color=PALETTE[0], linewidth=1.4)
    axes.set_yscale("log")
    axes.set_ylabel("training loss")


def _buckets(axes: Axes, frames: list[pd.DataFrame]) -> None:
    names = sorted(
        {name for frame in frames for name in frame["name"] if name.startswith("loss_sigma_")},
        key=lambda name: int(name.rsplit("_", 1)[1]),
    )
    for frame in frames:
        for k, name in enumerate(names):
            smooth = _smooth(_series(frame, name, "train"))
            line = axes.plot(smooth.index, smooth, color=PALETTE[k % len(PALETTE)], linewidth=1.2)[0]
            if frame is frames[0]:
                line.set_label(_bucket_label(k, len(names)))
    axes.set_ylabel("loss per σ bucket")
    if names:
        axes.set_yscale("log")
        above = {"loc": "lower left", "bbox_to_anchor": (0, 0.98), "borderaxespad": 0}
        axes.legend(fontsize=6, ncols=len(names), handlelength=1, columnspacing=1, **above)
    else:
        _say(axes, "no σ buckets: loss of the final image")


def _bucket_label(k: int, count: int) -> str:
    return "lowest σ" if k == 0 else "highest σ" if k == count - 1 else str(k)


def _validation(axes: Axes, frames: list[pd.DataFrame]) -> None:
    drawn = [name for name in _MEASURES if any((frame["name"] == name).any() for frame in frames)]
    for frame in frames:
        for name in drawn:
            values = _series(frame, name, "val")
            axes.plot(values.index, values, color=PALETTE[2], marker="o", markersize=3)
    axes.set_ylabel(_MEASURES[drawn[0] if drawn else "psnr"])
    if not drawn:
        _say(axes, "not validated: last weights kept")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=7, color="0.4")
    axes.grid(False)
    axes.set_yticks([])
