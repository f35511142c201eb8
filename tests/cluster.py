"""A real SLURM of one machine (tests/slurm), and a miniature house whose stages run on it with the shipped profile."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import ROOT, draw_faces, make_house, miniature, own_source

SCRIPTS = ROOT / "tests/slurm"
UNAVAILABLE = 69
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": "src",  # the house's own package
    "SSIMBAD_DEVICE": "cpu",  # the H100s of tests/slurm compute nothing
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.invalid",
    "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.invalid",
}  # fmt: skip
# The command of docs/cluster.md, in the repository root; the second line only saves the test some waiting.
COMMAND = ("snakemake", "--profile", "slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "1")


@dataclass(frozen=True)
class Record:
    """What the scheduler says of one job."""

    job: str
    rule: str
    state: str
    restarts: int
    partition: str
    gres: str
    cpus: int
    memory_mb: int
    minutes: int


def start() -> None:
    """Start the cluster, or skip the tests with the reason why there can be none here."""
    done = subprocess.run([SCRIPTS / "start.sh"], capture_output=True, text=True, timeout=300)
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def stop() -> None:
    subprocess.run([SCRIPTS / "stop.sh"], check=True, timeout=120)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def records(folder: Path) -> list[Record]:
    """The scheduler's own records of the jobs that worked in `folder`, in the order of submission."""
    lines = [f" {line} " for line in ask("scontrol", "show", "job", "--oneliner").splitlines()]
    return [_record(line) for line in lines if f" WorkDir={folder} " in line]


def _record(line: str) -> Record:
    def field(name: str) -> str:
        found = re.search(rf" {name}=(\S*)", line)
        return found[1] if found else ""

    size, unit = re.fullmatch(r"([\d.]+)([MG])", field("MinMemoryNode")).groups()
    days, _, clock = field("TimeLimit").rpartition("-")
    hours, minutes, _ = clock.split(":")
    return Record(
        job=field("JobId"),
        rule=re.match(r"rule_(\w+?)(_wildcards_|$)", field("Comment"))[1],
        state=field("JobState"),
        restarts=int(field("Restarts")),
        partition=field("Partition"),
        gres=field("TresPerNode").removeprefix("gres:"),
        cpus=int(field("NumCPUs")),
        memory_mb=round(float(size) * (1024 if unit == "G" else 1)),
        minutes=(int(days or 0) * 24 + int(hours)) * 60 + int(minutes),
    )


def smallest(**pretrain: object) -> dict:
    """Parameters with every stage in as few instances as there can be; faces come from a folder."""
    tree = miniature()
    tree["data"] |= {"source": "folder", "path": "data/raw/faces"}
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    tree["methods"]["ssimbad"]["pretrain"] |= pretrain
    return tree


class House:
    """A miniature repository on the cluster."""

    def __init__(self, folder: Path, tree: dict) -> None:
        self.folder = own_source(make_house(folder, tree))
        draw_faces(folder / "data/raw/faces", 26)
        (folder / "slurm").symlink_to("profiles/slurm")

    def version(self) -> None:
        """Make it a git and DVC repository, as a clone is."""
        self.run("git", "init", "-q", "-b", "main")
        self.run("dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc/config", self.folder / ".dvc/config")
        self.run("dvc", "config", "core.autostage", "false")
        self.run("ssimbad", "dvc-yaml")
        self.run("dvc", "add", "-q", "data/raw/faces")

    def run(self, *command: str, seconds: float = 600) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def start(self, target: str = "all", **environment: str) -> subprocess.Popen:
        """Snakemake in a session of its own; its log is snakemake.log."""
        with (self.folder / "snakemake.log").open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, target, *QUICK],
                cwd=self.folder,
                env={**ENVIRONMENT, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, snakemake: subprocess.Popen, seconds: float = 900) -> None:
        """Wait until it ends well; on failure nothing of it is left behind."""
        try:
            code = snakemake.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(snakemake.pid, signal.SIGKILL)
            code = "too late"
        assert code == 0, f"{code}\n{(self.folder / 'snakemake.log').read_text()[-6000:]}"

    def records(self, rule: str | None = None) -> list[Record]:
        return [r for r in records(self.folder) if rule in (None, r.rule)]
