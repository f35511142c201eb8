"""`ssimbad compare`: two rows, or all rows of two places, by their paired differences."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError

from ssimbad import strict_yaml
from ssimbad.errors import ParameterError, UserError, first_line
from ssimbad.metrics.folders import EVALUATION
from ssimbad.pairing.settings import LISTED, SETTINGS
from ssimbad.pipeline import revisions
from ssimbad.reporting import comparisons, markup
from ssimbad.reporting import results as res
from ssimbad.reporting.results import Result, Row

_ROW = re.compile(r"([a-z0-9][a-z0-9-]*)/([a-z][a-z0-9_]*)/seed-([0-9]{1,18})/([a-z-]+)\.json")
_FACES = "data/faces/test.npy"
_LARGEST, _VALUES = 1 << 28, 1 << 21
"""Bytes of a file, and values in a dvc.lock: more than any run has, and less than what zips can unfold to."""


def run(first: str, second: str, setting: str | None = None, metric: str | None = None) -> str:
    """The table of the second minus the first, for print.

    Args:
        first, second: `<method>/<stage>`, `<method>/<stage>@WHERE` or `@WHERE` for all rows there. WHERE is a folder
            with another checkout, a zip of `ssimbad export-run`, or a revision of this repository whose results DVC
            has; left out, this checkout.
        setting, metric: those alone.

    Raises:
        ParameterError: not of these forms, or an unknown setting or metric.
        UserError: a place or a row is not there, or the test faces of the two are not the same.
    """
    for what, asked, known in (("setting", setting, LISTED), ("metric", metric, res.METRICS)):
        if asked not in (None, *known):
            raise ParameterError(f"--{what} {asked}: expected one of {', '.join(known)}")
    sides = [_Side.of(text) for text in (first, second)]
    places = [_opened(side.where) for side in sides]
    _require_same_faces(*places)
    found = [_results(*args) for args in zip(places, sides, strict=True)]
    rows = _pairs(sides, found)
    asked = [s for s in LISTED if setting in (None, s)]
    lines = [line for s in asked for row in rows for line in _lines(s, row, found, metric)]
    if not lines:
        raise UserError(f"{first} and {second}: no setting and metric that both were measured in")
    notes = [comparisons.interval_note(EVALUATION.confidence, [line["gap"] for line in lines])]
    if None in (place.faces() for place in places):
        notes.append("That both were judged on the same test faces is not known: no record of them on one side.")
    cells = [line["cells"] for line in lines]
    columns = ["Row", "Setting", "Metric", "First", "Second", "Difference"]
    return markup.markdown([markup.Table(f"{second} minus {first}", "compare", columns, cells, notes, words=3)])


@dataclass(frozen=True)
class _Side:
    row: Row | None
    where: str

    @classmethod
    def of(cls, text: str) -> _Side:
        name, _, where = text.partition("@")
        method, slash, stage = name.partition("/")
        if (name and not (method and slash and stage)) or not text or "/" in stage:
            raise ParameterError(f"{text}: expected <method>/<stage>, <method>/<stage>@WHERE or @WHERE")
        return cls((method, stage) if name else None, where)


class _Place:
    """Files of a checkout, a zip or a revision, through fsspec."""

    def __init__(self, files: Any, root: str, name: str) -> None:
        self._files, self._root, self.name = files, root, name

    def paths(self, pattern: str) -> list[str]:
        try:
            return sorted(self._files.glob(self._root + pattern))
        except Exception as error:
            raise UserError(f"{self.name}: cannot be read ({first_line(error)})") from None

    def content(self, path: str) -> bytes:
        try:
            about = self._files.info(path)
            if about["type"] != "file" or (about.get("size") or 0) > _LARGEST:
                raise ValueError(f"no plain file of at most {_LARGEST >> 20} MiB")
            if about.get("compress_type", zipfile.ZIP_STORED) not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("packed neither plain nor by deflate; pack it again")
            most = _LARGEST if about.get("size") is None else about["size"]
            with self._files.open(path) as file:  # an archive may hold more than it says, a server say nothing
                data = file.read(most + 1)  # one more, so that an archive's file comes to its end and checks its sum
            if len(data) > most:
                raise ValueError(f"more than {most} bytes")
            return data
        except Exception as error:
            raise UserError(f"{self.name}: {path} cannot be read ({first_line(error)})") from None

    def faces(self) -> str | None:
        """The digest of the test faces, as far as a record or dvc.lock tells.

        Raises:
            UserError: one of them is there, and is no such file.
        """
        for file, digest in (("records/faces.json", _of_record), ("dvc.lock", _of_lock)):
            path = self._root + file
            if self._files.exists(path):
                try:
                    found = digest(self.content(path))
                except (ValueError, RecursionError, ParameterError) as error:
                    raise UserError(f"{self.name}: {file} is none that was written by a run ({_why(error)})") from None
                if found:
                    return found
        return None


class _Record(BaseModel):
    """What is read of a record."""

    outputs: dict[str, str] = {}


class _Out(BaseModel):
    path: str
    md5: str | None = None


class _Stage(BaseModel):
    outs: list[_Out] = []


class _Lock(BaseModel):
    """What is read of a dvc.lock."""

    stages: dict[str, _Stage] = {}


def _of_record(data: bytes) -> str | None:
    return _Record.model_validate(json.loads(data)).outputs.get(_FACES)


def _of_lock(data: bytes) -> str | None:
    found = strict_yaml.parse(data.decode("utf-8-sig"), "dvc.lock", _VALUES)
    stages = _Lock.model_validate({} if found is None else found).stages.values()
    return next((out.md5 for stage in stages for out in stage.outs if out.path == _FACES), None)


def _why(error: Exception) -> str:
    """In one line, with the place where pydantic tells it."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))!r:.80}: {first['msg']}"
    return first_line(error)


