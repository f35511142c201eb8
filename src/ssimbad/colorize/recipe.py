"""What repeats an answer: settings and the names of the pictures, in a .json that the page and the command write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.errors import ParameterError, UserError
from ssimbad.params.base import Strict

FILES = ("weights", "sketch", "mask", "reference_mask", "mask_network")


def _named(name: str) -> str:
    try:
        if name and b"\0" not in os.fsencode(name):
            return name
    except UnicodeEncodeError:
        pass
    raise ValueError("no file is called so")


File = Annotated[str, AfterValidator(_named)]


class Recipe(Strict):
    """All of it may be left out; files by their paths from the .json's own folder."""

    weights: File | None = None
    sketch: File | None = None
    references: list[File] = Field(default_factory=list)
    mask: File | None = None
    reference_mask: File | None = None
    mask_network: File | None = None
    sampler: str | None = None
    steps: int | None = None
    seed: int | None = None
    fit: str | None = None
    lines: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    command: str | None = None
    """The same for a shell; read by people alone."""


def read(path: Path) -> dict[str, Any]:
    """The arguments of `ssimbad colorize` that a file tells, by their names.

    Raises:
        UserError: it is missing or no JSON; ParameterError: it is not such a file.
    """
    try:
        found = Recipe.model_validate(artifacts.parsed_json(path))
    except OSError as error:
        raise UserError(
            f"--from {path}: cannot be read ({error.strerror}); name a .json of the page or of --note"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        said = first["msg"].removeprefix("Value error, ")
        raise ParameterError(f"--from {path}: {where}: {said}; name a .json of the page or of --note") from None
    except ValueError as error:
        raise UserError(f"--from {path}: no JSON ({error}); name a .json of the page or of --note") from None
    told = {key: value for key, value in found.model_dump(exclude={"command"}).items() if value not in (None, [], {})}
    told |= {key: _from(path, told[key]) for key in FILES if key in told}
    if "references" in told:
        told["reference"] = [_from(path, name) for name in told.pop("references")]
    return told


def _from(path: Path, name: str) -> Path:
    """Weights that are not there from the .json's folder are named from where the command runs, as the page does."""
    there = path.parent / name
    return there if there.exists() else Path(name)


def written(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a .json at `path` holds of the arguments by which it was coloured."""

    def name(file: Path) -> str:
        return str(file) if file == load.STARTER else Path(os.path.relpath(file, path.parent)).as_posix()

    told = {key: value for key, value in given.items() if key in Recipe.model_fields and value not in (None, [], {})}
    told |= {key: name(told[key]) for key in FILES if key in told}
    return told | {"references": [name(file) for file in given["reference"]]}
