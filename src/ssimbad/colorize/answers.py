"""Where the answers of `ssimbad colorize` go: never onto an input, onto each other, or onto a file of other origin."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ssimbad import artifacts
from ssimbad.errors import ParameterError

_KEY = "Software"  # of the PNG's text, whose value tells that its pixels are an answer as it was written


def check(jobs: Iterable[tuple[Path, Path, Path]], weights: Path) -> None:
    """Refuse answers that would replace something, before anything is computed.

    Args:
        jobs: (sketch, reference, answer) of each picture. An answer that is there and was made by this command may be
            replaced, unless it was edited since; any other file may not, by whatever name or link it is reached.

    Raises:
        ParameterError: naming the file and the remedy.
    """
    jobs = list(jobs)
    given = [weights, weights.with_suffix(".json"), *(path for job in jobs for path in job[:2])]
    inputs = {_identity(path): path for path in given}
    taken: dict[str, tuple[Path, Path]] = {}
    for sketch, _, answer in jobs:
        if answer.exists() and (same := inputs.get(_identity(answer))):
            also = "" if same == answer else f" is {same}, which"
            raise ParameterError(f"--out: {answer}{also} is an input and would be replaced; name another place")
        if other := taken.get(_one_name(answer)):
            also = "" if other[1] == answer else f", on some disks the same as {other[1].name}"
            raise ParameterError(
                f"{other[0]} and {sketch} would both be answered in {answer}{also}; rename one of them"
            )
        if (answer.exists() or answer.is_symlink()) and not _ours(answer):
            raise ParameterError(
                f"--out: {answer} is there, and not as `ssimbad colorize` writes it; name another place or move it away"
            )
        taken[_one_name(answer)] = sketch, answer


def write(path: Path, image: np.ndarray) -> None:
    """(H, W, 3) uint8 → PNG that is known again as an answer."""
    about = PngImagePlugin.PngInfo()
    about.add_text(_KEY, _mark(image))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6, pnginfo=about)
    artifacts.write_bytes(path, buffer.getvalue())


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None for one that is missing (which is told where it is read)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _one_name(path: Path) -> str:
    """The same for all names that some file system takes for one: of any case, umlauts in one piece or in two."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())


def _mark(image: np.ndarray) -> str:
    return f"ssimbad colorize {hashlib.sha256(image.tobytes()).hexdigest()[:16]}"


def _ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_KEY) == _mark(np.asarray(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
