"""A data set of the Hugging Face hub, or a copy of one: parquet tables of pictures, or an ImageFolder with metadata.

It is fetched once, at one commit, into an archive with the layout that the kind folder reads: `<split>/reference/…` and
`<split>/sketch/…` of equal names where there are sketches.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import Field, model_validator

from ssimbad.errors import UserError, first_line
from ssimbad.faces.sources import folder, layout, names, store
from ssimbad.faces.sources.contract import Kind, Source
from ssimbad.files import BROKEN, below, lines, unlike, unpacked
from ssimbad.params.base import OwnPath, Strict

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

T = TypeVar("T")

_BATCH = 1
"""Rows that are unpacked at a time: equal cells lie in a table once, and many of them would fill the memory."""
_BUFFER = 1 << 20
"""Bytes of a column that are read at a time: without, a row group is, which may be most of the file."""
COLUMNS = 10_000
"""Of a list of metadata: each row of JSON may name others."""
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_NAME = "file_name"


class Config(Strict):
    """A data set with columns of pictures."""

    kind: Literal["huggingface"] = Field(description="this kind of source")
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        default=None, description="owner/name of the data set on the hub"
    )
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        default=None, description="commit, 40 hex digits: that of a branch would change"
    )
    path: OwnPath | None = Field(default=None, description="folder with a copy of its files, instead of repository")
    endpoint: str | None = Field(default=None, description="address of another hub; null: the usual one")
    folder: str | None = Field(default=None, description="only files below this folder of it, as a config's; null: all")
    face: str | None = Field(
        default=None, description="column of the faces; null: the only one, or one of a usual name"
    )
    sketch: str | None = Field(default=None, description="column of their sketches; null: one of a usual name")
    character: str | None = Field(default=None, description="column of the characters' names; null: none")

    @model_validator(mode="after")
    def _one(self) -> Config:
        if bool(self.path) == bool(self.repository):
            raise ValueError("repository or path: say one of the two")
        if self.repository and not self.revision:
            raise ValueError("revision: missing; give the commit of the data set, 40 hex digits")
        return self


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what; "" where there is none."""

    face: str
    sketch: str = ""
    character: str = ""


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.opened(root, max_pixels) as files:
        yield folder.listed(folder.Config(kind="folder", path=str(root)), files)


