"""What of a table or figure is not of the parameters, inputs and code that are here now, and which rows it concerns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ssimbad.methods import registry
from ssimbad.params.tree import Params
from ssimbad.pipeline import records
from ssimbad.pipeline.table import Instance, instances
from ssimbad.reporting import results

_CAUSES = 8  # named one by one

Found = dict[str, str | None]
"""Per instance: None when fresh, else the reason."""


def of_shown(params: Params, table: list[Instance], found: Found, shown: set[str]) -> list[str]:
    """Lines that name what is not fresh of what is shown and all behind it; none if all is.

    Args:
        found: as `records.survey` says.
        shown: instances whose tables and figures are there.
    """
    concerned = []
    with records.hashes() as hashed:
        for instance in table:
            if instance.name in shown and found[instance.name]:
                concerned += [*_late(instance, table, found), *_outdated(instance, params, hashed)]
    return _told(params, table, found, shown, concerned)


def of_sources(params: Params, instance: Instance) -> list[str]:
    """Lines that name what is not fresh of all that a table or figure is about to be made from; none if all is."""
    table, found = instances(params), records.survey(params)
    return _told(params, table, found, set(instance.upstream), _late(instance, table, found))


def _told(params: Params, table: list[Instance], found: Found, used: set[str], concerned: list[str]) -> list[str]:
    """Lines about the stale ones among the instances `used` and all behind them, and about the files `concerned`."""
    behind = _behind(table, used)
    stale = {name: reason for name, reason in found.items() if reason and name in behind}
    if not stale:
        return []
    causes = [f"- {name}: {reason}" for name, reason in stale.items() if not reason.startswith("upstream ")]
    more = [f"- and {len(causes) - _CAUSES} more (`ssimbad status`)"] if causes[_CAUSES:] else []
    return [
        "NOT FRESH: this was made from other parameters, inputs or code than those that are here now:",
        *causes[:_CAUSES],
        *more,
        f"Rows concerned: {'; '.join(_named(params, table, concerned))}.",
        "",
    ]


@dataclass(frozen=True)
class _Gone:
    """A method that the parameters no longer have."""

    label: str


def _named(params: Params, table: list[Instance], concerned: list[str]) -> list[str]:
    """The rows that files belong to, in the order of the parameters; if these are not all, also files of no row."""
    judged = [(i.wildcards["method"], i.wildcards["stage"]) for i in table if i.stage.name == "evaluate"]
    rows = {row for file in concerned if (row := results.row(file))}
    every = dict.fromkeys([*judged, *sorted(rows)])
    methods: dict[str, results.Labelled] = {method: _Gone(method) for method, _ in every}
    labels = results.labels(every, methods | params.methods)
    named = [labels[row] + ("" if row in judged else " (not in params.yaml)") for row in every if row in rows]
    if rows >= set(judged):
        return named
    others = sorted({file for file in concerned if not results.row(file)})
    more = [f"{len(others) - _CAUSES} more files"] if others[_CAUSES:] else []
    return [*named, *(f"what comes from {file}" for file in others[:_CAUSES]), *more]


def _late(instance: Instance, table: list[Instance], found: Found) -> list[str]:
    """Inputs of an instance whose makers are not fresh."""
    makers = {file: i.name for i in table for file in i.outputs.values()}
    return [file for file in instance.files if found.get(makers.get(file, ""))]


def _outdated(instance: Instance, params: Params, hashed: records.Hashes) -> list[str]:
    """Inputs of a table or figure, now or when it was made, that are not what its record says.

    Those of all rows, where it differs from its record in something that belongs to no row.
    """
    try:
        record = records.read(instance)
    except (OSError, ValueError):
        record = {}
    then = record.get("inputs", {})
    every = list(dict.fromkeys([*instance.files, *then]))
    now = _digests(every, hashed)
    keys = _different(dict(_leaves(record.get("params", {}))), dict(_leaves(records.resolved(instance, params))))
    own = _different(record.get("outputs", {}), _digests(instance.outputs.values(), hashed))
    own |= _different(record.get("code", {}), _digests(records.sources(instance), hashed))
    if own or any(not key.startswith("methods.") for key in keys):
        return [file for file in every if results.row(file)] or every
    touched = {row for file in every if (row := results.row(file)) and any(_concerns(key, row) for key in keys)}
    return [file for file in every if then.get(file) != now.get(file) or results.row(file) in touched]


def _digests(paths: Iterable[str], hashed: records.Hashes) -> dict[str, str]:
    digests = {path: hashed.md5_of_what_is_there(path) for path in paths}
    return {path: digest for path, digest in digests.items() if digest is not None}


def _different(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    return {key for key in one.keys() | other.keys() if one.get(key, ...) != other.get(key, ...)}


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every value that is no block of others."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _concerns(key: str, row: results.Row) -> bool:
    """Whether a parameter below `methods` is the row's: of its method, and not of another stage of it."""
    _, method, *rest = key.split(".")
    return method == row[0] and not set(rest) & (set(registry.slots()) - {row[1]})


def _behind(table: list[Instance], shown: set[str]) -> set[str]:
    """The instances `shown` and all upstream of them."""
    behind = set(shown)
    for instance in reversed(table):  # downstream before upstream
        if instance.name in behind:
            behind |= set(instance.upstream)
    return behind
