"""One image file of any common kind → one square uint8 array."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, TiffImagePlugin, features

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else []))

# `max_pixels` is asked before anything is decoded; a second limit, of Pillow's, would only speak in its place.
Image.MAX_IMAGE_PIXELS = None

# Bicubic, widened by Pillow when it reduces (antialiased). Lanczos is a little sharper, but its longer
# kernel rings twice beside a black outline, and XDoG would draw the second ring as a line.
_FILTER = Image.Resampling.BICUBIC

# What Pillow's decoders raise on damaged files.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    OverflowError,
    AttributeError,
    struct.error,
    zlib.error,
)


class Unreadable(Exception):  # noqa: N818 - says what a file is, not what went wrong here
    """The file cannot be used; `reason` is short and names no path."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


def normalise(data: bytes, size: int, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A file's bytes → (size, size, 3) uint8 RGB, and the (width, height) it had, upright.

    Turns the image upright (EXIF), composites it on white, cuts the central square and resizes that. Of an
    animation the first frame counts. Embedded colour profiles are ignored. The pixels are counted before
    they are decoded.

    Raises:
        Unreadable: truncated, of none of `FORMATS`, no pixels, or more than `max_pixels`.
    """
    image = opaque(data, max_pixels)
    return resized(centred(image), size), image.size


def normalise_grey(data: bytes, size: int, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """As `normalise`, for a sketch: (size, size) uint8, luma of ITU-R BT.601, 255 = white."""
    image = opaque(data, max_pixels)
    return resized(centred(image.convert("L")), size), image.size


def opaque(data: bytes, max_pixels: int) -> Image.Image:
    """A file's bytes → the whole picture, upright, 8-bit RGB on white. Raises `Unreadable` as `normalise` does.

    What is wrong with texts, colour profiles or EXIF data beside the pixels is no reason: they are passed over.
    """
    return _on_white(_upright(_decoded(data, max_pixels)))


def transparency(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 alpha of an image that `opaque` has read, upright; None where it has none."""
    image = _decoded(data, None)
    return np.asarray(_upright(image).convert("RGBA"))[..., 3] if _transparent(image) else None


def _decoded(data: bytes, max_pixels: int | None) -> Image.Image:
    if not data:
        raise Unreadable("empty file")
    try:
        return _loaded(data, max_pixels)
    except Image.UnidentifiedImageError:
        fault = f"not an image ({', '.join(FORMATS)})"
    except _DAMAGE as error:
        fault = f"damaged or truncated: {error}"
    bare = _without_texts(data)
    if bare == data:
        raise Unreadable(fault)
    try:
        return _loaded(bare, max_pixels)
    except _DAMAGE as error:
        raise Unreadable(f"damaged or truncated: {error}") from None


def _loaded(data: bytes, max_pixels: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise Unreadable(f"too many pixels ({width} × {height}, the limit is {max_pixels})")
    if not width * height:
        raise Unreadable(f"no pixels ({width} × {height})")
    _ask_tiles(image)
    image.load()
    return image


_TILE = 4096
"""Side of a tile that a picture smaller than it may have."""


def _ask_tiles(image: Image.Image) -> None:
    """Refuse a TIFF with tiles larger than itself: the decoder takes memory for a whole one."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    sides = [image.tag_v2.get(key, 0) for key in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
    width, height = (max(_TILE, side + 15) for side in image.size)  # tiles go by sixteens
    if sides[0] * sides[1] > width * height:
        raise Unreadable(f"tiles of too many pixels ({sides[0]} × {sides[1]})")


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")


def _without_texts(data: bytes) -> bytes:
    """A PNG without what it says beside its pixels; anything else as it is."""
    if not data.startswith(_PNG):
        return data
    return _PNG + b"".join(chunk for kind, chunk in _chunks(data) if kind not in _TEXTS)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


# What each value of EXIF's orientation asks for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data ask, where they are legible."""
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # whatever a decoder makes of bytes that are not pixels
        return image
    return image if turn is None else image.transpose(turn)


def _transparent(image: Image.Image) -> bool:
    """Whether alpha means something: of a BMP that is 0 everywhere it is a byte that nobody has filled in."""
    if not image.has_transparency_data:
        return False
    return not (image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if _transparent(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip at 255 instead of scaling (16-bit colour it scales by itself)."""
    levels = np.asarray(image).astype(np.int64)
    grey = np.clip((levels + 128) // 257, 0, 255).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[levels == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def centred(image: Image.Image) -> Image.Image:
    """The central square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def resized(image: Image.Image, size: int) -> np.ndarray:
    """A square picture → (size, size[, 3]) uint8."""
    return np.asarray(image.resize((size, size), _FILTER))
