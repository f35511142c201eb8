"""Small drawn faces with their sketches, as bytes and in the files that people keep them in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


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


COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
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


def anime_face(number: int, side: int = 110) -> Image.Image:
    """One that the cascade for anime faces finds: large dark eyes with lights, a pointed chin, hair over the brow."""
    random, scale = np.random.default_rng(number), side / 100
    image = Image.new("RGB", (round(1.3 * side), round(1.3 * side)), (210, 220, 230))
    pen = ImageDraw.Draw(image)
    hair, iris = (tuple(random.integers(low, high, 3).tolist()) for low, high in ((40, 160), (20, 120)))

    def at(*numbers: float) -> list[float]:
        return [scale * (value + 15) for value in numbers]

    pen.ellipse(at(-5, -13, 105, 95), fill=hair)
    pen.polygon(at(12, 20, 88, 20, 90, 60, 72, 85, 50, 100, 28, 85, 10, 60), fill=(250, 225, 205))
    for left in (18, 58):
        low = 45 + int(random.integers(24, 34))
        pen.ellipse(at(left, 45, left + 24, low), fill="white")
        pen.ellipse(at(left + 3, 45, left + 21, low), fill=iris)
        pen.ellipse(at(left + 8, 52, left + 16, low - 4), fill=(10, 10, 20))
        pen.ellipse(at(left + 6, 48, left + 12, 55), fill="white")
        pen.line(at(left, 50, left + 12, 44, left + 24, 50), fill=(20, 10, 10), width=max(2, round(3 * scale)))
    pen.line(at(44, 90, 56, 90), fill=(150, 70, 70), width=2)
    pen.pieslice(at(-5, -15, 105, 80), 180, 360, fill=hair)
    for left in range(0, 100, 20):
        pen.polygon(at(left, 25, left + 20, 25, left + 10, int(random.integers(38, 50))), fill=hair)
    return image.filter(ImageFilter.GaussianBlur(0.8))


def called(folder: Path, names: list[str]) -> Path:
    """Files that hold their own names."""
    return fill(folder, {name: name.encode() for name in names})


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
