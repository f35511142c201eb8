"""What each method took of a whole run, by Snakemake's own log.

    python benchmarks/jobs.py [LOG]

The newest log in .snakemake/log unless another is named. Of each second the jobs that then ran get equal parts, so that
the parts add up to the time in which any ran. Stages that belong to no method are told by their names.
"""

import re
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

from tabulate import tabulate

from ssimbad.errors import UserError, in_one_line

_CLOCK = re.compile(r"\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]$")
_BEGUN = re.compile(r"Job (\d+): (\w+): (.*)$")
_ENDED = re.compile(r"Finished jobid: (\d+)")
_METHOD = re.compile(r"([\w-]+)(?: \w+)?, seed \d+")


def main() -> None:
    logs = sorted(Path(".snakemake/log").glob("*.log"))
    log = Path(sys.argv[1]) if sys.argv[1:] else logs[-1] if logs else None
    if log is None:
        raise UserError(".snakemake/log: no log here; run make demo-all first, or name one")
    took = parts(log.read_text(encoding="utf-8", errors="replace").splitlines())
    if not took:
        raise UserError(f"{log}: tells of no finished job; name the log of a whole run")
    rows = [(name, f"{seconds / 60:.1f}") for name, seconds in took.most_common()]
    rows.append(("all", f"{took.total() / 60:.1f}"))
    print(tabulate(rows, ["method or stage", "minutes"], tablefmt="github", disable_numparse=True))


def parts(lines: list[str]) -> Counter[str]:
    """Seconds by method or stage."""
    took: Counter[str] = Counter()
    running: dict[str, str] = {}
    now = None
    for line in lines:
        if clock := _CLOCK.match(line):
            before, now = now, datetime.strptime(clock[1], "%a %b %d %H:%M:%S %Y")
            for name in running.values():
                took[name] += (now - before).total_seconds() / len(running)
        elif begun := _BEGUN.match(line):
            method = _METHOD.match(begun[3])
            running[begun[1]] = method[1] if method else begun[2]
        elif ended := _ENDED.match(line):
            running.pop(ended[1], None)
    return took


if __name__ == "__main__":
    with in_one_line("jobs.py"):
        main()
