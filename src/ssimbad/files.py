"""What lies in folders, and whether somebody touched it: one walk for those who read a folder and those who hash it."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from ssimbad.errors import UserError

State = tuple[int, ...]
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, RuntimeError, OverflowError, IndexError),
)
"""What `zipfile` and `tarfile` raise of damaged archives: of names that are no UTF-8, of unknown compression, encrypted
members, places before the file's beginning and sparse members that are cut off, too."""


def unpacked(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, as many as its archive says: `zipfile` takes all that the stream holds, and needs each archive
    of a data set to stay open, of which there may be more than a process may have.

    Raises:
        BROKEN: it is damaged, encrypted, or its stream holds less than that.
    """
    file.seek(member.header_offset)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("it does not begin where the archive says")
    file.seek(sum(_HEAD.unpack(head)), os.SEEK_CUR)
    if member.compress_size > _ODD * member.file_size + _LEAST:
        raise zipfile.BadZipFile("it is much larger packed than unpacked")
    data = _unpack(member, file.read(member.compress_size))
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile("its bytes are not those that the archive says")
    return data


_HEAD = struct.Struct("<26xHH")
"""Before a member's bytes (APPNOTE 4.3.7): how long its name and what else is told there are."""
_LEAST, _ODD = 1 << 12, 8
"""Bytes that any packed stream may have, and how many for one unpacked, as where each is flushed by itself. A hole of a
gigabyte costs who made it nothing."""


def _unpack(member: zipfile.ZipInfo, held: bytes) -> bytes:
    most = max(1, member.file_size)  # 0 would be without limit
    if member.flag_bits & 1:
        raise zipfile.BadZipFile("it is encrypted")
    match member.compress_type:
        case zipfile.ZIP_STORED:
            return held
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(held, most)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(held, most)
        case zipfile.ZIP_LZMA:
            return _lzma(held, most)
    raise zipfile.BadZipFile(f"it is packed in way {member.compress_type}, which is not known here")


def _lzma(held: bytes, most: int) -> bytes:
    """Of a stream as it lies in a zip (APPNOTE 5.8): version and length of the properties, these, then raw LZMA."""
    _, length = struct.unpack_from("<HH", held)
    sides, dictionary = struct.unpack_from("<BI", held, 4)
    literal = {"lc": sides % 9, "lp": sides // 9 % 5, "pb": sides // 45}
    # It is taken at once, up to 4 GiB, and nothing reaches further back than there are bytes.
    raw = {"id": lzma.FILTER_LZMA1, "dict_size": min(dictionary, max(most, 4096)), **literal}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[raw]).decompress(held[4 + length :], most)


LINE = 1 << 22
"""Characters of a line of text, at most."""


def lines(file: BinaryIO) -> Iterator[str]:
    """Lines of UTF-8 text with their ends, of whatever machine; a byte order mark before them is passed over.

    Raises:
        ValueError: it is no UTF-8, or a line is longer than `LINE`.
    """
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    while line := text.readline(LINE + 1):
        if len(line) > LINE:
            raise ValueError(f"a line of more than {LINE} characters")
        yield line


def below(root: Path) -> dict[str, Path]:
    """{name: file} of everything below `root` that is no folder, sorted by name; names are relative, with `/`.

    Links are followed (data sets are often made of them), each folder once. Pipes, devices and broken links are listed
    as well. A name that is no UTF-8 is spelled with backslashes, and differs from one that is spelled so in truth.

    Raises:
        UserError: a folder cannot be read.
    """
    files = [folder / name for folder, names in _folders(root) for name in names]
    found: dict[str, Path] = {}
    for raw, file in sorted((os.fsencode(file.relative_to(root)), file) for file in files):
        found[unlike(raw.decode("utf-8", "backslashreplace"), found)] = file
    return dict(sorted(found.items()))


def exists(name: str) -> bool:
    """Whether anything is there; nothing is by a name that no file can have, at which `Path.exists` raises."""
    return os.path.exists(name)  # noqa: PTH110


def unlike(name: str, taken: Container[str]) -> str:
    """The name, or where it is taken the first of `name (2)`, `name (3)` … that is not."""
    number, other = 1, name
    while other in taken:
        number += 1
        other = f"{name} ({number})"
    return other


def linked(root: Path) -> list[Path]:
    """The folders below `root` that `below` enters through a link."""
    return [folder for folder, _ in _folders(root) if folder != root and folder.is_symlink()]


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[tuple[int, int]] = set()
    if not root.is_dir():  # a file, or not there yet
        return
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        info = Path(folder).stat()
        if (info.st_dev, info.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        subfolders.sort()
        yield Path(folder), names


def _refuse(error: OSError) -> NoReturn:
    """What cannot be listed would be missing without a word."""
    raise UserError(f"{error.filename}: this folder cannot be read ({error.strerror}); open it to yourself, or move it")


def state(path: Path) -> State:
    """Size, modification and change time (ns) and inode of what `path` leads to.

    A write that keeps size and modification time (`cp -p`, `rsync -t`) still moves the change time, which nobody sets.

    Raises:
        OSError: nothing is there.
    """
    info = path.stat()
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


class Seen:
    """Files and folders at one moment. Who put other contents there and then the old ones back has touched them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._then = {path: _look(Path(path)) for path in paths}

    def touched(self) -> str | None:
        """The first of the paths that is not as it was then."""
        return next((path for path, then in self._then.items() if _look(Path(path)) != then), None)


def _look(path: Path) -> dict[str, State | None]:
    """States of the path and of all below; of links also their own, since a link may be bent there and back."""
    every = [path]
    if path.is_dir():
        every += [place for folder, names in _folders(path) for place in (folder, *(folder / n for n in names))]
    return {os.fspath(place): (_own(place) or ()) + (_led_to(place) or ()) for place in every}


def _led_to(path: Path) -> State | None:
    try:
        return state(path)
    except OSError:
        return None


def _own(path: Path) -> State | None:
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_ctime_ns, info.st_ino
