"""What there is to look at, named at the end of a run, and what of it is not of these parameters."""

from __future__ import annotations

import sys
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import records, written
from ssimbad.pipeline.table import Instance, instances
from ssimbad.reporting import cost, page, stale
from ssimbad.runtime.job import COST

MAIN = Path("reports/tables/main.md")


def show(params: Params) -> None:
    """Write the cost table and the page, print the main table below what of it is stale, and name what there is.

    Raises:
        UserError: nothing has been made yet, what lies there was made with another preset, or a run takes it away.
    """
    if not MAIN.exists():
        raise UserError(f"{MAIN}: not there yet; run `snakemake --cores all all`")
    table = instances(params)
    preset = _preset(next(i for i in table if i.stage.name == "tables"))
    if preset not in (None, params.preset):
        raise UserError(
            f"{MAIN}: made with preset {preset}, and params.yaml says {params.preset}; run"
            f" `snakemake --cores all all` for its results, or go back to {preset}"
        )
    found = records.survey(params)
    with records.hashes() as hashed, written.noted("results", written.SUMMARY, hashed):
        try:
            _show(params, table, found)
        except OSError as error:
            if not records.gone(error):
                raise
            gone = f"{error.filename}: went away while it was read, as a run makes it anew"
            raise UserError(f"{gone}; `ssimbad results` again once that has ended") from None


def _show(params: Params, table: list[Instance], found: dict[str, str | None]) -> None:
    labels = {name: method.label for name, method in params.methods.items()}
    costs_at = cost.write(_costs(params, table, found), MAIN.parent, labels, params.preset)
    shown = {p: i for i in table for p in i.outputs.values() if p.endswith((".md", ".png")) and Path(p).exists()}
    doubts = list(stale.of_shown(params, table, found, {i.name for i in shown.values()}))
    for line in doubts:
        print(line)
    print(MAIN.read_text(encoding="utf-8"))
    costs = [str(costs_at.with_suffix(".md"))] if costs_at else []
    print("tables: ", *sorted([p for p in shown if p.endswith(".md")] + costs))
    print("figures:", *sorted(p for p in shown if p.endswith(".png")))
    print("all of it on one page:", page.write(params, table, found, doubts))


def _preset(tables: Instance) -> str | None:
    """With which preset the tables were made; None where no record says so."""
    try:
        return artifacts.read_json(Path(tables.record))["params"]["preset"]
    except (UserError, KeyError, TypeError):
        return None


def _costs(params: Params, table: list[Instance], found: dict[str, str | None]) -> list[cost.Measured]:
    """Measurements of the very results that are there: of fresh ones, made from what the measurement names."""
    costs = []
    with records.hashes() as hashed:
        for instance in table:
            path = COST / f"{instance.name}.json"
            if found[instance.name] is None and path.exists():
                try:
                    measured = cost.read(path)
                except UserError as error:
                    again = f"`{instance.command} --force` measures again"
                    print(f"ssimbad: {error}; left out of the cost table; {again}", file=sys.stderr)
                    continue
                if measured.fingerprint == records.fingerprint(records.made_from(instance, params, hashed)):
                    costs.append(measured)
    return costs
