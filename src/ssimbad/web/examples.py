"""Pictures to begin with, drawn here: line drawings of embedded faces, and others in whose colours they may be."""

from __future__ import annotations

import io
import threading
from functools import cache
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ssimbad.artifacts import png_bytes
from ssimbad.faces import embedded
from ssimbad.pairing import xdog

COUNT = 4
KINDS = ("sketch", "reference")
STYLE = "adventurer"
_SIDE = 256
SEED = 9
"""Another than any training's. Chosen by eye among eight, of whose 32 examples the weights that come along colour two
with clouds at the eyes or under a fringe."""
_ONE = threading.Lock()
_LINES = SimpleNamespace(sigmas=[0.8], k=3.5, p=10.0, epsilon=0.01, phi=1.0e9)


def picture(number: int, kind: str) -> bytes:
    """A PNG of `_SIDE` pixels: the sketch, or the reference, of example `number`."""
    with _ONE:  # a browser asks for all at once, and the style is read once for all
        face = _face(number if kind == "sketch" else number + COUNT)
    return png_bytes(xdog.sketch(face[None], np.array(_LINES.sigmas), _LINES)[0] if kind == "sketch" else face)


@cache
def _face(number: int) -> np.ndarray:
    """(_SIDE, _SIDE, 3) uint8."""
    shape, palette = list(embedded.draw_faces(embedded.face_ids(2 * COUNT), STYLE, SEED).values())[number]
    with Image.open(io.BytesIO(embedded.render(STYLE, shape, palette, _SIDE))) as image:
        return np.asarray(image.convert("RGB"))
