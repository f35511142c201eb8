"""Where the answers of `ssimbad colorize` go: never onto an input, onto each other, or onto a file of other origin."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ssimbad import artifacts
from ssimbad.colorize.folders import one_name
from ssimbad.errors import ParameterError

_KEY = "Software"  # of the PNG's text, whose value tells that its pixels are an answer as it was written


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
            if not _ours(answer):
                raise ParameterError(
                    f"{answer} is there, and not as `ssimbad colorize` writes it; name another place or move it away"
                )
            if not overwrite:
                raise ParameterError(f"{answer} is there; name another place, or let --overwrite replace it")
        taken.add(one_name(str(answer)))


def write(path: Path, image: np.ndarray) -> None:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 → PNG that is known again as an answer."""
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


def _mark(image: np.ndarray) -> str:
    return f"ssimbad colorize {hashlib.sha256(image.tobytes()).hexdigest()[:16]}"


def _ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_KEY) == _mark(np.asarray(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
