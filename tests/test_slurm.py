"""`snakemake --profile slurm all` on a real SLURM of one node, with the shipped profile (make test-slurm)."""

from __future__ import annotations

import pytest

from . import cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

# What docs/cluster.md lists: rule → partition, gres, CPUs, MB, minutes, jobs.
REQUESTED = {
    "faces": ("cpu", "", 2, 8000, 60, 1),
    "sketches": ("cpu", "", 2, 4000, 60, 1),
    "references": ("cpu", "", 1, 4000, 30, 1),
    "ssim_curves": ("cpu", "", 1, 4000, 60, 1),
    "select_phi": ("cpu", "", 1, 4000, 60, 1),
    "pretrain": ("h100", "gpu:h100:1", 8, 64000, 1440, 1),
    "finetune": ("h100", "gpu:h100:1", 8, 64000, 1440, 1),
    "colorize": ("h100", "gpu:h100:1", 4, 32000, 240, 4),
    "evaluate": ("h100", "gpu:h100:1", 4, 32000, 60, 4),
    "baselines": ("cpu", "", 1, 8000, 60, 1),
    "tables": ("cpu", "", 1, 4000, 30, 1),
    "figures": ("cpu", "", 1, 4000, 30, 1),
}


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


def test_every_rule_requested_what_the_profile_says(house):
    submitted = house.records()
    found = {
        r.rule: (r.partition, r.gres, r.cpus, r.memory_mb, r.minutes, sum(s.rule == r.rule for s in submitted))
        for r in submitted
    }
    assert found == REQUESTED


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
