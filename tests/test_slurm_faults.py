"""Trainings on a real SLURM that are cancelled, requeued, cut off, shot or orphaned, and end with the same weights.

All cases share one finished upstream and one training job of the shipped profile. The two not marked slow are the
commonest, and part of `make test-slurm`. To hit a training in its middle on a machine of any speed, it is stopped
(SIGSTOP) at its first state; SLURM itself sends SIGCONT before SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from . import cluster
from .cluster import ask
from .conftest import ROOT
from .waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

INSTANCE = "pretrain-ssimbad-seed-0"
TARGET = f".state/{INSTANCE}.ok"
IMAGES = 800
MODEL = "models/ssimbad/pretrain/seed-0"


class Trainee(cluster.House):
    """A house with everything upstream of one training."""

    def __init__(self, upstream: Path, folder: Path) -> None:
        self.folder = shutil.copytree(upstream, folder, symlinks=True)

    def request(self, **resources: object) -> None:
        """Change what the profile requests for the training."""
        path = self.folder / "profiles/slurm/config.yaml"
        profile = yaml.safe_load(path.read_text())
        profile["set-resources"]["pretrain"] |= resources
        path.write_text(yaml.safe_dump(profile))

    def train(self, **environment: str) -> tuple[subprocess.Popen, psutil.Process]:
        """Start Snakemake; return it and the training, stopped in its middle."""
        snakemake = self.start(TARGET, **environment)
        until(self.saved, 180, "a first state")
        training = self.training()
        training.suspend()
        return snakemake, training

    def batch(self) -> None:
        """Submit the job script of docs/scaling.md to both nodes, with one process on each."""
        guide = (ROOT / "docs/scaling.md").read_text()
        script = textwrap.dedent(re.search(r"^    #!/bin/bash\n(    .*\n)+", guide, re.MULTILINE)[0])
        (self.folder / "train.sh").write_text(script)
        one = ("--ntasks-per-node=1", "--cpus-per-task=1", "--gres=gpu:h100:1", "--mem=8G")
        self.run("sbatch", "--partition=both", *one, "--time=20", "--comment=rule_pretrain", "train.sh")

    def output(self) -> str:
        """What the jobs of `batch` said."""
        return "".join(p.read_text() for p in sorted(self.folder.glob("slurm-*.out")))

    def training(self) -> psutil.Process:
        lock = json.loads((self.folder / "work" / INSTANCE / "lock.json").read_text())
        return psutil.Process(lock["pid"])

    def saved(self) -> int:
        """Images seen by the newest state."""
        states = (self.folder / "work" / INSTANCE).glob("*/state-*.safetensors")
        return max((int(re.search(r"state-(\d+)", p.name)[1]) for p in states), default=0)

    def logs(self) -> str:
        """What the job said in all attempts: SLURM's logs stay, while Snakemake removes a rule's log before a job."""
        logs = (self.folder / "logs/slurm/rule_pretrain/ssimbad_0").glob("*.log")
        return "".join(p.read_text() for p in sorted(logs, key=lambda p: int(p.stem)))

    def resumed(self) -> list[int]:
        """Where each further attempt began."""
        return [int(n) for n in re.findall(rf"resumed at (\d+) of {IMAGES} images", self.logs())]

    def weights(self) -> dict[str, bytes]:
        """Weights, how they were made, and the curve."""
        return {end: (self.folder / f"{MODEL}.{end}").read_bytes() for end in ("safetensors", "json", "csv")}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """A folder with faces and sketches, and what an uninterrupted training makes of them."""
    cluster.start()
    tree = cluster.smallest(images=IMAGES, validation=None)
    tree["methods"]["ssimbad"]["config"]["phi"] = {"form": "rational", "c": 0.3}
    tree["training"]["state_images"] = 80
    house = cluster.House(tmp_path_factory.mktemp("upstream") / "house", tree)
    for stage in ("faces", "sketches"):
        house.run("ssimbad", "stage", stage)
    # DVC and the logbook are not at stake here, and take half a minute each time.
    snakefile = house.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().split("onsuccess:")[0])
    plain = Trainee(house.folder, house.folder.with_name("plain"))
    plain.run("ssimbad", "stage", "pretrain", "method=ssimbad", "seed=0")
    yield house.folder, plain.weights()
    cluster.stop()


@pytest.fixture
def new_house(upstream, tmp_path):
    made = []

    def make(name: str) -> Trainee:
        made.append(Trainee(upstream[0], tmp_path / name))
        return made[-1]

    yield make
    for job in (job for house in made for job in house.records()):
        subprocess.run(["scancel", "--quiet", job.job])


@pytest.fixture
def house(new_house):
    return new_house("house")


def gone(process: psutil.Process, seconds: float = 120) -> None:
    def ended() -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.status() == psutil.STATUS_ZOMBIE
        return True

    until(ended, seconds, "the training has ended")


def judge(house: Trainee, upstream, resumed: list[int], states: list[str]) -> None:
    """The weights are those of an uninterrupted run, and every attempt began where the one before had saved."""
    assert house.weights() == upstream[1]
    assert house.resumed() == resumed
    assert [r.state for r in house.records()] == states


def test_cancelled(house, upstream):
    snakemake, training = house.train()
    before = house.saved()
    ask("scancel", house.records()[0].job)
    gone(training)
    saved = house.saved()
    assert saved > before, "SIGTERM makes a training save where it is"
    house.finish(snakemake)
    judge(house, upstream, [saved], ["CANCELLED", "COMPLETED"])


def test_the_controller_killed_and_started_again_beside_its_orphan(house, upstream):
    """The second job waits for the orphan and uses what it made: one training, two jobs."""
    first, training = house.train()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    house.run("snakemake", "--unlock", TARGET)
    second = house.start(TARGET)
    until(lambda: "waiting until it has ended" in house.logs(), 120, "the second job waits")
    told = (house.folder / "snakemake.log").read_text()
    assert f"ssimbad: {INSTANCE}: process {training.pid} on " in told
    assert [r.state for r in house.records()] == ["RUNNING", "RUNNING"]
    training.resume()
    house.finish(second)
    judge(house, upstream, [], ["COMPLETED", "COMPLETED"])
    assert house.logs().count(f"{INSTANCE}: {IMAGES} images -> ") == 1
    assert f"{INSTANCE}: up to date" in house.logs()


@pytest.mark.slow
def test_requeued(house, upstream):
    snakemake, training = house.train()
    ask("scontrol", "requeue", house.records()[0].job)
    gone(training)
    saved = house.saved()
    house.finish(snakemake)
    judge(house, upstream, [saved], ["COMPLETED"])
    assert house.records()[0].restarts == 1


@pytest.mark.slow
def test_time_limit_seen_coming_and_not(new_house, upstream):
    """Two trainings side by side: one knows its limit, one is still there when SLURM's own SIGTERM comes."""
    seeing, blind = new_house("seeing"), new_house("blind")
    runs = {}
    for house, environment in ((seeing, {}), (blind, {"SSIMBAD_DEADLINE": "9999999999"})):
        house.request(runtime="2 if attempt == 1 else 10")
        runs[house] = house.train(**environment)
    until(lambda: minutes_left(seeing) < 0.9, 180, "the last minute before the limit")
    runs[seeing][1].resume()
    saved = {}
    for house, (_, training) in runs.items():
        gone(training, 300)
        saved[house] = house.saved()
    for house, (snakemake, _) in runs.items():
        house.finish(snakemake)
    judge(seeing, upstream, [saved[seeing]], ["FAILED", "COMPLETED"])
    judge(blind, upstream, [saved[blind]], ["TIMEOUT", "COMPLETED"])
    assert f"the time limit is near; {saved[seeing]} of {IMAGES} images are saved" in seeing.logs()
    assert [r.minutes for r in seeing.records()] == [r.minutes for r in blind.records()] == [2, 10]


