"""What there is to look at, named at the end of a run."""

from __future__ import annotations

from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.params import Params
from ssimbad.pipeline.table import instances

_SHOWN = ("tables", "figures", "select_phi")


def show(params: Params) -> None:
    """Print the main table and the paths of all tables and figures.

    Raises:
        UserError: nothing has been made yet.
    """
    main = Path("reports/tables/main.md")
    if not main.exists():
        raise UserError(f"{main}: not there yet; run `snakemake --cores all all` (or `make demo`)")
    print(main.read_text(encoding="utf-8"))
    made = [p for i in instances(params) if i.stage.name in _SHOWN for p in i.outputs.values() if Path(p).exists()]
    for kind, folder in (("tables", "reports/tables/"), ("figures", "reports/figures/")):
        files = sorted(p for p in made if p.startswith(folder) and not p.endswith((".tex", ".pdf")))
        print(f"{kind}: {' '.join(files)}")
