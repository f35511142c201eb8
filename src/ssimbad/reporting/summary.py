"""What there is to look at, named at the end of a run, and what of it is not of these parameters."""

from __future__ import annotations

from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.job import COST
from ssimbad.params import Params
from ssimbad.pipeline import records
from ssimbad.pipeline.table import Instance, instances
from ssimbad.reporting import cost, results

MAIN = Path("reports/tables/main.md")
_CAUSES = 8  # named one by one


def show(params: Params) -> None:
    """Write the cost table, print the main table below what of it is stale, and name all tables and figures.

    Raises:
        UserError: nothing has been made yet, or what lies there was made with another preset.
    """
    if not MAIN.exists():
        raise UserError(f"{MAIN}: not there yet; run `snakemake --cores all all` (or `make demo`)")
    table = instances(params)
    preset = _preset(next(i for i in table if i.stage.name == "tables"))
    if preset not in (None, params.preset):
        raise UserError(
            f"{MAIN}: made with preset {preset}, and params.yaml says {params.preset}; run"
            f" `snakemake --cores all all` for its results, or go back to {preset}"
        )
    found = records.survey(params)
    labels = {name: method.label for name, method in params.methods.items()}
    written = cost.write(_costs(params, table, found), MAIN.parent, labels, params.preset)
    shown = {p: i for i in table for p in i.outputs.values() if p.endswith((".md", ".png")) and Path(p).exists()}
    for line in _stale(params, table, found, _behind(table, {i.name for i in shown.values()})):
        print(line)
    print(MAIN.read_text(encoding="utf-8"))
    costs = [str(written.with_suffix(".md"))] if written else []
    print("tables: ", *sorted([p for p in shown if p.endswith(".md")] + costs))
    print("figures:", *sorted(p for p in shown if p.endswith(".png")))


def _preset(tables: Instance) -> str | None:
    """With which preset the tables were made; None where no record says so."""
    try:
        return artifacts.read_json(Path(tables.record))["params"]["preset"]
    except (UserError, KeyError, TypeError):
        return None


def _costs(params: Params, table: list[Instance], found: dict[str, str | None]) -> list[Path]:
    """Measurements of the very results that are there: of fresh ones, made from what the measurement names."""
    costs = []
    with records.hashes() as hashed:
        for instance in table:
            path = COST / f"{instance.name}.json"
            if found[instance.name] is None and path.exists():
                measured = artifacts.read_json(path)
                basis = records.made_from(instance, params, hashed)
                if isinstance(measured, dict) and measured.get("fingerprint") == records.fingerprint(basis):
                    costs.append(path)
    return costs


def stale_sources(params: Params, instance: Instance) -> list[str]:
    """Lines that name what is not fresh of all that a table or figure is about to be made from; none if all is."""
    table = instances(params)
    return _stale(params, table, records.survey(params), _behind(table, set(instance.upstream)))


def _stale(params: Params, table: list[Instance], found: dict[str, str | None], behind: set[str]) -> list[str]:
    stale = {name: reason for name, reason in found.items() if reason and name in behind}
    if not stale:
        return []
    causes = [f"- {name}: {reason}" for name, reason in stale.items() if not reason.startswith("upstream ")]
    more = [f"- and {len(causes) - _CAUSES} more (`ssimbad status`)"] if causes[_CAUSES:] else []
    judged = [i for i in table if i.stage.name == "evaluate"]
    rows = dict.fromkeys((i.wildcards["method"], i.wildcards["stage"]) for i in judged if i.name in stale)
    names = results.labels({(i.wildcards["method"], i.wildcards["stage"]) for i in judged}, params.methods)
    return [
        "NOT FRESH: this was made from other parameters, inputs or code than those that are here now:",
        *causes[:_CAUSES],
        *more,
        f"Rows concerned: {'; '.join(names[row] for row in rows) or 'none, only what is made of them'}.",
        "",
    ]


def _behind(table: list[Instance], shown: set[str]) -> set[str]:
    """The instances `shown` and all upstream of them."""
    behind = set(shown)
    for instance in reversed(table):  # downstream before upstream
        if instance.name in behind:
            behind |= set(instance.upstream)
    return behind
