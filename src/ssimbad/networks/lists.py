"""torch's list of modules, to a checker with the class of its entries: torch itself does not tell it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

if TYPE_CHECKING:
    M = TypeVar("M", bound=nn.Module)

    class Modules(nn.Module, Generic[M]):
        def __init__(self, modules: Iterable[M] = ()) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
        def __len__(self) -> int: ...
        def __getitem__(self, index: int) -> M: ...
        def append(self, module: M) -> object: ...
else:
    Modules = nn.ModuleList
