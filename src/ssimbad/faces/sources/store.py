"""Files by name, from a folder, a .zip or tars, read alike.

Names inside a store are paths relative to its root with `/`. Hidden files, `__MACOSX` and text beside the images
(captions, lists, tables) are passed over; every other file is tried, whatever its ending says.
"""

import os
import re
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ssimbad.errors import UserError
from ssimbad.files import BROKEN, below, unlike, unpacked

TEXT = {
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".log", ".ini", ".db"),
    *(".parquet", ".sqlite", ".idx", ".index"),
}
"""Endings of what lies beside images and is none."""


@dataclass(frozen=True)
class Store:
    """`sizes` is {name: bytes when unpacked, None if it cannot be told}; `read` serves several threads at once."""

    where: str
    sizes: Mapping[str, int | None]
    max_bytes: int
    _read: Callable[[str], bytes]
    passed: Counter[str] = field(default_factory=Counter)
    """How many files were passed over, by ending."""

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            Unreadable: gone, damaged in the archive, no plain file, or larger than any image of `max_pixels`.
        """
        from ssimbad.faces.reading import Unreadable  # brings Pillow, which reading parameters does without

        size = self.sizes.get(name)
        if size is None:
            raise Unreadable("no plain file, or a link to nowhere")
        if size > self.max_bytes:
            raise Unreadable(f"too large ({size} bytes unpacked, the limit is {self.max_bytes})")
        try:
            return self._read(name)
        except BROKEN as error:
            raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def image_bytes(max_pixels: int) -> int:
    """More than any image needs: 16-bit RGBA without compression, and a header."""
    return 8 * max_pixels + 2**20


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Store]:
    """Open a folder or a .zip of images.

    Raises:
        UserError: nothing is there, it is neither, the archive is encrypted, or a member's path leaves the
        archive.
    """
    if path.is_dir():
        there = below(path)
        files = {name: file for name, file in there.items() if wanted(name)}
        sizes = {name: plain_size(file) for name, file in files.items()}
        passed = _endings(there.keys() - files.keys())
        yield Store(str(path), sizes, image_bytes(max_pixels), lambda name: files[name].read_bytes(), passed)
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                there = archive.infolist()
        except BROKEN as error:
            raise UserError(f"{path}: no folder and no readable .zip ({error}); check data.path") from None
        members = _members(path, there)

        def read(name: str) -> bytes:
            with path.open("rb") as file:
                return unpacked(file, members[name])

        passed = _endings(member.filename for member in there if not wanted(member.filename))
        yield Store(str(path), {n: m.file_size for n, m in members.items()}, image_bytes(max_pixels), read, passed)
    else:
        raise UserError(f"{path}: no folder or .zip of images there; check data.path")


@contextmanager
def zips(root: Path, max_pixels: int) -> Iterator[Store]:
    """All .zip below a folder, as if each were unpacked into a folder of its name."""
    with ExitStack() as stack:
        found = {
            name[: -len(".zip")]: stack.enter_context(opened(file, max_pixels))
            for name, file in _archives(root, ".zip", "parallel").items()
        }
        places = {f"{folder}/{name}": (store, name) for folder, store in found.items() for name in store.sizes}
        sizes = {path: store.sizes[name] for path, (store, name) in places.items()}

        def read(path: str) -> bytes:
            store, name = places[path]
            return store._read(name)

        yield Store(str(root), sizes, image_bytes(max_pixels), read)


@contextmanager
def tars(root: Path, max_pixels: int) -> Iterator[Store]:
    """A .tar, or all below a folder, as if each were unpacked into a folder of its name. They are not compressed."""
    places: dict[str, tuple[Path, int, int]] = {}
    for shard, file in _archives(root, ".tar", "webdataset").items():
        for name, start, size in _wanted_members(file):
            places[unlike(f"{shard[: -len('.tar')]}/{name}", places)] = (file, start, size)

    def read(name: str) -> bytes:
        file, start, size = places[name]
        with file.open("rb") as there:
            there.seek(start)
            return there.read(size)

    yield Store(str(root), {name: size for name, (_, _, size) in places.items()}, image_bytes(max_pixels), read)


def _archives(root: Path, ending: str, kind: str) -> dict[str, Path]:
    if root.is_file():
        return {root.name: root}
    if not root.is_dir():
        raise UserError(f"{root}: nothing is there; check data.source.path")
    found = {name: file for name, file in below(root).items() if name.lower().endswith(ending)}
    if not found:
        raise UserError(f"{root}: no {ending} there; check data.source.path, or the kind {kind}")
    return found


def _wanted_members(file: Path) -> Iterator[tuple[str, int, int]]:
    """(name, where its bytes begin, how many) of the plain files that are wanted."""
    try:
        for _, member in tar_members(file):
            name = os.fsencode(member.name).decode("utf-8", "backslashreplace")
            if member.isfile() and not member.issparse() and wanted(name):
                yield name, member.offset_data, member.size
    except BROKEN as error:
        raise UserError(f"{file}: no readable .tar without compression ({error}); fetch or pack it again") from None


_BESIDE = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}
"""What says something of the next member, and is read into memory as a whole."""
_MOST_BESIDE = 1 << 14  # bytes; the time that tarfile takes for one grows with the square


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def tar_members(archive: Path | Stream) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member with the tar that reads it, as long as the next is not asked for; of a tar without compression.

    `tarfile` believes every size that it reads; here it is asked first.

    Raises:
        BROKEN: damaged or cut off, or a member of a size that none can have.
    """
    here: dict[str, Any] = {"name": archive, "mode": "r:"}
    if not isinstance(archive, Path):
        here = {"fileobj": _Ending(archive), "mode": "r|"}
    with tarfile.open(**here, tarinfo=_Asked) as tar:
        while (member := tar.next()) is not None:
            _ask(member)  # again: what lies beside a member may have said another size
            yield tar, member
            # Each keeps a copy of what is said of all.
            tar.members.clear()  # ty: ignore[missing-attribute] in no signature


