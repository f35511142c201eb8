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


def picture_grid(title: str, rows: list[tuple[str, np.ndarray]], columns: list[str]) -> Figure:
    """One figure.

    Args:
        title: above the grid.
        rows: (label, (K, S, S, 3) or (K, S, S) uint8), every row with the same K and S.
        columns: K names, printed small above the first row.

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
        for j, name in enumerate(columns):
            axes.text(j * step + side / 2, -0.04 * side, name, ha="center", va="bottom", fontsize=5, color="0.4")
        axes.text(0, -0.22 * side, title, ha="left", va="bottom", fontsize=10)
    return fig
