"""A folder or a .zip of pictures, laid out as people have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from ssimbad.errors import UserError
from ssimbad.faces.sources import layout, store
from ssimbad.faces.sources.contract import Kind, Source
from ssimbad.params.base import OwnPath, Strict


class Config(Strict):
    """A folder or .zip of your own images; also by the short form `source: folder` with `path`."""

    kind: Literal["folder"] = Field(description="this kind of source")
    path: OwnPath = Field(description="folder or .zip")
    layout: Literal["auto", "plain"] = Field(
        default="auto",
        description="auto: pairs of face and sketch are recognised, by names or as halves of a picture; plain: every "
        "file is a whole face",
    )
    colour: str | None = Field(default=None, description="folder or mark of the faces in names; null: the usual ones")
    sketch: str | None = Field(default=None, description="folder or mark of their sketches; null: the usual ones")


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.opened(root, max_pixels) as files:
        _require_pictures(files)
        yield listed(config, files)


def listed(config: Config, files: store.Store) -> Source:
    """The pictures among the files."""
    names = list(files.sizes)
    if config.layout == "plain":
        return Source(files.where, layout.plain(names), files.read)
    found = layout.arrange(files.where, names, config.colour, config.sketch)
    by_name = any(p.sketch for p in found.pictures)
    return Source(files.where, found if by_name else _untold(found), files.read)


def _untold(found: layout.Listing) -> layout.Listing:
    """Names tell of no pairs; the pictures may."""
    return layout.Listing(found.pictures, found.unused, found.said, halves="auto")


def _require_pictures(files: store.Store) -> None:
    """Archives among the files are other kinds of sources."""
    for ending, kind in ((".tar", "webdataset"), (".zip", "parallel")):
        inner = [name for name in files.sizes if name.lower().endswith(ending)]
        if inner:
            raise UserError(
                f"{files.where}: {len(inner)} archives {ending} in it, such as {inner[0]}; set data.source: "
                f"{{kind: {kind}, path: …}}, or unpack them"
            )
    if not files.sizes and files.passed[".parquet"]:
        raise UserError(
            f"{files.where}: holds {files.passed['.parquet']} tables .parquet and no image; set data.source: "
            "{kind: huggingface, path: …}"
        )


KIND = Kind(Config=Config, opened=opened)
