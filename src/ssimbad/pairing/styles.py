"""Styles of line drawing: a sketch as other hands and programs would have drawn it.

Each is made from the stored sketch, whether XDoG drew it or it was given; widths grow with its side. Light to import:
parameters name the styles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ssimbad.seeding import derive

if TYPE_CHECKING:
    import numpy as np

_SIDE = 64  # pixels of the side for each pixel of a width
_GAPS = 0.25  # share of the sheet in which the pen was lifted
_PENCIL = (0.35, 0.85)  # darkness of soft strokes, from the lightest to the darkest


def plain(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As it is stored."""
    return sheet


def thick(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines wider on either side by half a pixel of 64."""
    import numpy as np
    from scipy import ndimage

    reach = max(1, round(len(sheet) / _SIDE / 2))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return ndimage.grey_erosion(sheet, footprint=rows**2 + columns**2 <= reach**2 + 0.5)


def thin(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The middle of every line, one pixel wide; what is black over an area keeps its middle alone."""
    import numpy as np

    return np.where(_middle(sheet), 0, 255).astype(np.uint8)


def broken(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines with gaps, so that they close no area."""
    import numpy as np

    field = _field(rng, len(sheet), len(sheet) / _SIDE)
    return np.where(field < np.quantile(field, _GAPS), 255, sheet).astype(np.uint8)


def grey(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft pencil: lines of uneven grey, a little blurred, with the grain of paper in them."""
    import numpy as np
    from scipy import ndimage

    low, high = _PENCIL
    press = low + (high - low) * (np.clip(_field(rng, len(sheet), len(sheet) / 16), -2, 2) + 2) / 4
    grain = 1 + 0.15 * rng.standard_normal(sheet.shape)
    soft = ndimage.gaussian_filter(1 - sheet / 255, len(sheet) / _SIDE / 4)
    return np.rint(255 * (1 - np.clip(soft * press * grain, 0, high))).astype(np.uint8)


def vector(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines of one width, smooth-edged, along the middle of those that are there, as a drawing program traces them."""
    import numpy as np
    from scipy import ndimage

    middle = _middle(sheet)
    if not middle.any():
        return sheet
    scale = len(sheet) / _SIDE
    away = ndimage.gaussian_filter(ndimage.distance_transform_edt(~middle), scale / 4)
    return np.rint(255 * np.clip(away - scale / 2 + 0.5, 0, 1)).astype(np.uint8)


STYLES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "xdog": plain, "thick": thick, "thin": thin, "broken": broken, "grey": grey, "vector": vector,
}  # fmt: skip


def drawn(sheets: np.ndarray, ids: Sequence[str], style: str, seed: int) -> np.ndarray:
    """(N, H, H) uint8, 255 = white paper, of the images `ids` → the same in a style.

    An image is the same whatever its company: its gaps and its grain come from (seed, style, id).
    """
    import numpy as np

    made = [
        STYLES[style](np.asarray(sheet), np.random.default_rng(derive(seed, "style", style, id_)))
        for sheet, id_ in zip(sheets, ids, strict=True)
    ]
    return np.stack(made) if made else np.empty(sheets.shape, np.uint8)


def _middle(sheet: np.ndarray) -> np.ndarray:
    """(H, H) bool (Zhang & Suen 1984)."""
    from skimage.morphology import skeletonize

    return skeletonize(sheet < 128)


def _field(rng: np.random.Generator, side: int, size: float) -> np.ndarray:
    """(side, side) float64, smooth over `size` pixels, of mean 0 and standard deviation 1."""
    from scipy import ndimage

    field = ndimage.gaussian_filter(rng.standard_normal((side, side)), size)
    return (field - field.mean()) / field.std()
