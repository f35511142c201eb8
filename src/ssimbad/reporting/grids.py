"""Picture grids: a column per test face, a row per image kind, pixels untouched."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ssimbad.reporting.style import styled
from ssimbad.training.pictures import pitch, tiled

CELL = 0.95
"""Inches per picture."""

LABEL_WIDTH = 18
"""Characters after which a row's label breaks."""


NAME_WIDTH = 23
"""Characters of a column's name that fit above a picture."""


def caption(name: str) -> str:
    """A column's name that does not run into the next: two names below each other, a long one without its middle."""
    if len(name) <= NAME_WIDTH:
        return name
    return "\n← ".join(_short(part, NAME_WIDTH - 3) for part in name.split(" ← "))


def _short(name: str, width: int) -> str:
    # Its end stays: it is what tells ids apart that begin alike.
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def picture_grid(title: str, rows: list[tuple[str, np.ndarray]], columns: list[str]) -> Figure:
    """One figure.

    Args:
        title: above the grid.
        rows: (label, (K, S, S, 3) or (K, S, S) uint8), every row with the same K and S.
        columns: K names, printed small above the first row, as `caption` has them.

    Returns:
        The figure, for `style.save`.
    """
    canvas = tiled([images for _, images in rows])
    height, width = canvas.shape[:2]
    side = rows[0][1].shape[1]
    step = pitch(side)
    scale = CELL / step
    with styled():
        fig = plt.figure(figsize=(width * scale, height * scale))
        axes = fig.add_axes((0, 0, 1, 1))
        # pixel edges at whole numbers: the labels' places need no half-pixel correction
        axes.imshow(canvas, interpolation="nearest", extent=(0, width, height, 0))
        axes.set_axis_off()
        for i, (label, _) in enumerate(rows):
            text = "\n".join(textwrap.wrap(label, LABEL_WIDTH))
            axes.text(-0.08 * side, i * step + side / 2, text, ha="right", va="center", fontsize=8)
        names = [caption(name) for name in columns]
        for j, name in enumerate(names):
            axes.text(j * step + side / 2, -0.04 * side, name, ha="center", va="bottom", fontsize=5, color="0.4")
        further = 0.1 if any("\n" in name for name in names) else 0
        axes.text(0, -(0.22 + further) * side, title, ha="left", va="bottom", fontsize=10)
    return fig
