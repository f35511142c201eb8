"""YAML as a person writes parameters in it: UTF-8, each key once, and of a size that a person reads.

A plain loader takes the last of two equal keys without a word, and unfolds ten lines of aliases into a billion values.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ssimbad.errors import ParameterError, there

_TAGS = "tag:yaml.org,2002:"  # written `!!`
LARGEST = 1 << 20  # bytes of a file
_VALUES = 100_000  # aliases unfolded
FAULTS = (
    yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What PyYAML raises on text that is no YAML, or values that are not of their tag: `!!bool maybe` is a KeyError."""


def read(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        OSError: as of any file.
        ParameterError: it is too large, or not UTF-8.
    """
    if path.stat().st_size > LARGEST:
        raise ParameterError(f"{path}: larger than {LARGEST >> 20} MiB; this is no file of parameters")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def parse(text: str, source: str, most: int = _VALUES) -> Any:
    """The values of one YAML document.

    Args:
        source: the file's name, for messages.
        most: values, aliases unfolded; for what programs write and no person.

    Raises:
        ParameterError: one line with the line in the file: not YAML, a key given twice, too many values.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Check(loader, source, most).values(root, "")
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = there(error.problem_mark or error.context_mark)
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise ParameterError(f"{source}, line {mark.line + 1}: not valid YAML: {said}") from None
    except RecursionError:
        raise ParameterError(f"{source}: not valid YAML: values in values in values, too deep to read") from None
    except FAULTS as error:
        raise ParameterError(f"{source}: not valid YAML: {error}") from None


class _Check:
    """Walks the document before anything is made of it; an alias is walked once and counted as often as it stands."""

    def __init__(self, loader: yaml.SafeLoader, source: str, most: int) -> None:
        self._loader, self._source, self._most = loader, source, most
        self._known: dict[int, int | None] = {}

    def values(self, node: yaml.Node, place: str) -> int:
        """Number of values in a node. Raises ParameterError for the first fault below it."""
        if id(node) not in self._known:
            self._known[id(node)] = None  # until it is known
            if isinstance(node, yaml.ScalarNode):
                self._made(node, place)
            count = 1 + sum(self.values(child, name) for child, name in self._children(node, place))
            if count > self._most:
                raise self._fault(node, f"{place or 'the file'} has more than {self._most} values")
            self._known[id(node)] = count
        count = self._known[id(node)]
        if count is None:
            raise self._fault(node, f"{place} holds itself")
        return count

    def _children(self, node: yaml.Node, place: str) -> list[tuple[yaml.Node, str]]:
        if isinstance(node, yaml.MappingNode):
            self._once(node, place)
            return [(value, f"{place}.{key.value}".lstrip(".")) for key, value in node.value]
        if isinstance(node, yaml.SequenceNode):
            return [(value, f"{place}.{i}") for i, value in enumerate(node.value)]
        return []

    def _once(self, node: yaml.MappingNode, place: str) -> None:
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._fault(key, f"{place or 'the file'} has a key that is no word")
            where = f"{place}.{key.value}".lstrip(".")
            name = key.value if key.tag == f"{_TAGS}merge" else self._made(key, where)
            line = key.start_mark.line + 1
            if name in lines:
                raise self._fault(key, f"key {where} is given twice, before in line {lines[name]}; remove one")
            lines[name] = line

    def _made(self, node: yaml.ScalarNode, place: str) -> Hashable:
        """The value of one word. Raises ParameterError when it is none of its kind, such as `!!bool maybe`."""
        try:
            value = self._loader.construct_object(node)
            hash(value)
            str(value).encode()
        except yaml.MarkedYAMLError:
            raise
        except FAULTS as error:
            why = f": {error}" if isinstance(error, ValueError) else ""  # the others speak of PyYAML's own code
            what = f"{node.value!r:.40} is no {node.tag.removeprefix(_TAGS)}"
            where = f"{place}: " if place else ""
            raise self._fault(node, f"not valid YAML: {where}{what}{why}") from None
        return value

    def _fault(self, node: yaml.Node, what: str) -> ParameterError:
        return ParameterError(f"{self._source}, line {node.start_mark.line + 1}: {what}")
