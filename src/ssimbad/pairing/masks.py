"""Where the figure is: masks by rule, for pictures of which nobody knows it.

Two rules of our own, both (H, W[, 3]) uint8 → (H, W) uint8, 255 = figure, soft at its edge. Background is what hangs
together with the border of the picture, its bottom excepted, where figures are cut off: in a colour picture by its
colour, in a sketch by paper without a line between. A segmentation network would be a third function of this form.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_SAME, _OTHER = 12.0, 48.0
"""Distances from the background's colour, largest channel of 255: up to the first all background, from the second on
all figure."""
_PAPER = 200
_GAP = 1 / 64
"""Gaps of lines up to twice this share of the sketch's side count as closed."""


def of_face(picture: np.ndarray) -> np.ndarray:
    """By the distance from the border's median colour: for pictures before one flat colour, or nearly so."""
    background = np.median(_border(picture), axis=0)
    distance = np.abs(picture.astype(np.float32) - background).max(axis=-1)
    figure = np.clip((distance - _SAME) / (_OTHER - _SAME), 0, 1)
    outside = ndimage.binary_dilation(_from_border(figure < 0.5), iterations=1)
    return _bytes(np.where(outside, figure, 1.0))


def of_sketch(sheet: np.ndarray) -> np.ndarray:
    """By flooding the paper from the border, gaps of lines closed: all paper that is reached is background."""
    width = max(1, round(_GAP * max(sheet.shape)))
    free = ndimage.distance_transform_cdt(sheet >= _PAPER, metric="chessboard") > width
    flooded = ndimage.distance_transform_cdt(~_from_border(_open_border(free, sheet >= _PAPER)), metric="chessboard")
    outside = (flooded <= width) & (sheet >= _PAPER)
    return _bytes(ndimage.uniform_filter((~outside).astype(np.float32), 3))


def _open_border(free: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """What is free, and the paper of the border itself, whose distance to lines says nothing of gaps."""
    opened = free.copy()
    for edge in (np.s_[0], np.s_[:, 0], np.s_[:, -1]):
        opened[edge] |= paper[edge]
    return opened


def _border(picture: np.ndarray) -> np.ndarray:
    """(n, 3): the pixels of the upper, left and right edge."""
    return np.concatenate([picture[0], picture[:, 0], picture[:, -1]])


def _from_border(open_: np.ndarray) -> np.ndarray:
    """Of (H, W) bool the parts that hang together with the upper, left or right edge."""
    parts, _ = ndimage.label(open_)
    reached = np.unique(np.concatenate([parts[0], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, reached[reached > 0])


def _bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * share).astype(np.uint8)
