"""Every kind of image file, made on the fly, through the one normalising path."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssimbad.faces.reading import FORMATS, Unreadable, normalise, normalise_grey, transparency

SIZE = 32
LIMIT = 10**6
ORANGE = (250, 120, 40)
AVIF = pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow was built without AVIF")


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def read(data: bytes, size: int = SIZE) -> np.ndarray:
    image, _ = normalise(data, size, LIMIT)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    return image


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG from its parts, for kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("PNG", {"optimize": True}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        pytest.param(
            "AVIF",
            {"quality": 95},
            6,
            marks=AVIF,
        ),
    ],
)
def test_formats(kind, options, tolerance):
    image = read(encode(Image.new("RGB", (40, 40), ORANGE), kind, **options))
    assert np.abs(image.astype(int) - ORANGE).max() <= tolerance


def test_palette():
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, *ORANGE])
    assert (read(encode(image, "PNG")) == ORANGE).all()


def test_palette_with_a_transparent_colour_becomes_white():
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, *ORANGE])
    assert (read(encode(image, "PNG", transparency=1)) == 255).all()
    assert (read(encode(image, "GIF", transparency=1)) == 255).all()


@pytest.mark.parametrize(("mode", "value", "grey"), [("1", 1, 255), ("1", 0, 0), ("L", 77, 77)])
def test_bilevel_and_grey(mode, value, grey):
    assert (read(encode(Image.new(mode, (40, 40), value), "PNG")) == grey).all()


def test_half_transparent_over_white():
    image = read(encode(Image.new("RGBA", (40, 40), (0, 100, 200, 128)), "PNG"))
    expected = [255 * 127 / 255, (100 * 128 + 255 * 127) / 255, (200 * 128 + 255 * 127) / 255]
    assert np.abs(image - np.array(expected)).max() <= 1


def test_colour_under_full_transparency_never_shows():
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (32, 0, 64, 64))
    small = read(encode(image, "PNG"))
    assert (small[..., 2] >= 254).all(), "red leaked through the resizing"


def test_grey_with_alpha():
    assert (read(encode(Image.new("LA", (40, 40), (0, 0)), "PNG")) == 255).all()


def test_cmyk_jpeg():
    image = read(encode(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(("level", "grey"), [(0, 0), (257, 1), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(level, grey):
    image = Image.fromarray(np.full((40, 40), level, np.uint16))
    assert (read(encode(image, "PNG")) == grey).all()


def test_16_bit_grey_with_a_transparent_level():
    row = b"\0" + struct.pack(">H", 5000) * 8
    data = struct.pack(">H", 5000)
    transparency = struct.pack(">I", 2) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))
    assert (read(png(8, 8, 16, 0, row * 8, transparency)) == 255).all()


def test_16_bit_colour_and_alpha():
    row = b"\0" + struct.pack(">HHH", 0x8000, 0xFFFF, 0) * 8
    assert np.abs(read(png(8, 8, 16, 2, row * 8)).astype(int) - (128, 255, 0)).max() <= 1
    row = b"\0" + struct.pack(">HHHH", 0, 0, 0, 0) * 8
    assert (read(png(8, 8, 16, 6, row * 8)) == 255).all()


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (40, 40), colour) for colour in (ORANGE, (0, 0, 0))]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (read(data) == ORANGE).all(), kind


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0)), (2, (0, 1))])
def test_exif_rotation(orientation, corner):
    """A mark in the stored top left corner must appear where the camera's orientation puts it."""
    image = Image.new("RGB", (48, 32), "white")
    image.paste((0, 0, 0), (8, 0, 24, 16))  # top left of the central square
    exif = Image.Exif()
    exif[0x0112] = orientation
    result, size = normalise(encode(image, "PNG", exif=exif), SIZE, LIMIT)
    assert size == ((32, 48) if orientation >= 5 else (48, 32))
    quarters = result.reshape(2, 16, 2, 16, 3).mean((1, 3, 4))
    assert np.unravel_index(quarters.argmin(), (2, 2)) == corner


