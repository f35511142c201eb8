"""Zips side by side, as colorizeDiffusion has them: `color/0001.zip`, `sketch/0001.zip`, `mask/0001.zip`, equal names
inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from ssimbad.faces.sources import layout, store
from ssimbad.faces.sources.contract import Kind, Source
from ssimbad.params.base import OwnPath, Strict


class Config(Strict):
    """A folder with zips of faces and zips of their sketches and masks, of equal names inside and out."""

    kind: Literal["parallel"] = Field(description="this kind of source")
    path: OwnPath = Field(description="folder that holds the folders of zips")
    colour: str | None = Field(default=None, description="folder of the faces' zips; null: one of the usual names")
    sketch: str | None = Field(default=None, description="folder of the sketches' zips; null: one of the usual names")


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.zips(root, max_pixels) as files:
        names = list(files.sizes)
        listing = layout.arrange(files.where, names, config.colour, config.sketch, characters=False)
        yield Source(files.where, listing, files.read)


KIND = Kind(Config=Config, opened=opened)
