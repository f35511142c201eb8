"""The lines of a drawing, whatever drawing it is: soft pencil, a shadowed scan, coloured, negative, transparent.

What is ink is decided from the lines themselves: by how much darker they are than the paper around them, and whether
they are thin. No share of the picture is expected to be ink, so that a drawing and a part cut out of it are read alike.
All of it is linear in the pixels, and uint8 or float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

LINES = ("auto", "as-is", "clean", "invert")
_BLOCKS = 40  # of the paper's level, along the longer side
_FILL = 0.35  # of the paper's level: what is darker over a whole block is a black area, no shadow
_LEAST = 0.07  # darker than the paper, as a share of it: what is less is no ink
_NOISE = 5.0  # standard deviations
_THIN = 64  # lines are thinner than this share of the longer side
_NEAR = 48  # strokes within this share of it are compared with each other
_DETAIL = 1024  # pixels along the longer side that decide whether lines are dark or light
_DOUBT = (0.15, 0.85)  # shares of light pixels between which black areas may outweigh the paper
_PALE, _WIDTH = 0.5, 0.7  # pixels of the network's square: lines thinner than the first, and what they are shown as


class Blank(Exception):  # noqa: N818 - says what a picture is
    """No line is to be seen."""


@dataclass(frozen=True)
class Drawing:
    """A sketch and its ink."""

    colours: np.ndarray
    """(H, W, 3) uint8: as drawn, on white paper."""
    lines: np.ndarray
    """(H, W) uint8: black on white."""
    width: float
    """Of its lines, pixels; infinite where they are to be shown as they are."""

    def seen(self, square: np.ndarray, size: int) -> np.ndarray:
        """The shrunk drawing (size, size) uint8 as a network should see it.

        Lines that shrinking has made much thinner than those of the training, and so pale, are shown as dark as those:
        XDoG's at twice the network's size are 0.6 to 1 pixel wide, 0.7 on average.
        """
        small = self.width * size / max(self.lines.shape)
        if small >= _PALE:
            return square
        return 255 - np.clip(np.rint(_WIDTH / small * (255.0 - square)), 0, 255).astype(np.uint8)


def read(colours: np.ndarray, alpha: np.ndarray | None, how: str = "auto") -> Drawing:
    """The ink of a picture.

    Args:
        colours: (H, W, 3) uint8, on white paper.
        alpha: (H, W) uint8, or None where all is opaque.
        how: of `LINES`. "clean" takes lines for darker than the paper, "invert" for lighter; "auto" finds out, and
            leaves a clean drawing alone; "as-is" takes grey as it is.

    Raises:
        Blank: no line is to be seen.
    """
    if how == "as-is":
        grey = np.asarray(Image.fromarray(colours).convert("L"))
        if grey.min() == grey.max():
            raise Blank
        return Drawing(colours, grey, np.inf)
    if alpha is not None and drawn_in_alpha(colours, alpha):
        colours = np.repeat(255 - alpha[..., None], 3, axis=2)
    light = how == "invert" or (how == "auto" and light_on_dark(colours))
    if light:
        colours = 255 - colours
    if how == "auto" and (grey := clean_already(colours)) is not None:
        return Drawing(colours, grey, width(grey < 128))
    lines = cleaned(_channels(np.minimum, colours))
    return Drawing(colours, lines, width(lines < 128))


def drawn_in_alpha(colours: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether the lines are light ones on transparent paper: on white they are gone, or nearly."""
    if (share := float((alpha > 127).mean())) > 0.5 or not share:
        return False
    return float((colours[alpha > 127].min(axis=1) > 200).mean()) > 0.5


