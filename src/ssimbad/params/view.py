"""What a stage sees of the parameters, and what a record holds of them."""

from __future__ import annotations

from typing import Any

from ssimbad.params.tree import Params


class View:
    """The parameters that a stage declares, and no others.

    To a stage it is `Params`, whose type it therefore names: a checker then knows every key that it reads.

    Reading an undeclared one is a programming error: the engines would not rerun the stage when it changes.
    """

    def __init__(self, node: Any, declared: tuple[str, ...], prefix: str = "") -> None:
        self._node, self._declared, self._prefix = node, declared, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._get(name)

    def __getitem__(self, name: str) -> Any:
        return self._get(name)

    def _get(self, name: str) -> Any:
        key = f"{self._prefix}{name}"
        value = self._node[name] if isinstance(self._node, dict) else getattr(self._node, name)
        if any(key == d or key.startswith(d + ".") for d in self._declared):
            return value
        if any(d.startswith(key + ".") for d in self._declared):
            return View(value, self._declared, key + ".")
        raise AttributeError(f"the stage reads {key} without declaring it in the stage table")


def lookup(params: Params, key: str) -> Any:
    """The plain (JSON-like) value at a dotted key, for records and engines."""
    node: Any = params.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node
