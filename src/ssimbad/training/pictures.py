"""Pictures side by side as one image, pixels untouched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GAP = 0.04
"""White between two pictures, as a share of a picture."""


def pitch(side: int) -> int:
    """Pixels from one picture to the next."""
    return side + max(1, round(GAP * side))


def tiled(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of pictures on white: each (K, S, S, 3) or (K, S, S) uint8, with the same K and S → (H, W, 3) uint8."""
    count, side = rows[0].shape[:2]
    step = pitch(side)
    canvas = np.full((step * len(rows) - (step - side), step * count - (step - side), 3), 255, np.uint8)
    for i, images in enumerate(rows):
        color = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
        for j, image in enumerate(color):
            canvas[i * step : i * step + side, j * step : j * step + side] = image
    return canvas
