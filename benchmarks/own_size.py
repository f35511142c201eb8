"""Answers at the sketch's own size against the plain answer enlarged, on the test faces at their native size.

    python benchmarks/own_size.py --weights models/ssimbad/finetune/seed-0.safetensors [--faces 64]

wants data/ as `snakemake references sketches` leaves it. PSNR: mean over faces, references same. Across lines: where a
line parts two colours of the true face (six pixels apart, CIEDE2000 above 15), the mean distance of the two as
answered; the truth's own shows what there is to keep. Beside lines: CIEDE2000 to the true face within two pixels of a
line, on paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab
from tabulate import tabulate

from ssimbad.colorize.painter import Painter
from ssimbad.errors import in_one_line

_ACROSS = 6  # pixels from side to side


def sides(ink: np.ndarray) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray]]:
    """Two shifted views, and where in them paper lies on both sides of a line: along rows, then along columns."""
    for axis in (0, 1):
        one, two = [slice(None)] * 2, [slice(None)] * 2
        one[axis], two[axis] = slice(0, -_ACROSS), slice(_ACROSS, None)
        middle = [slice(None)] * 2
        middle[axis] = slice(_ACROSS // 2, -_ACROSS // 2)
        paper = ~ink
        yield tuple(one), tuple(two), paper[tuple(one)] & paper[tuple(two)] & ink[tuple(middle)]


def across(lab: np.ndarray, true: np.ndarray, ink: np.ndarray) -> list[float]:
    """Distances of (H, W, 3) Lab across lines that part two colours of the true face."""
    found = []
    for one, two, where in sides(ink):
        apart = where & (deltaE_ciede2000(true[one], true[two]) > 15)
        found += deltaE_ciede2000(lab[one], lab[two])[apart].tolist()
    return found


def measured(name: str, pictures: list[np.ndarray], faces: np.ndarray, sketches: np.ndarray) -> list[object]:
    """A row of the table."""
    psnr, apart, beside = [], [], []
    for picture, face, sketch in zip(pictures, faces, sketches, strict=True):
        error = np.mean((picture.astype(np.float64) - face) ** 2)
        psnr.append(10 * np.log10(255**2 / error) if error else np.inf)
        lab, true, ink = rgb2lab(picture), rgb2lab(face), sketch < 128
        apart += across(lab, true, ink)
        near = ndimage.binary_dilation(ink, iterations=2) & ~ink
        beside += deltaE_ciede2000(lab, true)[near].tolist()
    return [name, np.mean(psnr), np.mean(apart), np.mean(beside)]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--faces", type=int, default=64)
    asked = arguments.parse_args()
    painter = Painter(asked.weights)
    stored = [
        np.load(asked.data / f"{name}.npy")[: asked.faces]
        for name in ("faces/test", "sketches/test", "references/same")
    ]
    faces, sketches, references = stored
    answers = [
        painter.colour(sketch, reference, fit="sketch") for sketch, reference in zip(sketches, references, strict=True)
    ]
    enlarged = [
        np.asarray(Image.fromarray(answer.small).resize(sketch.shape[::-1], Image.Resampling.BICUBIC))
        for answer, sketch in zip(answers, sketches, strict=True)
    ]
    laid = [
        np.rint(picture * (sketch[..., None] / 255)).astype(np.uint8)
        for picture, sketch in zip(enlarged, sketches, strict=True)
    ]
    rows = [
        ("the true face", list(faces)),
        ("plain answer, bicubic", enlarged),
        ("lines multiplied over it", laid),
        ("fit sketch", [answer.image for answer in answers]),
    ]
    table = [measured(name, pictures, faces, sketches) for name, pictures in rows]
    print(tabulate(table, ["", "PSNR, dB", "across lines", "beside lines"], floatfmt=".2f"))


if __name__ == "__main__":
    with in_one_line("own_size.py"):
        main()