def light_on_dark(colours: np.ndarray) -> bool:
    """Whether lines are lighter than the paper.

    Nearly all of most drawings is paper. Where black areas leave that in doubt, thin things are counted, dark and light
    ones, where each is best seen, in the darkest and in the lightest channel, and shrunk so that none is lost.
    """
    dark, light = _shrunk(255 - _channels(np.minimum, colours)), _shrunk(_channels(np.maximum, colours))
    middle = (float(light.max()) + 255 - float(dark.max())) / 2
    times = -(-max(colours.shape) // _DETAIL)
    share = float((colours[::times, ::times].mean(axis=2) >= middle).mean())
    if not _DOUBT[0] <= share <= _DOUBT[1]:
        return share < _DOUBT[0]
    found = [_thin(one) for one in (dark, light)]
    level = max(int(np.percentile(one, 99.9)) for one in found) / 2
    dark_lines, light_lines = (int((one > level).sum()) for one in found)
    return light_lines > dark_lines


def _channels(pick: np.ufunc, colours: np.ndarray) -> np.ndarray:
    """(H, W) uint8: of each pixel the channel that is picked; several times faster than a reduction of three."""
    return pick(pick(colours[..., 0], colours[..., 1]), colours[..., 2])


def _shrunk(strength: np.ndarray) -> np.ndarray:
    """(H, W) uint8 → at most `_DETAIL` pixels long, each the maximum of its block."""
    times = -(-max(strength.shape) // _DETAIL)
    if times == 1:
        return strength
    padded = np.pad(strength, [(0, -side % times) for side in strength.shape], mode="edge")
    return padded.reshape(padded.shape[0] // times, times, -1, times).max(axis=(1, 3))


def _thin(strength: np.ndarray) -> np.ndarray:
    """What of (H, W) uint8 is higher than the highest level that a window of `_THIN` finds everywhere around."""
    window = max(5, max(strength.shape) // _THIN | 1)
    return strength - ndimage.grey_opening(strength, size=tuple(min(window, side) for side in strength.shape))


def clean_already(colours: np.ndarray) -> np.ndarray | None:
    """(H, W) uint8 of black lines on white paper, as they are; None of any other drawing."""
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    counts = np.bincount(grey.ravel(), minlength=256) / grey.size
    black, between, white = (float(counts[levels].sum()) for levels in (np.s_[:64], np.s_[64:192], np.s_[250:]))
    if not black or not white or white < 0.98 * counts[192:].sum() or between > 0.5:
        return None
    ink = grey < 128
    if np.percentile(grey[ink], 25) > 16 or np.ptp(colours[ink], axis=1).mean() > 16:
        return None
    return grey


def cleaned(value: np.ndarray) -> np.ndarray:
    """(H, W) uint8, ink darker than paper, uneven and noisy → (H, W) uint8: black lines on white paper.

    Raises:
        Blank: nothing is clearly darker than the paper.
    """
    paper = _paper(value)
    dark = np.clip(255 * (1 - value / paper), 0, 255).astype(np.uint8)
    thin = _thin(dark)
    noise = (
        1.4826 * float(np.median(np.abs(thin[thin < 128].astype(np.float32) - np.median(thin)))) if thin.any() else 0
    )
    least = max(255 * _LEAST, _NOISE * noise)
    lines = thin[thin > least]
    if not lines.size:
        raise Blank
    level = _level(thin, max(least, 0.25 * float(np.percentile(lines, 85))))
    found = _hysteresis(dark, np.maximum(least, 0.35 * level), np.maximum(least, 0.55 * level))
    if not found.any():
        raise Blank
    edge = ndimage.binary_dilation(found, np.ones((3, 3)))
    stretched = np.clip(255 - (dark - np.float32(least / 2)) * (255 / (0.85 * level - least / 2)), 0, 255)
    return np.where(edge, stretched, 255).astype(np.uint8)


def _level(thin: np.ndarray, least: float) -> np.ndarray:
    """(H, W) float32: how dark lines are around each place, `least` where there are none."""
    reach = max(9, max(thin.shape) // _NEAR)
    highest = ndimage.maximum_filter(thin, size=reach)
    return np.maximum(ndimage.uniform_filter(highest.astype(np.float32), size=reach // 2), least)


def _paper(value: np.ndarray) -> np.ndarray:
    """(H, W) float32: the level of the paper, by blocks; beneath black areas as it is around them."""
    side = max(8, max(value.shape) // _BLOCKS)
    padded = np.pad(value, [(0, -length % side) for length in value.shape], mode="symmetric")
    blocks = padded.reshape(padded.shape[0] // side, side, -1, side).swapaxes(1, 2)
    level = np.percentile(blocks.reshape(*blocks.shape[:2], -1), 80, axis=2).astype(np.float32)
    known = level > _FILL * np.percentile(level, 95)
    level = ndimage.median_filter(np.where(known, level, np.percentile(level, 95)), 3)
    reach, known = 1.0, known.astype(np.float32)
    shares = ndimage.gaussian_filter(known, reach)
    smooth = ndimage.gaussian_filter(level * known, reach) / np.maximum(shares, 1e-6)
    unknown = shares < 1e-3
    if unknown.any():
        nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
        smooth = smooth[tuple(nearest)]
    large = Image.fromarray(smooth).resize((padded.shape[1], padded.shape[0]), Image.Resampling.BILINEAR)
    return np.maximum(np.asarray(large)[: value.shape[0], : value.shape[1]], 1)


def _hysteresis(dark: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What is above `low` and hangs together with something above `high`, specks left out."""
    parts, count = ndimage.label(dark > low, np.ones((3, 3)))
    if not count:
        return parts > 0
    strong = np.zeros(count + 1, bool)
    strong[np.unique(parts[dark > high])] = True
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    strong &= sizes >= 6
    strong[0] = False
    return strong[parts]


def width(ink: np.ndarray) -> float:
    """Of the lines of (H, W) bool, pixels: twice their area by the length of their rims; black areas left out."""
    window = max(5, max(ink.shape) // _THIN | 1)
    thick = ndimage.grey_opening(ink.view(np.uint8), size=tuple(min(window, side) for side in ink.shape)).view(bool)
    lines = ink & ~ndimage.maximum_filter(thick, 3) if thick.any() else ink
    lines = lines if lines.any() else ink
    # Steps between pixels are longer than the slanting rims that they follow, by 4/pi on average.
    steps = sum(int((np.diff(lines, axis=axis)).sum()) for axis in (0, 1))
    return max(1.0, 2 * int(lines.sum()) / (np.pi / 4 * steps)) if steps else np.inf
