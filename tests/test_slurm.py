"""`snakemake --profile slurm all` on a real SLURM of one machine, with the shipped profile (make test-slurm)."""

from __future__ import annotations

import contextlib
import csv
import re
import sqlite3
import subprocess

import pytest

from . import cluster
from .conftest import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


def documented() -> dict[str, tuple]:
    """The table of docs/cluster.md: rule → partition, gres, CPUs, MB, minutes, jobs."""
    text = (ROOT / "docs/cluster.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w+) \| ?(\S*) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    return {rule: (partition, gres, *map(int, numbers)) for rule, partition, gres, *numbers in rows}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A house whose pipeline has run through the scheduler."""
    cluster.start()
    made = cluster.House(tmp_path_factory.mktemp("slurm") / "house", cluster.smallest())
    made.version()
    made.finish(made.start())
    yield made
    cluster.stop()


def test_the_pipeline_runs_through_the_scheduler_to_the_tables(house):
    assert (house.folder / "reports/tables/main.csv").stat().st_size > 500
    assert {r.state for r in house.records()} == {"COMPLETED"}


def test_every_rule_requested_what_the_guide_says(house):
    submitted = house.records()
    found = {
        r.rule: (r.partition, r.gres, r.cpus, r.memory_mb, r.minutes, sum(s.rule == r.rule for s in submitted))
        for r in submitted
    }
    assert found == documented()
    assert {rule for rule, request in found.items() if request[0] == "h100"} == {
        "pretrain", "finetune", "colorize", "evaluate", "spread",
    }  # fmt: skip


def test_nothing_is_left_to_do_for_either_engine(house):
    assert "up to date" in house.run("dvc", "status")
    assert "Nothing to be done" in house.run("snakemake", "--profile", "slurm", "-n", "all")


def test_logs_are_where_the_guide_says(house):
    (job,) = house.records("pretrain")
    for log in (f"logs/slurm/rule_pretrain/ssimbad_0/{job.job}.log", "logs/pretrain/ssimbad-seed-0.log"):
        text = (house.folder / log).read_text()
        assert "pretrain-ssimbad-seed-0: 16 of 16 images, " in text
        assert " images/s, " in text
        assert " left" in text


def test_another_slurm_is_left_alone(house, tmp_path):
    """To a start with another state folder the running cluster is somebody else's."""
    other = tmp_path / "other"
    environment = {**cluster.ENVIRONMENT, "TEST_SLURM_STATE": str(other)}
    done = subprocess.run([cluster.SCRIPTS / "start.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == cluster.UNAVAILABLE
    assert "belongs to another SLURM" in done.stderr
    assert not other.exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_grid_with_two_seeds_is_one_run_with_one_table(house):
    """Comes last: the house has other parameters after it."""
    before = len(house.records())
    axes = ("pretrain.learning_rate=1.0e-3,2.0e-3", "pretrain.images=16,32")
    house.run("ssimbad", "sweep", "rates", "--of", "ssimbad", *axes, "--seeds", "0,1")
    house.run("ssimbad", "preset", "sweep-rates")
    house.finish(house.start(), 3000)

    submitted = house.records()[before:]
    assert {r.state for r in submitted} == {"COMPLETED"}
    assert sum(r.rule == "pretrain" for r in submitted) == 4 * 2 + 1, "with the second seed of the block itself"
    with (house.folder / "reports/tables/sweep.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["setting"], line["metric"]) == ("same", "psnr")]
    points = {(line["pretrain.learning_rate"], line["pretrain.images"]) for line in lines}
    assert len(lines) == len(points) == 4
    assert {line["seeds"] for line in lines} == {"2"}
    assert len({line["value"] for line in lines}) == 4
    house.run("ssimbad", "sync")
    assert "Nothing to be done" in house.run("snakemake", "--profile", "slurm", "-n", "all")
    assert executions(house) == 2  # the first run and the sweep, each the parent of its stages


def executions(house) -> int:
    with contextlib.closing(sqlite3.connect(house.folder / "mlflow.db")) as database:
        (found,) = database.execute("SELECT COUNT(DISTINCT run_uuid) FROM tags WHERE key = 'pipeline_parent'")
    return found[0]
