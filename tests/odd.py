"""Values that nobody expects, in the fields of files that are otherwise whole: what damage to bytes seldom finds."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import parquet

from .pictures import face, png

DEEP, _MARK = 2000, "as deep as no reader goes"
TEXTS = ["", ".", "..", "/", "../../x", "/dev/zero", "\0", "\ud800", "é" * 3000, "1e999", "<b>", "$(touch x)", "a\nb"]
NUMBERS = [0, -1, -512, 1.5, 2**31, 2**40, 2**62, 2**63, 2**64, 10**400, math.inf, -math.inf, math.nan, 1e308]
VALUES = [None, True, *NUMBERS, *TEXTS, [], {}, [[]], [0], {"": 0}, [None] * 5000, _MARK]

Path = tuple[Any, ...]
Change = Callable[[bytes, random.Random], bytes]


def _places(tree: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def changed(tree: Any, chance: random.Random) -> Any:
    """The tree with another value at one place, or without it, or with one more beside it."""
    path = chance.choice(list(_places(tree)))
    value = chance.choice(VALUES)
    if not path:
        return value
    node = tree
    for key in path[:-1]:
        node = node[key]
    match chance.randrange(6):
        case 0:
            del node[path[-1]]
        case 1 if isinstance(node, dict):
            node[chance.choice(TEXTS)] = node.pop(path[-1])
        case 2 if isinstance(node, dict):
            node[chance.choice(TEXTS)] = value
        case _:
            node[path[-1]] = value
    return tree


def _text(text: str) -> bytes:
    """Of JSON or YAML; what neither can write is put in now."""
    for quoted in (f'"{_MARK}"', _MARK):
        text = text.replace(quoted, "[" * DEEP + "]" * DEEP)
    return text.encode("utf-8", "surrogatepass")


def json_text(data: bytes, chance: random.Random) -> bytes:
    return _text(json.dumps(changed(json.loads(data), chance)))


def json_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = json_text(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def yaml_text(data: bytes, chance: random.Random) -> bytes:
    tree = changed(yaml.safe_load(data), chance)
    return _text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def table_of_text(data: bytes, chance: random.Random) -> bytes:
    rows = [line.split(",") for line in data.decode().splitlines()]
    row = chance.choice(rows)
    row[chance.randrange(len(row))] = chance.choice([*TEXTS, '"', ",", ",,,,"])
    return "".join(f"{','.join(row)}\n" for row in rows).encode("utf-8", "surrogatepass")


TYPES = ["F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I64", "U8", "BOOL", "C64", "X"]


def safetensors(data: bytes, chance: random.Random) -> bytes:
    """Another description of the same tensors, of the length that is told."""
    (length,) = struct.unpack("<Q", data[:8])
    tree = json.loads(data[8 : 8 + length])
    name = chance.choice([name for name in tree if name != "__metadata__"])
    match chance.randrange(4):
        case 0:
            tree[name]["dtype"] = chance.choice(TYPES)
        case 1:
            sizes = [0, 1, -1, 2**31, 2**62, 2**63, 2**64, 1.5]
            tree[name]["shape"] = [chance.choice(sizes) for _ in range(chance.choice([0, 1, 2, 5, 9, 70, DEEP]))]
        case 2:
            tree[name]["shape"] = tree[name]["shape"] + [1] * chance.choice([1, 5, 70, 100_000])
        case _:
            tree = changed(tree, chance)
    head = _text(json.dumps(tree))
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


TAR_FIELDS = {0: 100, 100: 8, 124: 12, 136: 12, 156: 1, 157: 100, 257: 8, 345: 155}
"""Of a header: where a field begins, and how long it is."""
TAR_SIZES = [b"\xff" * 12, b"\xff" * 10 + b"\xfe\0", b"\x80\0\0\0\x40" + bytes(7), b"77777777777\0", bytes(12)]


def tar(data: bytes, chance: random.Random) -> bytes:
    """Another field in one of the headers, with the sum that belongs to it."""
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    at, (place, length) = chance.choice(heads), chance.choice(list(TAR_FIELDS.items()))
    match place:
        case 124:
            value = chance.choice(TAR_SIZES)
        case 156:
            value = chance.choice([b"x", b"g", b"L", b"K", b"S", b"1", b"2", b"3", b"5", b"6", b"7", b"\0", b"?"])
        case _:
            value = chance.choice(TEXTS).encode("utf-8", "surrogatepass")[:length].ljust(length, b"\0")
    head = bytearray(data[at : at + 512])
    head[place : place + length] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512 :]


ZIP_HEADS = {b"PK\3\4": 30, b"PK\1\2": 46, b"PK\5\6": 22, b"PK\6\6": 56}
"""How each begins, and how long it is."""


def zip_(data: bytes, chance: random.Random) -> bytes:
    """Another number in one of the headers."""
    kind = chance.choice([kind for kind in ZIP_HEADS if kind in data])
    starts = [at for at in range(len(data)) if data.startswith(kind, at)]
    at = chance.choice(starts) + chance.randrange(4, ZIP_HEADS[kind], 2)
    size, value = chance.choice([2, 4]), chance.choice([0, 1, 99, 2**15, 2**16 - 1, 2**31, 2**32 - 1])
    return data[:at] + (value % 256**size).to_bytes(size, "little") + data[at + size :]


def picture(data: bytes, chance: random.Random) -> bytes:
    """Another number in the first bytes, where formats say how large they are; a PNG's sums are right again."""
    at, size = chance.randrange(min(len(data), 400)), chance.choice([1, 2, 4, 8])
    value = chance.choice([0, 1, 2, 255, 2**15, 2**16 - 1, 40_000, 2**31 - 1, 2**32 - 1, 2**63]) % 256**size
    put = value.to_bytes(size, chance.choice(["little", "big"]))
    data = data[:at] + put + data[at + size :]
    return _summed(data) if data.startswith(b"\x89PNG") else data


def _summed(data: bytes) -> bytes:
    done, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        chunk = data[at + 4 : at + 8 + length]
        done += data[at : at + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + length
    return bytes(done + data[at:])


def table(_: bytes, chance: random.Random) -> bytes:
    """A table whose column of pictures is of another kind, or that says odd things of them."""
    whole = png(face(0)[0])
    cells = [whole, b"", b"no picture", None, bytes(200_000), "text", 5, -1.5, True, [whole], {"bytes": whole}]
    cells += [{"bytes": whole, "path": text} for text in TEXTS if text != "\ud800"]  # which no table holds
    cells += [{"path": "a.png"}, {"bytes": None, "path": None}]
    picked = [chance.choice(cells)] * chance.choice([0, 1, 3, 400])
    columns = {chance.choice(["image", "images", "file_name", "", "\0", "a/b"]): pa.array(picked)}
    if chance.random() < 0.5:
        columns["image"] = columns.pop(next(iter(columns)))
    if chance.random() < 0.5:
        columns["more"] = pa.array([chance.choice([1, 2])] * len(picked))
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, compression=chance.choice(["none", "snappy", "zstd", "gzip"]))
    return buffer.getvalue()
