"""Pairs by name: which file is a face, which its sketch, which its mask.

The two files of a pair have one name but for a word that says which is which: a folder at any depth
(`train/reference/1.png`, `train/condition/1.jpg`) or the end or beginning of the file's name (`1_color.png`,
`1_sketch.png`). Where the sketches alone are marked, the face is the file without the mark (`1.png`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ssimbad.errors import UserError
from ssimbad.faces.sources import names as paths
from ssimbad.faces.sources.contract import Listing, Picture

COLOUR = ("reference", "color", "colour", "gt", "image", "original", "target")
SKETCH = ("sketch", "condition", "line", "lineart", "edge")
MASK = ("mask",)

_LEAST_SHARE = 0.5
"""Of the sketches that must belong to a face; with fewer the names mean something else."""
_STRAY = 0.05
"""Share of files whose names end like a sketch's, from which on faces are not what they look like."""

Key = tuple[str, ...]
Faces = dict[str, tuple[str, str, Key]]
"""{face: its sketch, its mask, what it is called without its mark}."""
_FOLDER, _AFFIX = "\0folder", "\0affix"  # where in a key the word was; no name has these


@dataclass(frozen=True)
class _Mark:
    """What a name may be: `side`, by `word` at one place; `key` is the name without the word."""

    side: str
    word: str
    key: Key
    folder: bool


@dataclass
class _Group:
    """Files whose names differ in one word."""

    sides: dict[str, list[tuple[str, _Mark]]] = field(default_factory=lambda: defaultdict(list))


def words(colour: str | None = None, sketch: str | None = None) -> dict[str, str]:
    """{word: side}; a word that is given is the only one of its side."""
    chosen = {"colour": [colour] if colour else COLOUR, "sketch": [sketch] if sketch else SKETCH, "mask": MASK}
    found = {}
    for side, these in chosen.items():
        for word in these:
            found |= {form.casefold(): side for form in (word, f"{word}s")}
    return found


def arrange(
    where: str, names: list[str], colour: str | None = None, sketch: str | None = None, characters: bool = True
) -> Listing:
    """Faces, and what belongs to them.

    Args:
        where: the source, for messages.
        colour, sketch: the word that marks each, where it is none of the usual ones or several would fit.
        characters: whether a folder may be that of a character.

    Raises:
        UserError: names look like those of pairs and do not fit, or fit in two ways.
    """
    marks = {name: list(_marks(name, words(colour, sketch))) for name in sorted(names)}
    groups: dict[Key, _Group] = defaultdict(_Group)
    for name, found in marks.items():
        for mark in found:
            groups[mark.key].sides[mark.side].append((name, mark))
    pairs = [g for g in groups.values() if g.sides["colour"] and (g.sides["sketch"] or g.sides["mask"])]
    _require_one_word(where, pairs)
    explicit = bool(colour or sketch)
    found = _marked(where, marks, pairs) if pairs else _unmarked(where, marks, groups, explicit)
    return _listing(list(marks), _whole(marks) if found is None else found, characters)


def plain(names: list[str]) -> Listing:
    """Every file a face of its own."""
    return _listing(names, _whole(names), characters=True)


def _whole(names: Iterable[str]) -> Faces:
    return {name: ("", "", (name,)) for name in names}


def said_of(pictures: list[Picture]) -> list[str]:
    """What was recognised, in lines."""
    lines = []
    if given := [p for p in pictures if p.sketch]:
        without = f", {len(pictures) - len(given)} without a sketch" if len(given) < len(pictures) else ""
        masks = sum(bool(p.mask) for p in pictures)
        lines.append(
            f"{len(given)} pairs of face and sketch, the first {given[0].name} with {given[0].sketch}{without}"
            + (f"; {masks} masks" if masks else "")
        )
    splits = Counter(p.split for p in pictures if p.split)
    if len(splits) > 1:
        counts = ", ".join(f"{splits[s]} {s}" for s in ("train", "val", "test") if splits[s])
        lines.append(f"folders name splits ({counts}): data.splits: path takes them, drawn draws its own")
    if found := {p.identity for p in pictures} - {""}:
        lines.append(f"{len(found)} folders are taken for characters, of whom no cross pair shares one (data.identity)")
    return lines


def _marks(name: str, known: Mapping[str, str]) -> Iterator[_Mark]:
    """All that a name may be, and last what it is if it is unmarked."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    folders, stem = path.parts[:-1], path.stem
    for depth, folder in enumerate(folders):
        if side := known.get(folder.casefold()):
            yield _Mark(side, folder.casefold(), (*folders[:depth], _FOLDER, *folders[depth + 1 :], stem), True)
    for pattern in (r"(?P<rest>.+)[ _.-](?P<word>[^ _.-]+)", r"(?P<word>[^ _.-]+)[ _.-](?P<rest>.+)"):
        if (match := re.fullmatch(pattern, stem, re.DOTALL)) and (side := known.get(match["word"].casefold())):
            yield _Mark(side, match["word"].casefold(), (*folders, _AFFIX, match["rest"]), False)


def _bare(name: str) -> Iterator[Key]:
    """The keys of the sketches that an unmarked name may have."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    folders, stem = path.parts[:-1], path.stem
    yield (*folders, _AFFIX, stem)
    for depth in range(len(folders) + 1):
        yield (*folders[:depth], _FOLDER, *folders[depth:], stem)


