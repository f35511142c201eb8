"""Presets that say only what differs from another: `extends: demo`."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ssimbad import strict_yaml
from ssimbad.errors import ParameterError

KEY = "extends"
WHOLE = ("methods",)
"""Blocks that an overlay replaces and does not mix into those of the base: its rows are all the rows there are."""


def whole(path: Path) -> str:
    """The text of a file of parameters, with what it extends filled in; comments and the order of keys are kept.

    Of each block at the top the overlay's keys replace the base's; see `WHOLE` for those that it replaces whole.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
        ParameterError: no YAML, or it extends a file that is not there, or itself.
    """
    return _whole(path, ())


def _whole(path: Path, below: tuple[Path, ...]) -> str:
    text = strict_yaml.read(path)
    if f"{KEY}:" not in text:
        return text
    tree = strict_yaml.parse(text, str(path))
    if not (isinstance(tree, dict) and KEY in tree):
        return text
    name = tree[KEY]
    if not (isinstance(name, str) and re.fullmatch(r"[\w-]+", name)):
        raise ParameterError(f"{path}: {KEY}: {name!r} is no name of a preset; write one without folder and ending")
    base = path.with_name(f"{name}.yaml")
    if path in below:
        raise ParameterError(f"{path}: {KEY}: it extends itself, by way of {base}; let one of them be whole")
    if not base.is_file():
        raise ParameterError(
            f"{path}: {KEY}: no file {base}; presets extend presets, and params.yaml is whole (`ssimbad preset NAME`)"
        )
    return _laid_over(_whole(base, (*below, path)), text)


def _laid_over(base: str, overlay: str) -> str:
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    under, over = yaml.load(base), yaml.load(overlay)
    del over[KEY]
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict) and key not in WHOLE:
            _update(under[key], value)
        else:
            under[key] = value
    head = "".join(line for line in overlay.splitlines(keepends=True) if line.startswith("#"))
    under.ca.comment = None
    text = io.StringIO()
    yaml.dump(under, text)
    return head + text.getvalue()


def _update(block: Any, changes: Any) -> None:
    for key, value in changes.items():
        block[key] = value
