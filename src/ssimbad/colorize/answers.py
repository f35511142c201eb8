"""Where the answers of `ssimbad colorize` go: never onto an input, onto each other, or onto a file of other origin."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ssimbad import artifacts
from ssimbad.colorize.folders import one_name
from ssimbad.colorize.pictures import MAX_PIXELS
from ssimbad.errors import ParameterError
from ssimbad.files import BROKEN

_BEGINS = "ssimbad colorize "
_KEY = "Software"  # of a PNG's text, whose value, as a zip's comment, tells that it is an answer as it was written


def check(inputs: Iterable[Path], outputs: Iterable[Path], overwrite: bool) -> None:
    """Refuse answers that would replace something, before anything is computed.

    Args:
        inputs: all files that are read, by whatever names or links.
        outputs: all files that will be written.
        overwrite: what is there and was made by this command may be replaced, unless it was edited since; any other
            file may not.

    Raises:
        ParameterError: naming the file and the remedy.
    """
    given = {_identity(path): path for path in inputs}
    taken: set[str] = set()
    for answer in outputs:
        if answer.exists() and (same := given.get(_identity(answer))):
            also = "" if same == answer else f" is {same}, which"
            raise ParameterError(f"{answer}{also} is an input and would be replaced; name another place")
        if one_name(str(answer)) in taken:
            raise ParameterError(f"{answer} would be written twice; name different places")
        if answer.exists() or answer.is_symlink():
            if not ours(answer):
                raise ParameterError(
                    f"{answer} is there, and not as `ssimbad colorize` writes it; name another place or move it away"
                )
            if not overwrite:
                raise ParameterError(f"{answer} is there; name another place, or let --overwrite replace it")
        taken.add(one_name(str(answer)))


def write(path: Path, answer: np.ndarray | Sequence[tuple[str, bytes]]) -> None:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 → PNG, or (name, bytes) → zip, that is known again as an answer."""
    if not isinstance(answer, np.ndarray):
        artifacts.write_zip(path, answer, _mark(_flat(answer)).encode())
        return
    about = PngImagePlugin.PngInfo()
    about.add_text(_KEY, _mark([answer.tobytes()]))
    buffer = io.BytesIO()
    Image.fromarray(answer).save(buffer, format="PNG", compress_level=6, pnginfo=about)
    artifacts.write_bytes(path, buffer.getvalue())


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None for one that is missing (which is told where it is read)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mark(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"{_BEGINS}{digest.hexdigest()[:16]}"


def _flat(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    for name, data in members:
        yield from (name.encode(), data)


def ours(path: Path) -> bool:
    """Whether a file is an answer of this command, as it was written.

    It may be anybody's, of any size once unpacked: what has no mark, or is larger than any answer, is not unpacked.
    """
    try:
        if not path.is_file():
            return False
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _our_zip(archive, path.stat().st_size)
        with Image.open(path, formats=["PNG"]) as image:
            said = str(image.info.get(_KEY))
            small = image.width * image.height <= MAX_PIXELS
            return small and said.startswith(_BEGINS) and said == _mark([np.asarray(image).tobytes()])
    except (*BROKEN, SyntaxError, Image.DecompressionBombError):
        return False


def _our_zip(archive: zipfile.ZipFile, size: int) -> bool:
    """Ours are not compressed, so that no member is more than its bytes in the file, nor all more than the file."""
    said, members = archive.comment.decode(), archive.infolist()
    plain = all(m.compress_type == zipfile.ZIP_STORED for m in members) and sum(m.file_size for m in members) <= size
    return plain and said.startswith(_BEGINS) and said == _mark(_flat((m.filename, archive.read(m)) for m in members))
