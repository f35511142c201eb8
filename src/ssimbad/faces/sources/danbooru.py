"""A Danbooru tree: pictures `<folder>/BBBB/ID.ext`, BBBB = ID mod 1000, and JSON lines that say what each shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from ssimbad.errors import UserError
from ssimbad.faces.sources import names, store
from ssimbad.faces.sources.contract import Kind, Listing, Picture, Source
from ssimbad.files import lines
from ssimbad.params.base import OwnPath, Strict


class Config(Strict):
    """Danbooru's pictures with their metadata; whole illustrations, so see data.crop."""

    kind: Literal["danbooru"] = Field(description="this kind of source")
    path: OwnPath = Field(description="folder with original/ or 512px/, and metadata/")
    images: str | None = Field(default=None, description="folder of the pictures in it; null: the only one there")
    metadata: OwnPath | None = Field(
        default=None, description="file of JSON lines, or folder of them; null: metadata/ in path"
    )
    tags: list[str] = Field(default=[], description="a picture has all of these")
    without: list[str] = Field(default=[], description="and none of these")
    ratings: list[Literal["general", "safe", "sensitive", "questionable", "explicit"]] = Field(
        default=[], description="one of these; []: any"
    )
    least_score: int | None = Field(default=None, description="a lower score is left out; null: none is")
    least_side: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="an original with a shorter side is left out, pixels; null: none is"
    )


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.opened(root, max_pixels) as files:
        yield Source(files.where, _listing(config, root, files), files.read)


def _listing(config: Config, root: Path, files: store.Store) -> Listing:
    posts = {name: post for name in files.sizes if (post := _post(name)) is not None}
    folders = Counter(PurePosixPath(name).parts[0] for name in posts)
    folder = config.images or (next(iter(folders)) if len(folders) == 1 else None)
    if folder is None or not folders[folder]:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(folders.items())) or "none"
        raise UserError(
            f"{root}: pictures of Danbooru lie in <folder>/BBBB/ID.ext with BBBB = ID mod 1000; found: {there}; set "
            "data.source.images to one of them"
        )
    mine = {name: post for name, post in posts.items() if PurePosixPath(name).parts[0] == folder}
    asked = set(mine.values())
    told = {post: entry for post, entry in _entries(Path(config.metadata or root / "metadata")) if post in asked}
    kept, unused = {}, {}
    for name in files.sizes:
        entry = told.get(mine[name]) if name in mine else None
        reason = _left_out(config, entry) if name in mine else f"not used: no picture of {folder}/ by number"
        if reason:
            unused[name] = reason
        else:
            kept[name] = _character(entry)
    ids = names.make_ids(sorted(kept))
    said = [f"{len(kept)} of {len(mine)} pictures of {folder}/ are as data.source asks, of {len(told)} with metadata"]
    return Listing([Picture(ids[name], name, identity=kept[name]) for name in sorted(kept)], unused, said)


def _post(name: str) -> int | None:
    """The number of a post, of a name in its bucket."""
    parts = PurePosixPath(name).parts
    number = PurePosixPath(name).stem
    if len(parts) != 3 or not (number.isascii() and number.isdigit()) or len(number) > 18:
        return None
    return int(number) if parts[1] == f"{int(number) % 1000:04d}" else None


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, entry) of every line of the metadata."""
    files = sorted(file for file in path.rglob("*.json*") if file.is_file()) if path.is_dir() else [path]
    if not (files and files[0].is_file()):
        raise UserError(f"{path}: no metadata .json there; set data.source.metadata, or use {{kind: folder, path: …}}")
    for file in files:
        try:
            with file.open("rb") as there:
                for number, line in enumerate(lines(there), 1):
                    if line.strip():
                        yield _entry(file, number, line)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); set data.source.metadata to JSON lines") from None


def _entry(file: Path, number: int, line: str) -> tuple[int, dict[str, Any]]:
    try:
        entry = json.loads(line)
        return int(entry["id"]), entry
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise UserError(f"{file}, line {number}: no JSON object with an id; mend it or take it out") from None


def _left_out(config: Config, entry: dict[str, Any] | None) -> str:
    """Why a picture is left out; "" where it is not."""
    asked = any([config.tags, config.without, config.ratings]) or (config.least_score, config.least_side) != (
        None,
        None,
    )
    if entry is None:
        return "not used: the metadata do not name it" if asked else ""
    tags = {tag for tag, _ in _tags(entry)}
    if missing := set(config.tags) - tags:
        return f"not used: has no tag {min(missing)}"
    if unwanted := set(config.without) & tags:
        return f"not used: has the tag {min(unwanted)}"
    rating = _word(entry.get("rating", ""))[:1]
    if config.ratings and rating not in {name[0] for name in config.ratings}:
        return f"not used: rating {rating or 'unknown'}"
    if config.least_score is not None and _number(entry.get("score")) < config.least_score:
        return f"not used: score {_word(entry.get('score'))}"
    side = min(_number(entry.get("image_width")), _number(entry.get("image_height")))
    return f"not used: {side} pixels" if config.least_side is not None and side < config.least_side else ""


def _number(value: Any) -> int:
    """Older metadata write numbers as text; what is none is none."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):  # the last of 1e999, which JSON reads as infinity
        return 0


def _word(value: Any) -> str:
    """A value as text that can be written; "" of a list or an object, which may be nested deeper than `str` goes."""
    if isinstance(value, list | dict):
        return ""
    return " ".join(str(value).split()).encode("utf-8", "backslashreplace").decode()


def _tags(entry: dict[str, Any]) -> list[tuple[str, bool]]:
    """(tag, whether it names a character), of either form: `tag_string`, or `tags` with categories."""
    if isinstance(text := entry.get("tag_string"), str):
        characters = set(_word(entry.get("tag_string_character", "")).split())
        return [(tag, tag in characters) for tag in _word(text).split()]
    tags = entry.get("tags")
    found = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return [(_word(tag.get("name")), _word(tag.get("category")) == "4") for tag in found]


def _character(entry: dict[str, Any] | None) -> str:
    """The one character that a picture shows."""
    found = [tag for tag, character in _tags(entry or {}) if character]
    return found[0] if len(found) == 1 else ""


KIND = Kind(Config=Config, opened=opened, beside=lambda config: [config.metadata] if config.metadata else [])
