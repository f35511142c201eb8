"""A long life: one checkout in which parameters, code and files change, run after run, under both engines in turn.

`make soak`; SOAK=20 makes twenty runs instead of two hundred. What it measures goes into soak.csv (SOAK_TABLE): seconds
of planning, of finding nothing to do and of `ssimbad status`, and what each growing thing takes on the disk.
"""

from __future__ import annotations

import csv
import os
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from ssimbad.params import tree as parameters
from ssimbad.pipeline.table import instances

from ..conftest import write_params
from .conftest import ENGINES, command, digests, fresh, names_of, repository

RUNS = int(os.environ.get("SOAK", "5"))
TABLE = os.environ.get("SOAK_TABLE")
COLLECT = 10
"""Runs from one `ssimbad gc` to the next."""
PINNED = "kept"
"""A tag; what its dvc.lock names must outlive every gc."""
BOUNDED = ("work", ".state", ".dvc/cache")
GROWING = ("mlflow.db", ".git", "records", "logs", ".snakemake")
"""What nothing collects: the history, and what the engines keep of it."""

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(0)]


@dataclass
class Life:
    """A checkout, what is done to it, and what that took."""

    folder: Path
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    rows: list[dict[str, float | str]] = field(default_factory=list)

    def run(self, number: int) -> None:
        """Change something, bring everything up to date, and note what it took."""
        edit = self.dice.choices(list(EDITS), [often for often, _ in EDITS.values()])[0]
        EDITS[edit][1](self, number)
        engine = ("snakemake", "dvc")[number % 2]
        command(self.folder, "ssimbad", "dvc-yaml")
        took = self.timed(*ENGINES[engine])
        command(self.folder, "ssimbad", "sync")
        self.commit(f"run {number}")
        if number % COLLECT == 0:
            command(self.folder, "ssimbad", "gc", "--days", "0", "--cache")
        row = {"run": number, "edit": edit, "engine": engine, "run_s": took}
        row |= {"plan_s": self.timed("snakemake", "-n", "all"), "sync_s": self.timed("ssimbad", "sync")}
        row |= {"status_s": self.timed("ssimbad", "status"), "collected": int(number % COLLECT == 0)}
        row |= {f"{name}_mb": size(self.folder / name) / 1e6 for name in (*BOUNDED, *GROWING)}
        self.rows.append(row)
        if TABLE:
            write(self.rows, Path(TABLE))

    def timed(self, *words: str) -> float:
        start = time.monotonic()
        command(self.folder, *words)
        return round(time.monotonic() - start, 2)

    def commit(self, message: str) -> None:
        command(self.folder, "git", "add", "-A")
        command(self.folder, "git", "commit", "-q", "--allow-empty", "-m", message)

    def change(self, *path: str, value: float) -> None:
        tree = node = yaml.safe_load((self.folder / "params.yaml").read_text())
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        write_params(self.folder, tree)

    def outputs(self) -> list[Path]:
        table = instances(parameters.load(self.folder / "params.yaml"))
        return [self.folder / file for instance in table for file in instance.outputs.values()]


def retrain(life: Life, number: int) -> None:
    life.change("methods", "ssimbad", "finetune", "learning_rate", value=1e-4 + number * 1e-6)


def judge(life: Life, number: int) -> None:
    life.change("evaluation", "bootstrap", value=100 + number)


def draw(life: Life, number: int) -> None:
    """A value that has been there before: what was made then is taken again."""
    life.change("report", "grid_images", value=1 + number % 3)


def comment(life: Life, number: int) -> None:
    with (life.folder / "src/ssimbad/reporting/__init__.py").open("a") as file:
        file.write(f"# {number}\n")


def delete(life: Life, number: int) -> None:
    life.dice.choice(life.outputs()).unlink()


def return_to_the_tag(life: Life, number: int) -> None:
    """To a state of long ago, bytes and all, and on from there."""
    command(life.folder, "git", "checkout", "-q", PINNED, "--", "params.yaml")


EDITS = {
    "retrained": (2, retrain),
    "judged otherwise": (2, judge),
    "drawn otherwise": (3, draw),
    "comment": (1, comment),
    "output deleted": (2, delete),
    "old parameters": (1, return_to_the_tag),
}
"""{name: (how often, edit)}"""


def size(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    return sum(p.lstat().st_size for p in [path, *path.rglob("*")] if p.is_file() and not p.is_symlink())


def write(rows: list[dict[str, float | str]], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def growth(rows: list[dict[str, float | str]], column: str) -> float:
    """The median of the last quarter by that of the first."""
    values = [float(row[column]) for row in rows]
    part = max(1, len(values) // 4)
    return statistics.median(values[-part:]) / statistics.median(values[:part])


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Life:
    folder = repository(tmp_path_factory.mktemp("soak") / "house")
    made = Life(folder)
    command(folder, "dvc", "add", "-q", "data/raw/faces")
    command(folder, *ENGINES["snakemake"])
    command(folder, "ssimbad", "sync")
    made.commit("begin")
    command(folder, "git", "tag", PINNED)
    return made


def test_a_long_life_loses_nothing_and_grows_no_more_than_it_must(life):
    pinned = digests(life.folder)
    for number in range(1, RUNS + 1):
        life.run(number)
    command(life.folder, "ssimbad", "gc", "--days", "0", "--cache")
    require_idle(life.folder)
    assert fresh(life.folder) == names_of(life.folder)
    command(life.folder, "git", "checkout", "-q", PINNED)
    command(life.folder, "dvc", "checkout", "-q")
    assert digests(life.folder) == pinned
    after = [row for row in life.rows if row["collected"]]
    if len(after) >= 4:  # of fewer there is no trend
        for name in BOUNDED:
            assert growth(after, f"{name}_mb") < 1.5, name
    if len(life.rows) >= 40:
        for name in ("plan_s", "sync_s", "status_s"):
            assert growth(life.rows, name) < 1.5, name


def require_idle(folder: Path) -> None:
    """Assert that neither engine has anything to do."""
    planned = command(folder, "snakemake", "-n", "all")
    assert "Nothing to be done" in planned.stdout + planned.stderr
    assert "up to date" in command(folder, "dvc", "status").stdout
