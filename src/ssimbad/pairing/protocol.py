"""The cross pairing of a test set: drawn, or given as a table of who is shown whose colours."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.faces.splits import by_name, meant
from ssimbad.pairing import references

_COLUMNS = ("sketch", "reference")


def partners(
    rows: Sequence[Mapping[str, str]], seed: int, pairs: Path | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """({id: whose reference it is shown}, {id: somebody else's}), over the test rows of the manifest.

    Two faces of one character (column `identity`) are never paired by draw; a given table is taken as it is.

    Raises:
        UserError: as `references.derangement` and `references.second`, or the table does not fit the test set.
    """
    ids = [row["id"] for row in rows]
    identities = {row["id"]: row.get("identity") or "" for row in rows}
    cross = _given(pairs, rows) if pairs else references.derangement(ids, seed, identities)
    return cross, references.second(ids, seed, cross, identities)


def _given(path: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """{sketch's id: reference's id} of a CSV with the columns sketch and reference, which name test images."""
    known = by_name({row["id"]: row["source"] for row in rows})
    found: dict[str, str] = {}
    for line in _lines(path):
        sketch, reference = (meant(known, (line[column] or "").strip(), str(path)) for column in _COLUMNS)
        if sketch in found:
            raise UserError(f"{path}: {sketch} has two references; leave one")
        if sketch == reference:
            raise UserError(f"{path}: {sketch} is shown itself, which is the setting same; give it another reference")
        found[sketch] = reference
    if missing := [row["id"] for row in rows if row["id"] not in found]:
        raise UserError(
            f"{path}: no reference for {len(missing)} of {len(rows)} test images, such as {missing[0]}; give them one, "
            "or name the test set by data.test_list"
        )
    return found


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if set(_COLUMNS) - set(reader.fieldnames or ()):
                raise UserError(f"{path}: no columns sketch and reference; write them in the first line")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); check references.pairs") from None