def test_a_tiff_is_turned_once():
    image = Image.new("RGB", (48, 32), "white")
    image.paste((0, 0, 0), (8, 0, 24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    result, size = normalise(encode(image, "TIFF", exif=exif), SIZE, LIMIT)
    assert size == (32, 48)
    assert np.unravel_index(result.reshape(2, 16, 2, 16, 3).mean((1, 3, 4)).argmin(), (2, 2)) == (0, 1)


def test_central_square_of_an_oblong():
    for shape in ((100, 40), (40, 100)):
        image = Image.new("RGB", shape, "black")
        left, top = (shape[0] - 40) // 2, (shape[1] - 40) // 2
        image.paste(ORANGE, (left, top, left + 40, top + 40))
        assert (read(encode(image, "PNG")) == ORANGE).all()
        assert normalise(encode(image, "PNG"), SIZE, LIMIT)[1] == shape


def test_at_its_own_size_nothing_is_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert (read(encode(Image.fromarray(noise), "PNG")) == noise).all()


def test_reduction_is_antialiased_and_keeps_the_mean():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    image = read(encode(Image.fromarray(stripes), "PNG"))
    assert np.abs(image.astype(int) - 127.5).max() < 6


def test_enlargement():
    assert (read(encode(Image.new("RGB", (3, 3), ORANGE), "PNG"), 64) == ORANGE).all()


def test_grey_sketch():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 40))
    grey, size = normalise_grey(encode(image, "PNG"), 40, LIMIT)
    assert grey.shape == (40, 40) and grey.dtype == np.uint8 and size == (40, 40)
    assert (grey[:, 20:] == 255).all() and (grey[:, :20] == round(0.299 * 255)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    assert read(data) is not None
    with pytest.raises(Unreadable):
        normalise(data[: int(share * len(data))], SIZE, LIMIT)


def test_flipped_bytes_never_escape_as_another_exception():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    outcomes = set()
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        data = encode(noise, kind)
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, min(len(data), 200), 3):
                broken[place] = rng.integers(256)
            try:
                normalise(bytes(broken), SIZE, LIMIT)
                outcomes.add("read")
            except Unreadable as error:
                outcomes.add("refused")
                assert error.reason and "\n" not in error.reason
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_not_an_image(data):
    with pytest.raises(Unreadable, match=r"empty|not an image|truncated"):
        normalise(data, SIZE, LIMIT)


def test_other_formats_are_refused():
    with pytest.raises(Unreadable, match="not an image"):
        normalise(encode(Image.new("RGB", (8, 8)), "PPM"), SIZE, LIMIT)


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + chunk + data[33:]


FAR = zlib.compress(bytes(2_000_000))
BESIDE = {
    "text": (b"zTXt", b"workflow\0\0" + FAR),
    "international text": (b"iTXt", b"workflow\0\1\0\0\0" + FAR),
    "profile": (b"iCCP", b"sRGB\0\0" + FAR),
    "damaged profile": (b"iCCP", b"sRGB\0\0no zlib"),
    "broken EXIF": (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
    "EXIF of nothing": (b"eXIf", b"no TIFF header"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_pixels_never_condemns_them(what):
    data = with_chunk(encode(Image.new("RGB", (40, 40), ORANGE), "PNG"), *BESIDE[what])
    assert (read(data) == ORANGE).all()


def test_broken_exif_of_a_jpeg():
    data = encode(Image.new("RGB", (40, 40), ORANGE), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff")
    assert np.abs(read(data).astype(int) - ORANGE).max() <= 4


def bmp(alpha: np.ndarray) -> bytes:
    """Orange under this alpha, with the masks of its four channels in the header, as Pillow does not write it."""
    height, width = alpha.shape
    pixels = np.dstack([np.full((height, width, 3), ORANGE[::-1], np.uint8), alpha]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def test_alpha_of_a_bmp_that_nobody_has_filled_in():
    nothing = np.zeros((40, 40), np.uint8)
    assert (read(bmp(nothing)) == ORANGE).all()
    assert transparency(bmp(nothing)) is None
    nothing[20, 20] = 255
    assert (read(bmp(nothing), 40) == 255).all(-1).sum() == 40 * 40 - 1


def test_the_limit_decides_alone():
    """Pillow has one of its own, which would speak first where somebody allows more."""
    with pytest.raises(Unreadable, match=r"damaged or truncated"):
        normalise(png(20_000, 20_000, 8, 2, b""), SIZE, 10**9)


def test_no_pixels():
    with pytest.raises(Unreadable):
        normalise(png(0, 0, 8, 2, b""), SIZE, LIMIT)


@pytest.mark.parametrize("side", [1001, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side):
    """The header alone decides: the pixel data is not even there."""
    with pytest.raises(Unreadable, match="too many pixels"):
        normalise(png(side, side, 8, 2, b""), SIZE, LIMIT)


def test_the_limit_itself_is_allowed():
    data = encode(Image.new("RGB", (40, 25), ORANGE), "PNG")
    assert normalise(data, SIZE, 1000)[1] == (40, 25)
    with pytest.raises(Unreadable, match="the limit is 999"):
        normalise(data, SIZE, 999)


def tiled(tile: int, side: int = 64) -> bytes:
    """A grey TIFF, one tile of LZW."""
    data = b"\x80\x00" * 1000
    tags = [(256, side), (257, side), (258, 8), (259, 5), (262, 1), (277, 1), (322, tile), (323, tile),
            (324, 8 + 2 + 12 * 10 + 4), (325, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(("tile", "said"), [(40_000, "tiles of too many pixels"), (256, "damaged")])
def test_a_tile_larger_than_its_picture_is_refused_before_it_is_decoded(tile, said):
    with pytest.raises(Unreadable, match=said):
        normalise(tiled(tile), SIZE, 10**5)
