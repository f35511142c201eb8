"""Which files of a folder are pictures, which belong together, and how their answers are called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from ssimbad.errors import ParameterError, UserError
from ssimbad.faces import reading

_ENDINGS = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif"}
"""What is called so is meant for a picture, whatever it is."""


def pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """What is a picture by its content or claims to be one by its ending, and what else is there; no hidden files.

    Sorted so that frame 2 comes before frame 10.
    """
    found = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_in_order)
    taken = {path for path in found if path.is_file() and (path.suffix.lower() in _ENDINGS or _is_picture(path))}
    return [path for path in found if path in taken], [path for path in found if path not in taken]


def _in_order(path: Path) -> tuple[list[object], str]:
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", path.name))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path, formats=reading.FORMATS):
            return True
    except Image.UnidentifiedImageError:
        return False
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True  # it is one, and what is wrong with it will be told


def one_name(name: str) -> str:
    """The same for all names that some file system takes for one: of any case, umlauts in one piece or in two."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def answers(sketches: Sequence[Path]) -> dict[Path, str]:
    """A name for the answer to each, without ending, all different on any disk.

    The sketch's own without its ending; where several would be called so, the whole one, and then a number more.
    """
    several = _by(sketches, lambda path: one_name(path.stem))
    alone = {paths[0]: paths[0].stem for paths in several.values() if len(paths) == 1}
    taken = {one_name(name) for name in alone.values()}
    names = {}
    for path in sketches:
        name, number = alone.get(path), 1
        while name is None:
            tried = path.name if number == 1 else f"{path.name}-{number}"
            if one_name(tried) not in taken:
                name = tried
                taken.add(one_name(tried))
            number += 1
        names[path] = name
    return names


def beside(what: str, given: Path, pictures_: Sequence[Path]) -> list[Path]:
    """For each picture the one file that is given, or the one of equal name in the folder that is given.

    Equal is the whole name, or else the name without its ending, umlauts in one piece or in two.

    Raises:
        UserError: the folder lacks one; ParameterError: it has several.
    """
    if not given.is_dir():
        return [given] * len(pictures_)
    there, _ = pictures(given)
    whole = {unicodedata.normalize("NFC", path.name): path for path in there}
    stems = _by(there, lambda path: unicodedata.normalize("NFC", path.stem))
    found, lacking = [], []
    for picture in pictures_:
        name, stem = (unicodedata.normalize("NFC", text) for text in (picture.name, picture.stem))
        candidates = [whole[name]] if name in whole else stems.get(stem, [])
        if len(candidates) > 1:
            raise ParameterError(
                f"{candidates[0]} and {candidates[1]} are both named like {picture}; take one of them away"
            )
        if not candidates:
            lacking.append(picture.name)
        found += candidates
    if lacking:
        raise UserError(f"{given}: no {what} named like {lacking[0]} ({len(lacking)} lacking)")
    return found


def _by(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups
