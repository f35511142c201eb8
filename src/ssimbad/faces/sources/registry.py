"""Kinds of sources by name: a kind is a file of this folder with a `KIND` (sources/contract.py)."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Union

from pydantic import Discriminator, Tag

from ssimbad.faces.sources.contract import Kind

_NOT_KINDS = {"registry", "contract", "store", "layout", "names"}
SHORT = ("embedded", "folder")
"""Kinds that `data.source` may name by a word alone."""
_TAG = "kind="


def names() -> list[str]:
    """Names of all kinds."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in _NOT_KINDS)


@cache
def get(name: str) -> Kind:
    return importlib.import_module(f"{__package__}.{name}").KIND


class Named(Protocol):
    """The config of a kind."""

    @property
    def kind(self) -> str: ...


def of(source: str | Named) -> Kind:
    """The kind of a value of `data.source`."""
    return get(source if isinstance(source, str) else source.kind)


def config(source: str | Named, path: str | None) -> Named:
    """The block that a value of `data.source`, with `data.path`, stands for."""
    if not isinstance(source, str):
        return source
    return get(source).Config.model_validate({"kind": source} | ({"path": path} if path else {}))


def own_path(source: str | Named) -> str | None:
    """Where the files of the user lie that a config names."""
    return getattr(source, "path", None)


def _tag(value: object) -> str:
    if isinstance(value, str):
        return f"{_TAG}short"
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"{_TAG}{kind}"


def untagged(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place in the tree of parameters without what only tells kinds apart."""
    return tuple(part for part in location if not str(part).startswith(_TAG))


def tagged(part: int | str) -> Kind | None:
    """The kind that such a part of a place names."""
    name = str(part).removeprefix(_TAG)
    return get(name) if str(part).startswith(_TAG) and name in names() else None


if TYPE_CHECKING:  # which knows no kind that is found when the program runs
    Block = str | Named
else:
    Block = Annotated[
        Union[
            (
                Annotated[Literal["embedded", "folder"], Tag(f"{_TAG}short")],
                *(Annotated[get(name).Config, Tag(f"{_TAG}{name}")] for name in names()),
            )
        ],
        Discriminator(
            _tag,
            custom_error_type="kind_of_source",
            custom_error_message=f"expected {', '.join(SHORT)}, or a block with a kind: {', '.join(names())}",
        ),
    ]
"""The type of `data.source`."""