class _Asked(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Asked":
        member = super().frombuf(buf, encoding, errors)
        _ask(member)
        return member


def _ask(member: tarfile.TarInfo) -> None:
    """Refuse a size that leads back, to where the same is read for ever, and a text that would fill the memory."""
    if member.size < 0 or (member.type in _BESIDE and member.size > _MOST_BESIDE):
        # No HeaderError, behind which tarfile sees the end of the archive.
        raise tarfile.ReadError(f"a member of {member.size} bytes")


class _Ending:
    """A stream that may end once: tarfile goes on reading nothing until the size of what it passes over is reached."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._ended = stream, False

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data and self._ended:
            raise EOFError("it ends within a member")
        self._ended = not data
        return data


def _endings(names: Iterable[str]) -> Counter[str]:
    return Counter(PurePosixPath(name).suffix.lower() for name in names)


def wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() not in TEXT


def plain_size(file: Path) -> int | None:
    """Bytes of a plain file; None for pipes, devices and broken links, which must not even be opened."""
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def _members(path: Path, there: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for name, member in zip(member_names(there), there, strict=True):
        if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
            raise UserError(f"{path}: member {name!r} points outside the archive; pack it again without such paths")
        if name.endswith("/") or not wanted(name):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{path}: member {name!r} is encrypted; pack it again without a password")
        members[unlike(str(PurePosixPath(name)), members)] = member
    return members


_UTF8 = 0x800  # flag of a member whose name is UTF-8


def member_names(members: Iterable[zipfile.ZipInfo]) -> list[str]:
    """Names of members. Those without the flag of UTF-8 are in whatever the packer's machine spoke: of the encodings
    that fit them all, the first. A backslash is one only after decoding, since cp932 has its byte within letters."""
    members = list(members)
    raw = [m.orig_filename.encode("cp437") for m in members if not m.flag_bits & _UTF8]
    encoding = next(e for e in ("utf-8", "cp932", "cp437") if all(_fits(name, e) for name in raw))
    names = [
        m.orig_filename if m.flag_bits & _UTF8 else m.orig_filename.encode("cp437").decode(encoding) for m in members
    ]
    return [name.partition("\0")[0].replace("\\", "/") for name in names]


def _fits(name: bytes, encoding: str) -> bool:
    try:
        name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
