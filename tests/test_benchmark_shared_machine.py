"""benchmarks/shared_machine.py: every kind of work, in both ways, quiet and beside competitors, at a tiny size."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.slow
def test_a_smoke_run_prints_one_line_per_work_and_way(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/shared_machine.py"), "--smoke", "--before"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, rule, *rows, last = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    ]
    assert head[2:5] == ["quiet", "beside one", "beside two"]
    assert list(dict.fromkeys(row[0] for row in rows)) == ["training", "refinement, 8 steps", "colouring", "evaluation"]
    assert len({(row[0], row[1]) for row in rows}) == len(rows) == 8
    assert all(len(row) == len(head) == len(rule) == 7 for row in rows)
    assert all(float(cell) > 0 for row in rows for cell in row[2:5])
    assert all(cell.endswith("%") for row in rows for cell in row[5:])
    assert "not a benchmark" in last[0]
    assert not list(tmp_path.iterdir())
