"""The faces that the stage raw renders (faces/embedded.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from ssimbad.faces.sources import layout, store
from ssimbad.faces.sources.contract import Kind, Source
from ssimbad.params.base import Strict


class Config(Strict):
    """Faces rendered here (the block `embedded`); also by the short form `source: embedded`."""

    kind: Literal["embedded"] = Field(description="this kind of source")


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with store.opened(root, max_pixels) as files:
        yield Source(files.where, layout.plain(list(files.sizes)), files.read)


KIND = Kind(
    Config=Config,
    opened=opened,
    licence="cc-by-4.0",
    credit='made from "Adventurer" by Lisa Wischofsky, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), its'
    " shapes combined and its colours replaced at random",
    answers=True,
)
