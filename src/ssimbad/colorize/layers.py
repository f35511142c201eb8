"""A small answer at the sketch's own size: colours that end at the lines, and the sketch's own lines above them.

The network draws lines of its own, as wide as its pixels. Colours come therefore from beside the lines, are spread to
where its lines were, and do not cross the sketch's. Work and memory grow with the sketch's pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from ssimbad.colorize.ink import Drawing

_TRUST = 4.0  # power of the share of paper by which a pixel of the small answer counts
_BESIDE = 0.6  # of a line's darkness, in the pixels next to it: the network's lines are no sharper
_SMOOTH = 0.6  # standard deviation of the filter, pixels of the small answer
_ROUNDS = 3
_WALL = 8.0  # of the logarithm of what passes a pixel that is all ink
_NOTHING = 1e-12
_LINE = 128  # a level of the lines below which they close an area


def colour_layer(small: np.ndarray, seen: np.ndarray, drawing: Drawing) -> np.ndarray:
    """Enlarged along the sketch's lines.

    Every pixel is the weighted mean of the small answer around it, where a way across ink counts for nothing: a
    normalised convolution (Knutsson & Westin 1993) by the recursive filter of the domain transform (Gastal & Oliveira
    2011), whose distance between neighbours is the ink between them. What ink encloses wholly takes the nearest colour.

    Args:
        small: (h, w, 3) uint8, what of the network's answer the sketch fills.
        seen: (h, w) uint8, the drawing there as the network saw it.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = drawing.lines.shape
    ink = 1 - drawing.lines.astype(np.float32) / 255
    lines = 1 - seen.astype(np.float32) / 255
    lines = np.maximum(lines, _BESIDE * ndimage.maximum_filter(lines, 3))
    trust = np.maximum(1 - lines, 1e-3) ** _TRUST
    stack = np.empty((4, height, width), np.float32)
    for plane, values in zip(stack, (*(small.transpose(2, 0, 1) * trust), trust), strict=True):
        large = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        plane[:] = np.asarray(large) * (1 - ink) ** 2
    stack = _smoothed(stack, ink, _SMOOTH * max(height / small.shape[0], width / small.shape[1]))
    colours = np.clip(np.rint(stack[:3] / np.maximum(stack[3], _NOTHING)), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    lost = stack[3] <= _NOTHING
    if lost.any() and not lost.all():
        colours = colours[tuple(ndimage.distance_transform_edt(lost, return_distances=False, return_indices=True))]
    return np.ascontiguousarray(colours)


def _smoothed(stack: np.ndarray, ink: np.ndarray, sigma: float) -> np.ndarray:
    """(C, H, W) float32, smoothed along rows and columns in turn; overwrites its argument."""
    for i in range(_ROUNDS):
        one = sigma * np.sqrt(3) * 2 ** (_ROUNDS - i - 1) / np.sqrt(4**_ROUNDS - 1)
        for _ in range(2):
            passing = np.exp(-np.sqrt(2) / one - _WALL * np.maximum(ink[1:], ink[:-1]))
            for y in range(1, stack.shape[1]):
                stack[:, y] += passing[y - 1] * (stack[:, y - 1] - stack[:, y])
            for y in range(stack.shape[1] - 2, -1, -1):
                stack[:, y] += passing[y] * (stack[:, y + 1] - stack[:, y])
            stack, ink = np.ascontiguousarray(stack.transpose(0, 2, 1)), np.ascontiguousarray(ink.T)
    return stack


def composed(layer: np.ndarray, drawing: Drawing) -> np.ndarray:
    """(H, W, 3) uint8: the colour layer, and the sketch's lines above it.

    A pixel that is all ink is the sketch's own; one that is all paper is the layer's; between them the paper's share of
    the sketch gives way to the layer: s + (1 - ink)·(layer - paper), the paper being the lightest colour close by.
    """
    out = np.where((drawing.lines == 0)[..., None], drawing.colours, layer)
    mixed, share, paper = _mixed(drawing)
    if mixed.any():
        colours = drawing.colours[mixed] + share * (layer[mixed].astype(np.float32) - paper)
        out[mixed] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return out


def _mixed(drawing: Drawing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels are ink and paper, (H, W) bool; of these M the paper's share, (M, 1) float32, and colour, (M, 3)."""
    mixed = (drawing.lines > 0) & (drawing.lines < 255)
    reach = 2 * int(min(np.ceil(drawing.width), 8)) + 3 if np.isfinite(drawing.width) else 9
    share = (drawing.lines[mixed] / np.float32(255))[:, None]
    if not len(share):
        return mixed, share, np.empty((0, 3), np.uint8)
    paper = np.stack([ndimage.maximum_filter(drawing.colours[..., c], reach)[mixed] for c in range(3)], axis=1)
    return mixed, share, paper


def line_layer(drawing: Drawing) -> np.ndarray:
    """(H, W, 4) uint8: the sketch's lines alone, which over a colour layer give `composed`.

    Alpha is the share of ink; the colour of a pixel that is ink and paper is that of its ink.
    """
    out = np.concatenate([drawing.colours, 255 - drawing.lines[..., None]], axis=2)
    mixed, share, paper = _mixed(drawing)
    ink = (drawing.colours[mixed] - share * paper) / (1 - share)
    out[mixed, :3] = np.clip(np.rint(ink), 0, 255).astype(np.uint8)
    return out


def flat(layer: np.ndarray, drawing: Drawing) -> np.ndarray:
    """(H, W, 3) uint8: every area that the lines close in its one colour, the median of the colour layer in it.

    Areas are 4-connected, so that a line one pixel wide closes them; what is under the lines belongs to the nearest.
    """
    areas, count = ndimage.label(drawing.lines >= _LINE)
    if not count:
        return layer
    index = np.arange(1, count + 1)
    medians = np.stack([ndimage.median(layer[..., c], areas, index) for c in range(3)], axis=1)
    nearest = ndimage.distance_transform_edt(areas == 0, return_distances=False, return_indices=True)
    return np.rint(medians).astype(np.uint8)[areas[tuple(nearest)] - 1]


def transparent(layer: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W, 4) uint8, opaque everywhere: a layer to lie under the lines."""
    return np.concatenate([layer, np.full((*layer.shape[:2], 1), 255, np.uint8)], axis=2)
