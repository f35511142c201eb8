"""What there is to look at, named at the end of a run."""

from __future__ import annotations

from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.job import COST
from ssimbad.params import Params
from ssimbad.pipeline.table import instances
from ssimbad.reporting import cost

TABLES, FIGURES = Path("reports/tables"), Path("reports/figures")


def show(params: Params) -> None:
    """Write the cost table, print the main table, and name all tables and figures on the last lines.

    Raises:
        UserError: nothing has been made yet.
    """
    main = TABLES / "main.md"
    if not main.exists():
        raise UserError(f"{main}: not there yet; run `snakemake --cores all all` (or `make demo`)")
    labels = {name: method.label for name, method in params.methods.items()}
    costs = [COST / f"{instance.name}.json" for instance in instances(params)]
    cost.write([path for path in costs if path.exists()], TABLES, labels, params.preset)
    print(main.read_text(encoding="utf-8"))
    print("tables: ", *sorted(map(str, TABLES.glob("*.md"))))
    print("figures:", *sorted(map(str, FIGURES.glob("*.png"))))
