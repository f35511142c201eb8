"""Pictures as they come, bytes or arrays, and as the network sees them: a square of its own size."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image
from torch import Tensor

from ssimbad.errors import UserError
from ssimbad.faces import reading
from ssimbad.pairing import resize

Picture = bytes | np.ndarray
"""A file's bytes, or (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8."""
MAX_PIXELS = 100_000_000
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Wrong(UserError):  # noqa: N818 - says which argument, as UserError says whose mistake
    """An argument that cannot be used: its name, its value where that fits a line, what is wrong and what to do.

    `code` is 1 for a picture, 2 for anything else; `number` says which of several pictures it is.
    """

    def __init__(self, argument: str, reason: str, value: object = None, code: int = 2, number: int = 0) -> None:
        self.argument, self.value, self.reason, self.number = argument, value, reason, number
        super().__init__(self.named(argument), code)

    def named(self, name: str) -> str:
        """The message, with the argument called otherwise."""
        return f"{name}{'' if self.value is None else f' {self.value}'}: {self.reason}"


def read(
    argument: str, picture: Picture, number: int = 0, most: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) uint8 on white paper, upright, and (H, W) uint8 alpha, None where all is opaque.

    Args:
        most: pixels.

    Raises:
        Wrong: of `argument`, when it is no picture, or one of more pixels.
    """
    if not isinstance(picture, np.ndarray):
        return _of_bytes(argument, picture, number, most)
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or channels not in (1, 3, 4) or not picture.size:
        raise Wrong(
            argument, f"(H, W), (H, W, 3) or (H, W, 4) uint8 expected, not {picture.shape} {picture.dtype}",
            code=1, number=number,
        )  # fmt: skip
    if picture.shape[0] * picture.shape[1] > most:
        raise Wrong(argument, f"too many pixels ({picture.shape[1]} × {picture.shape[0]})", code=1, number=number)
    if channels == 1:
        return np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2), None
    if channels == 3:
        return picture, None
    alpha = picture[..., 3]
    sheet = Image.new("RGBA", (picture.shape[1], picture.shape[0]), "white")
    on_white = Image.alpha_composite(sheet, Image.fromarray(np.ascontiguousarray(picture))).convert("RGB")
    return np.asarray(on_white), _varied(alpha)


def _of_bytes(argument: str, data: bytes, number: int, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    data = without_text(data)
    try:
        colours = np.asarray(reading.opaque(data, most))
        return colours, _varied(reading.transparency(data))
    except reading.Unreadable as error:
        known = ", ".join(reading.FORMATS)
        raise Wrong(argument, f"{error.reason}; give a picture in one of {known}", code=1, number=number) from None


def without_text(data: bytes) -> bytes:
    """A PNG without its texts, of which Pillow refuses long ones, though they are no part of the picture."""
    if not data.startswith(_SIGNATURE) or not any(kind in data for kind in _TEXT):
        return data
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind not in _TEXT:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _varied(alpha: np.ndarray | None) -> np.ndarray | None:
    return alpha if alpha is not None and alpha.min() < 255 else None


def frame(height: int, width: int, size: int) -> tuple[slice, slice]:
    """Rows and columns that a picture fills of the network's square, centred, its longer side the whole of it."""
    side = max(height, width)
    rows, columns = (max(1, round(length * size / side)) for length in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def to_square(array: np.ndarray, size: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 → (size, size[, 3]) uint8, antialiased.

    What the picture does not fill is white paper for a sketch, its own edge for a reference. It is shrunk before it is
    padded: a strip costs what its own pixels cost.
    """
    height, width = array.shape[:2]
    rows, columns = frame(height, width, size)
    # Area averaging when it shrinks, as in training.
    how = Image.Resampling.BOX if max(height, width) > size else Image.Resampling.BICUBIC
    small = Image.fromarray(array).resize((columns.stop - columns.start, rows.stop - rows.start), how)
    pads = [(rows.start, size - rows.stop), (columns.start, size - columns.stop)] + [(0, 0)] * (array.ndim - 2)
    if array.ndim == 2:
        return np.pad(np.asarray(small), pads, constant_values=255)
    return np.pad(np.asarray(small), pads, mode="edge")


def to_model(array: np.ndarray, size: int) -> Tensor:
    """As `to_square` → (1, 1 or 3, size, size) float32 in [-1, 1]."""
    return resize.to_unit(to_square(array, size)[None])


def to_share(mask: np.ndarray, size: int) -> Tensor:
    """(H, W) uint8 → (1, 1, size, size) float32 in [0, 1], padded to a square as background."""
    return (1 - to_model(255 - mask, size)) / 2
