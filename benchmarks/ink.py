"""Ink found in made drawings that were spoilt in known ways: F1 against the true lines, within one pixel.

    python benchmarks/ink.py [--drawings 4] [--side 640] [--out FOLDER]

Each drawing is made of smooth strokes of one to five pixels, drawn at four times its side and averaged. A spoilt
drawing is read whole and cut down to half its sides. Precision: the share of found ink pixels that have a true one
within one pixel; recall: the share of true ones with a found one; true are those that strokes cover by half or more.
--out writes the pictures as they were given and as they were read.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from tabulate import tabulate

from ssimbad.colorize import ink

FINE = 4


def drawing(seed: int, side: int, widths: tuple[float, float] = (1.5, 4.5), hair: bool = False) -> np.ndarray:
    """(side, side) float32, the share of each pixel that is inked: a head, eyes, a mouth, strands of hair."""
    generator = np.random.default_rng(seed)
    sheet = Image.new("L", (side * FINE, side * FINE), 0)
    draw = ImageDraw.Draw(sheet)

    def stroke(points: np.ndarray) -> None:
        width = max(1, round(generator.uniform(*widths) * FINE))
        whole = [tuple(point) for point in points * side * FINE]
        draw.line(whole, fill=255, width=width, joint="curve")

    def arc(x: float, y: float, across: float, along: float, start: float = 0, end: float = 360) -> np.ndarray:
        angle = np.radians(np.linspace(start, end, 90))
        return np.stack([x + across * np.cos(angle), y + along * np.sin(angle)], axis=1)

    x, y = generator.uniform(0.45, 0.55, 2)
    if hair:
        box = np.array([x - 0.33, y - 0.4, x + 0.33, y + 0.1]) * side * FINE
        draw.pieslice(tuple(box), 180, 360, fill=255)
        draw.ellipse(tuple(np.array([x - 0.24, y - 0.2, x + 0.24, y + 0.3]) * side * FINE), fill=0)
    stroke(arc(x, y, 0.25, 0.32))
    for left in (-0.11, 0.11):
        for size in (0.06, 0.035):
            stroke(arc(x + left, y, size, size * 1.3))
        stroke(arc(x + left, y - 0.04, 0.08, 0.06, 200, 340))
    stroke(arc(x, y + 0.12, 0.07, 0.05, 10, 170))
    stroke(np.array([[x, y + 0.02], [x - 0.015, y + 0.07], [x + 0.005, y + 0.075]]))
    for _ in range(9):
        start, bend = generator.uniform(-0.3, 0.3, 2), generator.uniform(-0.1, 0.1, 2)
        t = np.linspace(0, 1, 60)[:, None]
        head, tip = np.array([x, y - 0.3]), np.array([x + start[0], y + start[1] * 0.8])
        stroke((1 - t) ** 2 * head + 2 * t * (1 - t) * ((head + tip) / 2 + bend) + t**2 * tip)
    covered = np.asarray(sheet, np.float32).reshape(side, FINE, side, FINE).mean(axis=(1, 3)) / 255
    return covered


def smooth(generator: np.random.Generator, side: int, size: float) -> np.ndarray:
    """(side, side) float32 of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(generator.standard_normal((side, side)).astype(np.float32), size)
    return field / field.std()


def grey(share: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] → (H, W, 3) uint8."""
    return np.repeat(np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """There and back."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def shade(generator: np.random.Generator, side: int) -> np.ndarray:
    """(side, side) light on a page: falling to a corner, with a soft shadow."""
    rows, columns = np.mgrid[:side, :side] / side
    light = 1 - 0.35 * (rows * generator.uniform(0.5, 1) + columns * generator.uniform(0.2, 0.8))
    return light - 0.25 / (1 + np.exp((columns - generator.uniform(0.3, 0.7)) * 25))


def scan(ink_: np.ndarray, black: float, generator: np.random.Generator) -> np.ndarray:
    """(H, W) share of light, with the noise of a sensor."""
    return shade(generator, len(ink_)) * (1 - black * ink_) + 0.015 * generator.standard_normal(ink_.shape)


