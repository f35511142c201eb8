"""Fifty inputs and more, wrong in as many ways: each ends in one of the two lists, and none in a traceback."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np

from ssimbad.faces.reading import FORMATS

from .pictures import face, fill, png
from .test_faces_stage import run, table


def _encoded(kind: str, number: int) -> bytes:
    buffer = io.BytesIO()
    face(number)[0].save(buffer, format=kind)
    return buffer.getvalue()


def _headers() -> dict[str, bytes]:
    """Random bytes in the first hundred of every format."""
    found = {}
    for kind in FORMATS:
        for number in range(4):
            random, data = np.random.default_rng([number, len(kind)]), bytearray(_encoded(kind, number))
            for place in random.integers(4, 100, 6):
                data[place] = int(random.integers(256))
            found[f"header {kind} {number}"] = bytes(data)
    return found


def _cut() -> dict[str, bytes]:
    """Without their ends, or with other ones."""
    found = {}
    for kind in FORMATS:
        data = _encoded(kind, 9)
        found |= {f"cut {kind} {share}": data[: int(share * len(data))] for share in (0.1, 0.7)}
        found[f"other end {kind}"] = data[:-200] + b"\xff" * 200
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _with(*chunks: bytes, number: int) -> bytes:
    data = png(face(number)[0])
    return data[:33] + b"".join(chunks) + data[33:]


def _bombs() -> dict[str, bytes]:
    def header(width: int, height: int) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))

    wide = zlib.compress(bytes(3 * 10**6))
    return {
        "a bomb by its header": header(2**31 - 1, 2**31 - 1) + _chunk(b"IEND", b""),
        "more data than pixels": header(64, 64) + _chunk(b"IDAT", wide) + _chunk(b"IEND", b""),
        "no data at all": header(64, 64) + _chunk(b"IEND", b""),
        "a gif of a huge frame": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
        + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x00;",
        "a bmp of negative width": b"BM" + struct.pack("<IHHIIiiHHI", 100, 0, 0, 54, 40, -8, 8, 1, 24, 0) + bytes(20),
        "a tiff that points at itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    }  # fmt: skip


def _beside() -> dict[str, bytes]:
    """Pictures that are right, with what is wrong beside their pixels: these are used."""
    long = zlib.compress(bytes(5 * 10**6))
    return {
        "long text": _with(_chunk(b"zTXt", b"a\0\0" + long), number=20),
        "long profile": _with(_chunk(b"iCCP", b"a\0\0" + long), number=21),
        "broken profile": _with(_chunk(b"iCCP", b"a\0\0x"), number=22),
        "text that is no text": _with(_chunk(b"iTXt", b"\xff" * 40), number=23),
        "broken EXIF": _with(_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"), number=24),
        "wrong sum of a text": _with(_chunk(b"tEXt", b"a\0b")[:-1] + b"x", number=25),
        "zeros behind its end": png(face(26)[0]) + bytes(1000),
        "another picture behind its end": png(face(27)[0]) + png(face(28)[0]),
    }  # fmt: skip


def test_nothing_malformed_is_lost(tmp_path: Path):
    used = _beside()
    files = _headers() | _cut() | _bombs() | used
    assert len(files) >= 50
    sound = {f"sound {n}": png(face(n)[0]) for n in range(30, 36)}
    outputs = run(fill(tmp_path / "raw", files | sound), tmp_path / "out", val=0, max_pixels=10**5)
    faces = {row["source"] for row in table(outputs["manifest"])}
    reasons = {row["source"]: row["reason"] for row in table(outputs["quarantine"])}
    assert faces | reasons.keys() == files.keys() | sound.keys() and not faces & reasons.keys()
    assert faces >= used.keys() | sound.keys(), {n: reasons[n] for n in used if n in reasons}
    assert reasons.keys() >= {n for n in _bombs() if n != "more data than pixels"}
    assert all(reason and "\n" not in reason and "Error" not in reason for reason in reasons.values()), reasons