def minutes_left(house: Trainee) -> float:
    left = ask("squeue", "-h", "-j", house.records()[0].job, "-o", "%L").strip()
    minutes, seconds = left.split(":")
    return int(minutes) + int(seconds) / 60


@pytest.mark.slow
def test_shot_as_the_kernel_does_when_a_node_runs_out_of_memory(house, upstream):
    snakemake, training = house.train()
    training.kill()
    gone(training)
    saved = house.saved()
    house.finish(snakemake)
    judge(house, upstream, [saved], ["FAILED", "COMPLETED"])


@pytest.mark.slow
def test_over_its_memory_limit(house, upstream):
    house.request(mem_mb="200 if attempt == 1 else 8000")
    house.finish(house.start(TARGET))
    judge(house, upstream, [], ["FAILED", "COMPLETED"])
    assert [r.memory_mb for r in house.records()] == [200, 8000]
    first = house.records()[0].job
    assert "memory limit" in (house.folder / f"logs/slurm/rule_pretrain/ssimbad_0/{first}.log").read_text()


@pytest.mark.slow
def test_two_nodes_train_together_stop_together_and_continue(new_house, upstream):
    """The job script of docs/scaling.md, with one process on each of two nodes."""
    whole, cut = new_house("whole"), new_house("cut")
    whole.batch()
    cut.batch()
    until(cut.saved, 180, "a first state")
    training = cut.training()
    training.suspend()
    before = cut.saved()
    ask("scancel", "--signal=TERM", cut.records()[0].job)
    training.resume()
    gone(training)
    saved = cut.saved()
    assert saved >= before
    cut.batch()
    until(lambda: {r.state for r in (*whole.records(), *cut.records()[1:])} == {"COMPLETED"}, 180, "both are trained")
    assert cut.records()[0].state == "FAILED"
    assert f"{saved} of {IMAGES} images are saved" in cut.output()
    assert f"resumed at {saved} of {IMAGES} images" in cut.output()
    assert cut.weights() == whole.weights()
    for output in (whole.output(), cut.output()):
        assert output.count(f"{INSTANCE}: {IMAGES} images -> ") == 1
        assert "waiting" not in output and "up to date" not in output, "two trainings of their own"
    losses, of_one = (
        [float(x) for x in re.findall(rb"^.*,loss,(.*)$", made["csv"], re.MULTILINE)]
        for made in (whole.weights(), upstream[1])
    )
    assert len(losses) > 20
    assert losses == pytest.approx(of_one, rel=1e-3)


@pytest.mark.slow
def test_node_lost_and_found(house, upstream):
    """slurmd is killed for longer than the controller waits for it: SLURM requeues the job by itself."""
    snakemake, training = house.train()
    slurmd = re.search(r"SlurmdPidFile\s*= (\S+)", ask("scontrol", "show", "config"))[1]
    node = ask("squeue", "-h", "-j", house.records()[0].job, "-o", "%N").strip()
    os.kill(int(Path(slurmd.replace("%n", node)).read_text()), signal.SIGKILL)
    until(lambda: house.records()[0].state == "PENDING", 180, "the job is requeued")
    cluster.start()
    gone(training)
    saved = house.saved()
    house.finish(snakemake)
    judge(house, upstream, [saved], ["COMPLETED"])
    assert house.records()[0].restarts == 1