def pencil(ink_: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Grey strokes that the grain of the paper breaks up."""
    side = len(ink_)
    soft = ndimage.gaussian_filter(ink_, 0.6) * (0.45 + 0.08 * smooth(generator, side, 1.5))
    return 0.96 - soft + 0.012 * generator.standard_normal((side, side))


def coloured(ink_: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.rint(255 - ink_[..., None] * (255 - np.array(colour))).astype(np.uint8)


def clear(ink_: np.ndarray, colour: int) -> np.ndarray:
    """(H, W, 4) uint8: ink of one grey on nothing."""
    sheet = np.full((*ink_.shape, 4), colour, np.uint8)
    sheet[..., 3] = np.rint(255 * ink_)
    return sheet


def uneven(ink_: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Strokes from a third of the pen's full black upwards, by place."""
    return 1 - ink_ * np.clip(0.6 + 0.3 * smooth(generator, len(ink_), len(ink_) / 12), 0.33, 1)


SPOILT = {
    "clean": lambda a, g: grey(1 - a),
    "thin on a large canvas": lambda a, g: grey(1 - a),
    "soft pencil": lambda a, g: grey(pencil(a, g)),
    "shadowed scan": lambda a, g: grey(scan(a, 0.85, g)),
    "JPEG, quality 15": lambda a, g: jpeg(grey(1 - a), 15),
    "blue lines": lambda a, g: coloured(a, (120, 180, 250)),
    "yellow lines": lambda a, g: coloured(a, (250, 220, 40)),
    "red lines, tinted paper": lambda a, g: np.minimum(coloured(a, (220, 60, 60)), (250, 240, 215)).astype(np.uint8),
    "black hair": lambda a, g: grey(1 - a),
    "black hair, shadowed scan": lambda a, g: grey(scan(a, 0.9, g)),
    "black hair, negative": lambda a, g: grey(a),
    "black hair, pencil": lambda a, g: grey(pencil(a, g) - 0.5 * (ndimage.uniform_filter(a, 15) > 0.99)),
    "pale and dark strokes": lambda a, g: grey(uneven(a, g) + 0.01 * g.standard_normal(a.shape)),
    "faint pencil, warm paper": lambda a, g: (grey(1 - (1 - pencil(a, g)) * 0.5) * [1, 0.95, 0.85]).astype(np.uint8),
    "negative": lambda a, g: grey(a),
    "chalk on a grey board": lambda a, g: grey(0.2 + 0.6 * a + 0.02 * g.standard_normal(a.shape)),
    "black on nothing": lambda a, g: clear(a, 0),
    "white on nothing": lambda a, g: clear(a, 255),
    "photo of pencil": lambda a, g: jpeg(grey(shade(g, len(a)) * pencil(a, g)), 40),
}  # fmt: skip
"""name → (ink (H, W) in [0, 1], generator) → (H, W, 3 or 4) uint8."""


def made(name: str, seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A spoilt drawing, and where its lines truly are: (H, W, 3 or 4) uint8, (H, W) bool."""
    generator = np.random.default_rng(seed)
    if name == "thin on a large canvas":
        small = drawing(seed, side // 2, (1.0, 2.0))
        share = np.pad(small, [(side, side), (side // 2, 2 * side - side // 2 - side // 2)])
    else:
        share = drawing(seed, side, hair="hair" in name)
    return SPOILT[name](share, generator), share >= 0.5


def part(array: np.ndarray, upper: bool) -> np.ndarray:
    """The half of each side in the middle, or above it, where hair is."""
    height, width = array.shape[:2]
    top = height // 10 if upper else height // 4
    return array[top : top + height // 2, width // 4 : width * 3 // 4]


def f1(found: np.ndarray, true: np.ndarray) -> float:
    """Within one pixel."""
    near = np.ones((3, 3))
    hits = (found & ndimage.binary_dilation(true, near)).sum() / max(1, found.sum())
    seen = (true & ndimage.binary_dilation(found, near)).sum() / max(1, true.sum())
    return float(2 * hits * seen / max(1e-9, hits + seen))


def read(picture: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the lines, as the painter finds them."""
    from ssimbad.colorize import pictures

    return ink.read(*pictures.read("sketch", picture)).lines


def score(name: str, seed: int, side: int, out: Path | None = None) -> tuple[float, float]:
    """F1 of a spoilt drawing whole and of a part."""
    picture, true = made(name, seed, side)
    found, hair = [], "hair" in name
    for which, given, wanted in (("whole", picture, true), ("part", part(picture, hair), part(true, hair))):
        try:
            lines = read(np.ascontiguousarray(given))
        except ink.Blank:
            lines = np.full(wanted.shape, 255, np.uint8)
        found.append(f1(lines < 128, wanted))
        if out and seed == 0:
            out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(given).save(out / f"{name}, {which}.png")
            Image.fromarray(lines).save(out / f"{name}, {which}, read.png")
    return found[0], found[1]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--drawings", type=int, default=4)
    arguments.add_argument("--side", type=int, default=640)
    arguments.add_argument("--out", type=Path)
    asked = arguments.parse_args()
    rows = []
    for name in SPOILT:
        scores = np.array([score(name, seed, asked.side, asked.out) for seed in range(asked.drawings)])
        rows.append([name, *scores.mean(axis=0), scores.min()])
    print(tabulate(rows, ["spoilt by", "whole", "part", "least"], floatfmt=".3f"))
