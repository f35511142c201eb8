"""The lines of a drawing, whatever kind of drawing it is."""

from __future__ import annotations

import numpy as np
from PIL import Image

_BLANK = 250


def dark_on_white(colours: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 on white paper, (H, W) uint8 alpha → (H, W) uint8: paper at 255, the darkest lines at 0.

    A mostly dark picture is taken for a negative and inverted. Pencil grey is stretched to black, since the networks
    have learnt from black lines.
    """
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    if grey.min() > _BLANK:  # white lines on transparent paper are gone on white
        grey = 255 - alpha if alpha is not None and alpha.max() > alpha.min() else grey
    if np.median(grey) < 128:
        grey = 255 - grey
    paper, ink = float(np.median(grey)), float(np.percentile(grey, 0.5))
    if paper - ink < 1:
        return np.full_like(grey, 255)
    return np.clip(np.rint((grey - ink) / (paper - ink) * 255), 0, 255).astype(np.uint8)