def _opened(where: str) -> _Place:
    import fsspec

    name = where or "this checkout"
    if Path(where or ".").is_dir():
        return _Place(fsspec.filesystem("file"), f"{Path(where or '.').resolve().as_posix()}/", name)
    if Path(where).is_file():
        try:
            return _Place(fsspec.filesystem("zip", fo=where), "", name)
        except Exception as error:
            raise UserError(f"{where}: no zip of `ssimbad export-run` ({error})") from None
    try:
        return _Place(revisions.files(where), "", name)
    except UserError as error:
        raise UserError(f"{error}, and neither a folder nor a zip; name one of them") from None


def _require_same_faces(first: _Place, second: _Place) -> None:
    digests = [place.faces() for place in (first, second)]
    if None not in digests and digests[0] != digests[1]:
        raise UserError(
            f"{first.name} and {second.name} were judged on different test faces ({_FACES}): nothing to pair; compare"
            " results of the same data"
        )


def _results(place: _Place, side: _Side) -> list[Result]:
    """Those of the side's row, or of all rows."""
    method, stage = side.row or ("*", "*")
    found = []
    for path in place.paths(f"reports/metrics/{method}/{stage}/seed-*/*.json"):
        named = _ROW.fullmatch("/".join(PurePosixPath(path).parts[-4:]))
        if not named or named[4] not in SETTINGS:
            continue  # somebody's own file, which lies there too
        values = f"{path.removesuffix('.json')}.csv"
        try:
            result = res.read(place.content(path), place.content(values))
            if (*result.row, result.seed, result.setting) != (named[1], named[2], int(named[3]), named[4]):
                raise ValueError("it tells of another row, seed or setting than its place")
        except ValueError as error:
            raise UserError(f"{place.name}: {path} is no result of the stage evaluate ({error})") from None
        found.append(result)
    if not found:
        what = f"no results of {method}/{stage}" if side.row else "no results"
        raise UserError(f"{place.name}: {what} in reports/metrics; run the pipeline there first")
    return found


def _pairs(sides: list[_Side], found: list[list[Result]]) -> list[tuple[Row, Row]]:
    """(row of the first, row of the second): the two named ones, or those that both have."""
    if sides[0].row and sides[1].row:
        return [(sides[0].row, sides[1].row)]
    there = set(res.rows(found[1]))
    both = [row for row in res.rows(found[0]) if row in there]
    if not both:
        raise UserError(f"@{sides[0].where} and @{sides[1].where}: no row that both have")
    return [(row, row) for row in both]


def _lines(setting: str, rows: tuple[Row, Row], found: list[list[Result]], metric: str | None) -> Iterator[Any]:
    frames = [
        {r.seed: r.images for r in results if r.row == row and r.setting == setting}
        for row, results in zip(rows, found, strict=True)
    ]
    for name in comparisons.shared(frames[1], frames[0]):
        if metric in (None, name):
            gap = comparisons.paired_difference(frames[1], frames[0], name, EVALUATION)
            label, _, better = res.METRICS[name]
            shown = [res.number(comparisons.mean(frame, name), name) for frame in frames]
            words = "/".join(rows[0]) if rows[0] == rows[1] else f"{'/'.join(rows[1])} − {'/'.join(rows[0])}"
            entry = res.difference(gap | {"value": gap["difference"]}, name, gap["seeds"])
            yield {"gap": gap, "cells": [words, setting, f"{label} {better}", *shown, entry]}
