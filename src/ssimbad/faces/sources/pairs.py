"""Pictures that hold a face and its sketch side by side, as pix2pix and the Kaggle sketch-colorization pairs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from ssimbad.faces.sources import layout, store
from ssimbad.faces.sources.contract import Kind, Source
from ssimbad.params.base import OwnPath, Strict


class Config(Strict):
    """A folder or .zip of pictures, each a face beside its sketch."""

    kind: Literal["pairs"] = Field(description="this kind of source")
    path: OwnPath = Field(description="folder or .zip")
    colour: Literal["auto", "left", "right", "top", "bottom"] = Field(
        default="auto", description="half that is the face; auto: the one that is no drawing, if that is clear"
    )


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.opened(root, max_pixels) as files:
        listing = replace(layout.plain(list(files.sizes)), halves=config.colour if config.colour != "auto" else "pairs")
        yield Source(files.where, listing, files.read)


KIND = Kind(Config=Config, opened=opened)
