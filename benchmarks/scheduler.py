"""What Snakemake's scheduler costs beside the jobs: processor seconds of the main process with its own rule of when to
look again and with ours (`pipeline/snakefile.py`), in one run.

    python benchmarks/scheduler.py [--jobs 150] [--seconds 0.3]

Trivial jobs of so many seconds each, two at a time, half of them behind the others, so that some always wait.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

SNAKEFILE = """
{calm}
N = {jobs} // 2
rule all:
    input: expand("second-{{i}}", i=range(N))
rule first:
    output: touch("first-{{i}}")
    shell: "sleep {seconds}"
rule second:
    input: "first-{{i}}"
    output: touch("second-{{i}}")
    shell: "sleep {seconds}"
"""
CALM = "from ssimbad.pipeline import snakefile; snakefile.calm()"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=0.3)
    asked = parser.parse_args()
    lines = []
    for name, calm in (("its own", ""), ("ours", CALM)):
        seconds, wall = measured(SNAKEFILE.format(calm=calm, jobs=asked.jobs, seconds=asked.seconds))
        lines.append((name, seconds, wall))
    print(f"{asked.jobs} jobs of {asked.seconds} s, two at a time")
    print(tabulate(lines, ["looks again", "processor, s", "wall, s"], floatfmt=".1f", tablefmt="github"))
    print(f"{lines[0][1] / lines[1][1]:.1f} times less")


def measured(text: str) -> tuple[float, float]:
    """Processor and wall seconds of one run, without those of starting and planning it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(text)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet"]
        planned, run = (used([*command, *more], folder) for more in (["-n"], []))
    return run[0] - planned[0], run[1] - planned[1]


def used(command: list[str], folder: str) -> tuple[float, float]:
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, after.elapsed - before.elapsed


if __name__ == "__main__":
    main()