def fetch(config: Config, max_bytes: int, say: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """Every picture of the data set, by the layout above."""
    with _files(config, max_bytes, say) as there:
        if tables := [name for name in there if _is_table(name)]:
            for name in tables:
                yield from _of_table(config, name, there[name], max_bytes)
        elif lists := [name for name in there if _is_list(name)]:
            for name in lists:
                yield from _of_metadata(config, name, there)
        else:
            for name, file in there.items():
                if store.wanted(name):
                    yield name, file.read()


def _is_list(name: str) -> bool:
    return PurePosixPath(name).name in _METADATA


def _is_table(name: str) -> bool:
    return name.endswith(".parquet") and not _is_list(name)


@dataclass(frozen=True)
class _File:
    """A file of the data set.

    `read` gives the bytes of a picture; `opened` the file itself, which may be larger than the memory.
    """

    read: Callable[[], bytes]
    opened: Callable[[], AbstractContextManager[BinaryIO]]


@contextmanager
def _files(config: Config, max_bytes: int, say: Callable[[str], None]) -> Iterator[dict[str, _File]]:
    """{name: file} of the data set's files, those in zips among them."""
    with ExitStack() as stack:
        found = _local(Path(config.path), max_bytes) if config.path else _remote(config, max_bytes, say, stack)
        if config.folder:
            found = {name: file for name, file in found.items() if name.startswith(f"{config.folder.rstrip('/')}/")}
        files = {name: file for name, file in sorted(found.items()) if not _is_zip(name)}
        for name in sorted(found.keys() - files.keys()):
            # Of two members of one name the last counts, as with other unpackers; what was unpacked beside comes first.
            for inner, file in dict(_zipped(name, found[name], max_bytes)).items():
                if not (inner in files and (_is_list(inner) or _is_table(inner))):
                    files[unlike(inner, files)] = file
        if not files:
            raise UserError(f"{_where(config)}: no file there; check data.source")
        yield files


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _where(config: Config) -> str:
    return config.path or f"{config.repository} at {config.revision}"


def _local(root: Path, max_bytes: int) -> dict[str, _File]:
    if not root.is_dir():
        raise UserError(f"{root}: no folder there; check data.source.path")

    there = {name: file for name, file in below(root).items() if not name.startswith(".")}
    return {
        name: _File(partial(_content, name, file, max_bytes), partial(_plain_file, name, file))
        for name, file in there.items()
    }


def _content(name: str, file: Path, max_bytes: int) -> bytes:
    """Bytes of a file; none of what can be no picture: its name alone is kept, which ends in quarantine."""
    size = store.plain_size(file)
    return file.read_bytes() if size is not None and size <= max_bytes else b""


@contextmanager
def _plain_file(name: str, file: Path) -> Iterator[BinaryIO]:
    if store.plain_size(file) is None:
        raise UserError(f"{name}: no plain file, or a link to nowhere; fetch it again")
    with file.open("rb") as there:
        yield there


def _zipped(name: str, file: _File, max_bytes: int) -> Iterator[tuple[str, _File]]:
    """Members of an archive, which is open only while one is read: there may be thousands."""
    try:
        with file.opened() as there, zipfile.ZipFile(there) as archive:
            members = archive.infolist()
    except BROKEN as error:
        raise UserError(f"{name}: no readable .zip ({error}); fetch it again") from None

    def read(inner: str, member: zipfile.ZipInfo) -> bytes:
        if member.file_size > max_bytes:
            if _is_table(inner) or _is_list(inner):
                raise UserError(f"{name}: {inner} is larger than any picture; unpack it beside")
            return b""  # as in `_content`
        try:
            with file.opened() as there:
                return unpacked(there, member)
        except BROKEN as error:
            raise UserError(f"{name}: {inner} cannot be read ({error}); fetch it again") from None

    @contextmanager
    def opened(inner: str, member: zipfile.ZipInfo) -> Iterator[BinaryIO]:
        yield io.BytesIO(read(inner, member))

    for called, member in zip(store.member_names(members), members, strict=True):
        if called[-1:] not in ("", "/"):
            inner = str(PurePosixPath(called))
            yield f"{name[: -len('.zip')]}/{inner}", _File(partial(read, inner, member), partial(opened, inner, member))


def _remote(config: Config, max_bytes: int, say: Callable[[str], None], stack: ExitStack) -> dict[str, _File]:
    """Files of the hub, each fetched when it is opened; an archive, which is opened often, stays as long as `stack`."""
    from huggingface_hub import HfApi

    # To another hub than the usual one nobody's token is shown.
    api = HfApi(endpoint=config.endpoint, token=False if config.endpoint else None)
    where = {"repo_id": config.repository, "repo_type": "dataset", "revision": config.revision}
    kept: dict[str, Path] = {}

    def had(call: Callable[..., T], **more: str | bool) -> T:
        try:
            return call(**where, **more)
        except Exception as error:  # the library's own, and those of whatever client it uses
            raise UserError(
                f"data.source.repository: {_where(config)} cannot be had ({first_line(error)}); check it and the "
                "network, or set data.source.path to a copy"
            ) from None

    @contextmanager
    def fetched(name: str) -> Iterator[Path]:
        with ExitStack() as once:
            if name not in kept:
                say(f"{config.repository}: {name} …")
                # Not into the library's cache: a data set would stay on this disk twice.
                place = (stack if _is_zip(name) else once).enter_context(tempfile.TemporaryDirectory())
                kept[name] = Path(had(api.hf_hub_download, filename=name, local_dir=place))
            yield kept[name] if _is_zip(name) else kept.pop(name)

    def read(name: str) -> bytes:
        with fetched(name) as file:
            return _content(name, file, max_bytes)

    @contextmanager
    def opened(name: str) -> Iterator[BinaryIO]:
        with fetched(name) as file, _plain_file(name, file) as there:
            yield there

    named = [name for name in had(api.list_repo_files) if not name.startswith(".")]
    return {name: _File(partial(read, name), partial(opened, name)) for name in named}


def _of_table(config: Config, name: str, file: _File, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """The rows of a parquet file, a batch at a time."""
    with file.opened() as there:
        yield from _samples(config, name, _opened(name, there), max_bytes)


def _samples(config: Config, name: str, table: parquet.ParquetFile, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    pictures = _picture_columns(table.schema_arrow)
    columns = _columns(config, name, pictures, table.schema_arrow.names)
    for column in filter(None, (columns.face, columns.sketch)):
        if column not in pictures:
            raise UserError(
                f"{name}: column {column!r} holds no pictures; those that do: {', '.join(pictures) or 'none'}"
            )
    asked = [column for column in (columns.face, columns.sketch, columns.character) if column]
    for number, row in enumerate(_cells(name, table, asked)):
        face, sketch = (_cell(row.get(column), max_bytes) for column in (columns.face, columns.sketch))
        who = _plain(row.get(columns.character)) if columns.character else ""
        yield from _sample(_split(name), who, f"{_stem(name)}-{number:08d}", face, sketch if columns.sketch else None)


def _cells(name: str, table: parquet.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    with _readable(name):
        for batch in table.iter_batches(batch_size=_BATCH, columns=columns):
            yield from batch.to_pylist()


def _opened(name: str, file: BinaryIO) -> parquet.ParquetFile:
    from pyarrow import parquet

    with _readable(name):
        return parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What is damaged shows when a table is opened, or when its rows are read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: no readable parquet ({error}); fetch it again") from None


def _picture_columns(schema: pa.Schema) -> list[str]:
    """Columns of the form in which pictures are kept: bytes, or bytes with a path."""
    import pyarrow as pa

    def is_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [
        field.name
        for field in schema
        if is_bytes(field.type)
        or (pa.types.is_struct(field.type) and any(f.name == "bytes" and is_bytes(f.type) for f in field.type))
    ]


def _columns(config: Config, name: str, pictures: list[str], known: list[str]) -> _Columns:
    sides = layout.words()
    by_side = {side: [c for c in pictures if sides.get(c.casefold()) == side] for side in ("colour", "sketch")}
    face = config.face or (pictures[0] if len(pictures) == 1 else _single(by_side["colour"]))
    sketch = config.sketch or _single(by_side["sketch"])
    unclear = not face or (len(pictures) > 1 and not sketch and not config.face)
    lacking = [c for c in (face, sketch, config.character) if c and c not in known]
    if unclear or lacking:
        what = f"no column {lacking[0]!r}" if lacking else "it is not clear which column is what"
        raise UserError(
            f"{name}: {what}; columns: {', '.join(known)}, of pictures: {', '.join(pictures) or 'none'}; set "
            "data.source.face, and sketch where there is one"
        )
    return _Columns(face, sketch, config.character or "")


def _single(found: list[str]) -> str:
    return found[0] if len(found) == 1 else ""


def _cell(value: bytes | Mapping[str, Any] | None, max_bytes: int) -> tuple[bytes, str]:
    """(bytes, what it was called) of a picture; one of which there is only the name has no bytes, as in `_content`."""
    called = value.get("path") if isinstance(value, Mapping) else None
    data = (value.get("bytes") if isinstance(value, Mapping) else value) or b""
    return data if len(data) <= max_bytes else b"", called if isinstance(called, str) else ""


def _plain(value: object) -> str:
    return str("" if value is None else value).replace("/", "_").strip(". ") or "unknown"


def _stem(name: str) -> str:
    return "_".join(PurePosixPath(name).with_suffix("").parts)


def _split(name: str) -> str:
    """Of a file such as `default/train/0000.parquet` or `data/train-00000-of-00001.parquet`."""
    words = [word for part in PurePosixPath(name).parts for word in part.split("-")]
    return next(filter(None, (names.split(f"{word}/x") for word in words)), "")


def _sample(
    split: str, who: str, key: str, face: tuple[bytes, str], sketch: tuple[bytes, str] | None
) -> Iterator[tuple[str, bytes]]:
    """The one or two files of a row, by names that the kind folder understands."""
    for side, found in (("reference", face), ("sketch", sketch)):
        if found is not None:
            data, called = found
            ending = PurePosixPath(called).suffix
            marked = side if sketch is not None else ""
            yield (
                "/".join(filter(None, [split, marked, who, f"{key}{ending if store.wanted(f'x{ending}') else ''}"])),
                data,
            )


def _of_metadata(config: Config, name: str, there: Mapping[str, _File]) -> Iterator[tuple[str, bytes]]:
    """The pictures that a file of metadata names, relative to its folder."""
    with there[name].opened() as file:
        known = _known(name, file)
    if not known:  # of a split without pictures
        return
    if lists := [key for key in known if key.endswith("file_names")]:
        raise UserError(
            f"{name}: {lists[0]} names lists of pictures, of which none is the face; give one column a face"
        )
    pictures = {key.removesuffix(f"_{_NAME}"): key for key in known if key == _NAME or key.endswith(f"_{_NAME}")}
    columns = _columns(config, name, list(pictures), [*known, *pictures])
    face, sketch = (pictures.get(column, column) for column in (columns.face, columns.sketch))
    parent = PurePosixPath(name).parent

    def had(named: str) -> tuple[bytes, str]:
        named = str(parent / named)
        return there[named].read() if named in there else b"", named

    with there[name].opened() as file:
        asked = [column for column in (face, sketch, columns.character) if column]
        for number, row in enumerate(_rows(name, file, asked)):
            found = had(row[face])
            who = _plain(row[columns.character]) if columns.character else ""
            key = f"{_stem(name)}-{number:08d}"
            yield from _sample(_split(found[1]), who, key, found, had(row[sketch]) if sketch else None)


def _known(name: str, file: BinaryIO) -> list[str]:
    """The columns of a list; of one of text those of all rows, none where there are no rows."""
    if name.endswith(".parquet"):
        return _opened(name, file).schema_arrow.names
    found: dict[str, None] = {}
    with _told(name):
        for row in _rows_of_text(name, file):
            found |= dict.fromkeys(row)
            if len(found) > COLUMNS:
                raise UserError(f"{name}: more than {COLUMNS:,} columns; leave in it what is used")
    return list(found)


def _rows(name: str, file: BinaryIO, asked: list[str]) -> Iterator[dict[str, str]]:
    """The columns that are asked for, row by row: a list may be larger than the memory."""
    table = name.endswith(".parquet")
    found = _cells(name, _opened(name, file), asked) if table else _rows_of_text(name, file)
    with _told(name):
        for row in found:
            yield {key: str("" if row.get(key) is None else row[key]) for key in asked}


def _rows_of_text(name: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    if name.endswith(".csv"):
        for row in csv.DictReader(lines(file)):
            if None in row:
                raise ValueError("a line has more fields than there are columns")
            yield row
    else:
        for row in map(json.loads, filter(str.strip, lines(file))):
            if not isinstance(row, dict):
                raise ValueError("a line is no object")
            yield row


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, csv.Error, RecursionError) as error:
        raise UserError(f"{name}: cannot be read ({error}); mend it") from None


KIND = Kind(Config=Config, opened=opened, fetch=fetch, fetched=lambda config: True)
