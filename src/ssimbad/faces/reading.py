"""One image file of any common kind → one square uint8 array."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")

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
        Unreadable: truncated, not PNG, JPEG, WebP, BMP or GIF, no pixels, or more than `max_pixels`.
    """
    image = opaque(data, max_pixels)
    return np.asarray(_square(image, size)), image.size


def normalise_grey(data: bytes, size: int, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """As `normalise`, for a sketch: (size, size) uint8, luma of ITU-R BT.601, 255 = white."""
    image = opaque(data, max_pixels)
    return np.asarray(_square(image.convert("L"), size)), image.size


def opaque(data: bytes, max_pixels: int) -> Image.Image:
    """A file's bytes → the whole picture, upright, 8-bit RGB on white. Raises `Unreadable` as `normalise` does."""
    if not data:
        raise Unreadable("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Unreadable(f"too many pixels ({width} × {height}, the limit is {max_pixels})")
            if not width * height:
                raise Unreadable(f"no pixels ({width} × {height})")
            image.load()
            return _on_white(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not an image ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable("too many pixels") from None
    except _DAMAGE as error:
        raise Unreadable(f"damaged or truncated: {error}") from None


def transparency(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 alpha of an image that `opaque` has read, upright; None where it has none."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not image.has_transparency_data:
            return None
        return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))[..., 3]


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.has_transparency_data:
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


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), _FILTER)