def _require_one_word(where: str, pairs: list[_Group]) -> None:
    for group in pairs:
        for side in ("colour", "sketch"):
            if len({mark.word.removesuffix("s") for _, mark in group.sides[side]}) > 1:
                first, second = (name for name, _ in group.sides[side][:2])
                what = "face" if side == "colour" else "sketch"
                raise UserError(
                    f"{where}: {first} and {second} could both be the {what} of one pair; say which: "
                    f"data.source: {{kind: folder, path: …, {side}: {group.sides[side][0][1].word}}}"
                )


def _marked(where: str, marks: dict[str, list[_Mark]], pairs: list[_Group]) -> Faces:
    """Faces and sketches both are marked."""
    faces: Faces = {}
    used: set[str] = set()
    for group in pairs:
        belongs = {side: min(group.sides[side])[0] if group.sides[side] else "" for side in ("sketch", "mask")}
        used |= set(belongs.values())
        for name, mark in group.sides["colour"]:
            faces[name] = (belongs["sketch"], belongs["mask"], mark.key)
    colours = {(mark.word, mark.folder) for group in pairs for _, mark in group.sides["colour"]}
    for name, found in marks.items():
        # A face without a sketch among those with one.
        if name not in faces and name not in used:
            own = [m for m in found if m.side == "colour" and (m.word, m.folder) in colours]
            if own:
                faces[name] = ("", "", own[0].key)
    _require_fit(where, marks, pairs, used)
    return faces


def _require_fit(where: str, marks: dict[str, list[_Mark]], pairs: list[_Group], used: set[str]) -> None:
    words_used = {(mark.word, mark.folder) for group in pairs for _, mark in group.sides["sketch"]}
    sketches = [n for n, found in marks.items() if any((m.word, m.folder) in words_used for m in found)]
    strays = [name for name in sketches if name not in used]
    if sketches and len(strays) > (1 - _LEAST_SHARE) * len(sketches):
        raise UserError(
            f"{where}: looks like pairs of faces and sketches, but {len(strays)} of {len(sketches)} sketches belong to "
            f"no face, such as {strays[0]}; give both equal names, or say what marks them: data.source: "
            "{kind: folder, path: …, colour: …, sketch: …}, or layout: plain if every file is a face"
        )


def _unmarked(where: str, marks: dict[str, list[_Mark]], groups: dict[Key, _Group], explicit: bool) -> Faces | None:
    """Sketches are marked and faces are not; None where nothing is."""
    sketches = {n: [m for m in found if m.side == "sketch"] for n, found in marks.items()}
    sketches = {name: found for name, found in sketches.items() if found}
    if not sketches and not explicit:
        return None
    faces: Faces = {}
    used: set[str] = set()
    for name in marks:
        if name in sketches:
            continue
        key = next((k for k in _bare(name) if k in groups and groups[k].sides["sketch"]), None)
        sketch = min(groups[key].sides["sketch"])[0] if key else ""
        masks = groups[key].sides["mask"] if key else []
        mask = min(masks)[0] if masks else ""
        used |= {sketch, mask}
        faces[name] = (sketch, mask, (name,))
    if used - {""}:
        fit = [name for name in sketches if name in used]
        if len(fit) >= _LEAST_SHARE * len(sketches):
            return {n: f for n, f in faces.items() if n not in used}
    strays = [n for n, found in sketches.items() if any(m.folder for m in found)]
    if strays or explicit or len(sketches) > _STRAY * len(marks):
        first = next(iter(strays or sketches or marks))
        raise UserError(
            f"{where}: {len(strays or sketches)} of {len(marks)} files are named like sketches, such as {first}, but "
            "belong to no face; name the faces' folder or mark, data.source: {kind: folder, path: …, colour: …, "
            "sketch: …}, or say layout: plain there if every file is a face"
        )
    return None


def _listing(names: list[str], faces: Faces, characters: bool) -> Listing:
    stripped = {name: _path(name, key) for name, (_, _, key) in faces.items()}
    ids = paths.make_ids(sorted(faces), stripped)
    who = paths.identities(stripped) if characters else dict.fromkeys(faces, "")
    pictures = [Picture(ids[name], name, *faces[name][:2], who[name], paths.split(name)) for name in sorted(faces)]
    used = {name for sketch, mask, _ in faces.values() for name in (sketch, mask)}
    reason = "not used: the source holds pairs of faces and sketches, and this belongs to no face"
    unused = {name: reason for name in sorted(names) if name not in faces and name not in used}
    return Listing(pictures, unused, said_of(pictures))


def _path(name: str, key: Key) -> str:
    """The name without its mark."""
    parts = [part for part in key if part not in (_FOLDER, _AFFIX)]
    return name if key == (name,) else "/".join(parts) + PurePosixPath(name).suffix
