"""Where images come from: a folder or a .zip, read alike.

Names inside a source are paths relative to its root with `/`. Hidden files, `__MACOSX` and text beside the
images (captions, lists, tables) are passed over; every other file is tried, whatever its ending says.

The layout `reference/` + `sketch/` (the AnimeDiffusion release) is recognised at any depth:
`p/reference/q.png` and `p/sketch/q.*` are a face and its given sketch. Where it is found, only `reference/`
holds faces. `p/mask/q.*`, where there is one, is the mask of the figure in that face.
"""

import hashlib
import re
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ssimbad.errors import UserError
from ssimbad.faces.reading import Unreadable
from ssimbad.files import below

_TEXT = {
    ".txt",
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".md",
    ".xml",
    ".yaml",
    ".yml",
    ".html",
    ".log",
    ".ini",
    ".db",
}
# At most 240 bytes in UTF-8, so that `<id>.png` fits every file system.
_LONGEST_ID = 60


@dataclass(frozen=True)
class Picture:
    """One face: its id, its name inside the source, and the name of its given sketch ("" without one)."""

    id: str
    name: str
    sketch: str = ""


@dataclass(frozen=True)
class Source:
    """An opened folder or archive.

    `sizes` is {name: bytes when unpacked, None if it cannot be told}; `read` is safe to call from several
    threads.
    """

    where: str
    sizes: dict[str, int | None]
    max_bytes: int
    _read: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            Unreadable: gone, damaged in the archive, no plain file, or larger than any image of `max_pixels`.
        """
        size = self.sizes.get(name)
        if size is None:
            raise Unreadable("no plain file, or a link to nowhere")
        if size > self.max_bytes:
            raise Unreadable(f"too large ({size} bytes unpacked, the limit is {self.max_bytes})")
        try:
            return self._read(name)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def pictures(self) -> tuple[list[Picture], dict[str, str]]:
        """The faces, sorted by name, and {name: reason} of what the layout with sketches leaves unused."""
        sketches, unused = _layout(list(self.sizes))
        ids = make_ids(sketches)
        return [Picture(ids[name], name, sketches[name]) for name in sorted(sketches)], unused

    def masks(self) -> dict[str, str]:
        """{face: its given mask}, of the faces that have one."""
        sides = {name: _side(name) for name in sorted(self.sizes)}
        masks = {key: name for name, (side, key) in reversed(sides.items()) if side == "mask"}
        return {name: masks[key] for name, (side, key) in sides.items() if side == "reference" and key in masks}


@contextmanager
def open_source(path: Path, max_pixels: int) -> Iterator[Source]:
    """Open a folder or a .zip of images.

    Raises:
        UserError: nothing is there, it is neither, the archive is encrypted, or a member's path leaves the
        archive.
    """
    # No image needs more than 16-bit RGBA without compression, and a header.
    max_bytes = 8 * max_pixels + 2**20
    if path.is_dir():
        files = {name: file for name, file in below(path).items() if _wanted(name)}
        sizes = {name: _plain_size(file) for name, file in files.items()}
        yield Source(str(path), sizes, max_bytes, lambda name: files[name].read_bytes())
    elif path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path}: no folder and no readable .zip ({error}); check data.path") from None
        with archive:
            members = _members(path, archive)
            sizes = {name: member.file_size for name, member in members.items()}
            yield Source(str(path), sizes, max_bytes, lambda name: archive.read(members[name]))
    else:
        raise UserError(f"{path}: no folder or .zip of images there; check data.path")


def make_ids(names: list[str] | dict[str, str]) -> dict[str, str]:
    """{name: id}; ids serve as file names, and are unique even where upper and lower case count as the same.

    The rule: the path without its ending and without a folder `reference`, `/` becomes `_`, and so does
    every character that is no letter, digit, `-` or `.`. Names that would share an id, and ids longer than
    60 characters, get `-` and eight digits of the SHA-256 of their name; so an id does not depend on the
    order of files.
    """
    plain = {name: _plain_id(name) for name in names}
    uses = Counter(id_.casefold() for id_ in plain.values())
    ids = {}
    for name, id_ in plain.items():
        if uses[id_.casefold()] > 1 or len(id_) > _LONGEST_ID:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            id_ = f"{id_[: _LONGEST_ID - 9]}-{digest}"
        ids[name] = id_
    if len({id_.casefold() for id_ in ids.values()}) < len(ids):
        raise UserError("two images of the source have names too much alike to tell apart; rename the files")
    return ids


def _plain_id(name: str) -> str:
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    folders = [part for part in path.parts[:-1] if part.casefold() != "reference"]
    text = "_".join([*folders, path.stem])
    return re.sub(r"^[.-]|[^\w.-]", "_", text)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() not in _TEXT


def _plain_size(file: Path) -> int | None:
    """Bytes of a plain file; None for pipes, devices and broken links, which must not even be opened."""
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {}
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
            raise UserError(f"{path}: member {name!r} points outside the archive; pack it again without such paths")
        if member.is_dir() or not _wanted(name):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{path}: member {name!r} is encrypted; pack it again without a password")
        members[str(PurePosixPath(name))] = member
    return members


def _layout(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """({face: sketch or ""}, {unused: reason}) of the names of a source."""
    references, sketches, masks = {}, {}, {}
    for name in sorted(names):
        side, key = _side(name)
        if side == "reference":
            references[name] = key
        elif side == "sketch":
            sketches.setdefault(key, name)
        elif side == "mask":
            masks[name] = key
    pairs = {name: sketches.get(key, "") for name, key in references.items()}
    used = set(pairs.values()) - {""} | {name for name, key in masks.items() if key in references.values()}
    if not used:
        return dict.fromkeys(names, ""), {}
    reason = "not used: the source has the layout reference/ + sketch/, and this belongs to no image of reference/"
    return pairs, {name: reason for name in names if name not in pairs and name not in used}


def _side(name: str) -> tuple[str, tuple[str, ...]]:
    """("reference", "sketch" or "mask", or "", what the two files of a pair have in common)."""
    *folders, last = PurePosixPath(name).parts
    for depth, folder in enumerate(folders):
        if folder.casefold() in ("reference", "sketch", "mask"):
            return folder.casefold(), (*folders[:depth], "/", *folders[depth + 1 :], PurePosixPath(last).stem)
    return "", ()
