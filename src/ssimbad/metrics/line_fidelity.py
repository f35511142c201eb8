"""Line fidelity: whether the answer has its lines where the given sketch has them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Lines, Metric
from ssimbad.pairing import resize, xdog


def line_fidelity(images: np.ndarray, lines: Lines) -> np.ndarray:
    """Soft Dice of two maps of ink per image: 2 Σ a·s / (Σ a² + Σ s²) (Milletari et al. 2016, eq. 2).

    One path leads to the ink of an answer: resized (bicubic) to the sketch's size, drawn by XDoG with the image's own
    sigma as the sketches themselves are drawn from the faces (pairing/xdog.py), reduced by area means to the answer's
    own size, ink = 1 - value / 255. The sketch, drawn or given, takes the last two steps. An answer that is smaller
    than the sketch has lost fine lines before it is looked at, and a given sketch is not XDoG's: so the true answer
    itself stays below 1, and its value is the measure of all others.

    Args:
        images: (N, H, W, 3) uint8; H, W whole fractions of the sketches' sides.

    Returns:
        (N,) float64 in [0, 1]: 1 for the same lines, also for none in both.
    """
    height, width = lines.sketches.shape[1:3]
    values = np.empty(len(images))
    for i, image in enumerate(images):
        large = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        drawn = xdog.sketch(large[None], lines.sigmas[i : i + 1], lines.config)[0]
        values[i] = _dice(*(_ink(sheet, image.shape[0]) for sheet in (drawn, np.asarray(lines.sketches[i]))))
    return values


def _ink(sheet: np.ndarray, side: int) -> np.ndarray:
    """(H, W) uint8, 255 = paper → ink in [0, 1] at the answer's size."""
    small = sheet if len(sheet) == side else resize.area(sheet[None], side)[0]
    return 1 - small / 255.0


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    whole = np.square(a).sum() + np.square(b).sum()
    return float(2 * (a * b).sum() / whole) if whole else 1.0


def _measured(given: Given) -> np.ndarray:
    return line_fidelity(given.images, there(given.lines))


METRIC = Metric(
    id="line_fidelity", label="Line fidelity", decimals=4, better="↑", function=_measured, needs=("lines",), place=60,
    note="Line fidelity: ink of the answer, drawn from it as the sketches are from the faces, against ink of the given"
    " sketch. The right answer's own value stands below the rule; a row above it has gained nothing.",
)  # fmt: skip
