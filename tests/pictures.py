"""Small drawn faces with their sketches, as bytes and in the files that people keep them in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def face(number: int, side: int = 64) -> tuple[Image.Image, Image.Image]:
    """A coloured face and its line drawing."""
    colours = np.random.default_rng(number).integers(60, 220, (2, 3)).tolist()
    image, lines = Image.new("RGB", (side, side), (*colours[0][:2], 20)), Image.new("RGB", (side, side), "white")
    for canvas, skin in ((image, (250, 200 - number, 150)), (lines, None)):
        pen = ImageDraw.Draw(canvas)
        pen.ellipse((10 + number // 7, 8, 54, 58 - number % 7), fill=skin, outline="black", width=2)
        pen.ellipse((20, 25, 27, 35), fill=skin and tuple(colours[1]), outline="black")
    return image, lines


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def faces(*numbers: int) -> list[bytes]:
    return [png(face(n)[0]) for n in numbers]


def sketches(*numbers: int) -> list[bytes]:
    return [png(face(n)[1]) for n in numbers]


def beside(first: Image.Image, second: Image.Image, wide: bool = True) -> bytes:
    """Two squares as one picture."""
    side = first.width
    both = Image.new("RGB", (2 * side, side) if wide else (side, 2 * side))
    both.paste(first, (0, 0))
    both.paste(second, (side, 0) if wide else (0, side))
    return png(both)


def fill(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
