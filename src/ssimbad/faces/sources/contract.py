"""What a kind of source is, and what it says of the pictures it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from ssimbad.params.base import Strict


@dataclass(frozen=True)
class Picture:
    """One face, or a file with a face and its sketch side by side."""

    id: str
    name: str
    """Inside the source; so are `sketch` and `mask`, "" without one."""
    sketch: str = ""
    mask: str = ""
    identity: str = ""
    """Of its character, "" where nobody says; cross pairs never share one."""
    split: str = ""
    """`train`, `val` or `test` where its path says so."""
    box: tuple[int, int, int, int] | None = None
    """Of a face that was found in a whole picture; `framing.Box`."""
    file: str = ""
    """The file that holds it, where `name` is not that: of the second face of a picture, say."""

    @property
    def content(self) -> str:
        """By which `Source.read` knows it."""
        return self.file or self.name


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, sorted by name."""

    pictures: list[Picture]
    unused: dict[str, str] = field(default_factory=dict)
    """{name: why it is no face and belongs to none}."""
    said: list[str] = field(default_factory=list)
    """What was recognised, a line each."""
    halves: str = ""
    """Which half of every picture is the face, its sketch being the other one: a side of `halves.SIDES`; `auto` where
    the pictures themselves have to tell; "" where each is one whole picture."""


@dataclass(frozen=True)
class Source:
    """An opened source."""

    where: str
    """For messages."""
    listing: Listing
    read: Callable[[str], bytes]
    """A file's bytes by its name, from any thread. Raises `reading.Unreadable`."""


def _none(config: Strict) -> list[str]:
    return []


C = TypeVar("C", bound=Strict)


@dataclass(frozen=True)
class Kind(Generic[C]):
    """One kind of source: a file of this folder ends in `KIND = Kind(...)`."""

    Config: type[C]
    """The block `data.source`, with `kind`, and `path` where the files are the user's."""
    opened: Callable[[C, Path, int], AbstractContextManager[Source]]
    """(config, folder or archive, most pixels of a picture) → the source, opened.

    Raises:
        UserError: it cannot be opened, or is not what the config says.
    """
    beside: Callable[[C], list[str]] = _none
    """Further files of the user's that it reads."""
    fetch: Callable[[C, int, Callable[[str], None]], Iterator[tuple[str, bytes]]] | None = None
    """(config, most bytes of a picture, what says a line) → (name, bytes) of all files, from elsewhere: stored once, as
    the .zip that `opened` is given."""
    fetched: Callable[[C], bool] = lambda config: False
    """Whether a config asks for `fetch`."""
    licence: str = ""
    """Under which weights made of its faces can be handed on, as the hub names it; "" where nobody here knows."""
    credit: str = ""
    """Whose art they are, for those who hand weights on."""
    answers: bool = False
    """Whether the stage raw makes it, with the true answers to cross references."""
