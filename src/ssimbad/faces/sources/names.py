"""What the path of a picture says: an id, a split, whose face it is."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ssimbad.errors import UserError

# At most 240 bytes in UTF-8, so that `<id>.png` fits every file system.
_LONGEST_ID = 60
_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_LEAST_IDENTITIES = 4
"""Of fewer folders nobody would say that each is a character."""


def make_ids(names: Iterable[str], without: Mapping[str, str] | None = None) -> dict[str, str]:
    """{name: id}; ids serve as file names, and are unique even where upper and lower case count as the same.

    The rule: the path without its ending and without a folder `reference`, `/` becomes `_`, and so does
    every character that is no letter, digit, `-` or `.`. Names that would share an id, and ids longer than
    60 characters, get `-` and eight digits of the SHA-256 of their name; so an id does not depend on the
    order of files.

    Args:
        without: {name: its path without what only says that it is the coloured one of a pair}.
    """
    plain = {name: _plain_id((without or {}).get(name, name)) for name in names}
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


def split(name: str) -> str:
    """`train`, `val` or `test`, of the first folder that is called so; "" where none is."""
    found = (_SPLITS.get(part.casefold(), "") for part in PurePosixPath(name).parts[:-1])
    return next(filter(None, found), "")


def identities(names: Mapping[str, str]) -> dict[str, str]:
    """{name: folder of its character}; all "" where folders do not look like characters.

    They do where every picture lies in one, there are four or more of them, and none holds more than half of the
    pictures: then cross pairs that never share one can be found.

    Args:
        names: {name: its path without what only says that it is the coloured one of a pair}.
    """
    folders = {name: _character(path) for name, path in names.items()}
    common = _common(list(folders.values()))
    found = {name: "/".join(parts[common:]) for name, parts in folders.items()}
    sizes = Counter(found.values())
    if "" in sizes or len(sizes) < _LEAST_IDENTITIES or max(sizes.values()) > len(found) / 2:
        return dict.fromkeys(names, "")
    return found


def _character(path: str) -> tuple[str, ...]:
    folders = PurePosixPath(unicodedata.normalize("NFC", path)).parts[:-1]
    return tuple(part for part in folders if part.casefold() not in _SPLITS)


def _common(paths: list[tuple[str, ...]]) -> int:
    """How many folders all begin with."""
    if not paths:
        return 0
    first, last = min(paths), max(paths)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
