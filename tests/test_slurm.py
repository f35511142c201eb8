"""`snakemake --profile slurm all` on a real SLURM of one machine, with the shipped profile (make test-slurm)."""

from __future__ import annotations

import re
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
