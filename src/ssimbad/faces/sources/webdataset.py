"""WebDataset shards: tars in which files of one key, `000000012.jpg` and `000000012.sketch.png`, are a sample."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssimbad.errors import UserError, there
from ssimbad.faces.sources import layout, names, store
from ssimbad.faces.sources.contract import Kind, Listing, Picture, Source
from ssimbad.files import BROKEN
from ssimbad.params.base import OwnPath, Strict

_TIMEOUT = 60
_Url = Annotated[str, Field(pattern=r"^https?://")]


class Config(Strict):
    """Tars of samples, here or to be fetched once."""

    kind: Literal["webdataset"] = Field(description="this kind of source")
    path: OwnPath | None = Field(default=None, description="a .tar, or a folder of them")
    urls: list[_Url] = Field(default=[], description="addresses of tars, http or https, instead of path")
    face: str | None = Field(default=None, description="ending of the faces, as jpg; null: the one picture of a sample")
    sketch: str | None = Field(default=None, description="ending of their sketches, as sketch.png; null: a usual word")

    @model_validator(mode="after")
    def _one(self) -> Config:
        if bool(self.path) == bool(self.urls):
            raise ValueError("path or urls: say one of the two")
        if self.sketch and not self.face:
            raise ValueError("face: missing; say the ending of the faces as well as that of the sketches")
        return self


@contextmanager
def opened(config: Config, root: Path, max_pixels: int) -> Iterator[Source]:
    with (store.tars if config.path else store.opened)(root, max_pixels) as files:
        yield Source(files.where, _listing(config, files), files.read)


def _listing(config: Config, files: store.Store) -> Listing:
    samples: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files.sizes:
        key, _, ending = PurePosixPath(name).name.partition(".")
        samples[str(PurePosixPath(name).with_name(key))][ending.lower()] = name
    if config.face is not None:
        return _chosen(samples, config.face.lower().lstrip("."), (config.sketch or "").lower().lstrip("."))
    found = layout.arrange(files.where, list(files.sizes), characters=False)
    used = {picture.name for picture in found.pictures}
    for key, sample in samples.items():
        if len(several := [ending for ending, name in sample.items() if name in used]) > 1:
            raise UserError(
                f"{files.where}: sample {key} has several pictures ({', '.join(several)}); say which is the face: "
                f"data.source: {{kind: webdataset, face: {several[0]}, …}}"
            )
    by_name = any(picture.sketch for picture in found.pictures)
    return Listing(found.pictures, found.unused, found.said, halves="" if by_name else "auto")


def _chosen(samples: dict[str, dict[str, str]], face: str, sketch: str) -> Listing:
    faces = {sample[face]: sample.get(sketch, "") for sample in samples.values() if face in sample}
    ids = names.make_ids(sorted(faces))
    pictures = [Picture(ids[name], name, faces[name], split=names.split(name)) for name in sorted(faces)]
    used = {*faces, *faces.values()}
    every = [name for sample in samples.values() for name in sample.values()]
    reason = f"not used: no {face}{f' or {sketch}' if sketch else ''} of a sample with a face"
    return Listing(pictures, {n: reason for n in every if n not in used}, layout.said_of(pictures))


def fetch(config: Config, max_bytes: int, say: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """The files of every shard, in a folder of the shard's name."""
    shards: set[str] = set()
    for url in config.urls:
        shard = PurePosixPath(urllib.request.url2pathname(url.partition("?")[0])).name.removesuffix(".tar")
        if shard in shards:
            raise UserError(f"data.source.urls: two shards are called {shard}; give each its own name")
        shards.add(shard)
        say(f"{url} …")
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as stream:
                for archive, member in store.tar_members(stream):
                    if not member.isfile() or not store.wanted(member.name):
                        continue
                    # Too large to be a picture: its name alone is kept, which ends in quarantine.
                    small = member.size <= max_bytes
                    yield f"{shard}/{member.name}", there(archive.extractfile(member)).read() if small else b""
        except (*BROKEN, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"data.source.urls: {url} cannot be had ({reason}); mend the address or run again"
            ) from None


KIND = Kind(Config=Config, opened=opened, fetch=fetch, fetched=lambda config: bool(config.urls))
