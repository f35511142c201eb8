"""benchmarks/gpu.py: every path on a CPU, with nothing installed beyond what its docstring names."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading

import pytest
import torch

from .conftest import ROOT

SCRIPT = ROOT / "benchmarks/gpu.py"
# Of the project's dependencies, those that a bare GPU machine need not have.
ABSENT = {
    *("PIL", "dicebear", "dvc", "lightning_fabric", "lpips", "matplotlib", "mlflow", "pandas", "piq"),
    *(
        "psutil",
        "pytorch_fid",
        "resvg_py",
        "rich",
        "safetensors",
        "scipy",
        "skimage",
        "snakemake",
        "torchvision",
        "typer",
    ),
}
WITHOUT = f"""
import runpy, sys
from importlib.machinery import PathFinder
class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.split(".")[0] in {ABSENT} else super().find_spec(name, *rest)
sys.meta_path[sys.meta_path.index(PathFinder)] = Present
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT, str(SCRIPT), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_path_runs_on_a_cpu_at_a_tiny_size(tmp_path):
    done = call("--device", "cpu", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = json.loads(next(tmp_path.glob("*-smoke.json")).read_text())
    assert made["smoke"] is True
    assert {row["outcome"] for row in made["rows"]} == {"ok"}, made["rows"]
    assert all(row["images_per_second"] > 0 and row["peak_bytes"] is None for row in made["rows"])
    kinds = [(row["kind"], row["mode"], row["steps"], row["checkpointing"]) for row in made["rows"]]
    assert len({k for k in kinds if k[0] == "train"}) == 8
    assert {k[2:] for k in kinds if k[0] == "refine"} == {(2, False), (2, True), (3, False), (3, True)}
    assert [row["batch"] for row in made["rows"] if row["kind"] == "sample"] == [1, 2]
    assert "not a benchmark" in done.stdout


def test_without_a_gpu_one_line_and_exit_code_2(tmp_path):
    done = call("--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--device cpu" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_a_row(gpu):
    p = gpu.params.load(ROOT / "presets/paper.yaml")
    bench = gpu.Bench(p, gpu.scale(p, smoke=True), torch.device("cpu"))

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    def broken():
        raise RuntimeError("no compiler\nsecond line")

    row = gpu.Row("refine", "bf16", 8, 50, False)
    assert gpu.measured(bench, row, lambda: full).outcome == "does not fit"
    assert gpu.measured(bench, row, full).outcome == "does not fit"
    assert gpu.measured(bench, row, lambda: broken).outcome == "failed: no compiler"
    made = gpu.report(bench, [gpu.measured(bench, row, lambda: full)], smoke=False)
    assert "does not fit" in gpu.table(made)


def test_the_full_size_is_the_papers_network(gpu):
    p = gpu.params.load(ROOT / "presets/paper.yaml")
    how = gpu.scale(p, smoke=False)
    assert (how.network, how.size) == (p.network, 256)
    assert how.refine_steps == (10, 50)
    assert how.sample_batches == (1, 64)
    assert gpu.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_on_a_cpu_the_work_of_a_row_runs_on_each_core(gpu):
    """Two at a time, each alone on its core, and both count."""
    p = gpu.params.load(ROOT / "presets/paper.yaml")
    how = gpu.scale(p, smoke=False, device="cpu")
    assert how.size == 256 and how.chained in how.modes and how.refine_steps == (2,)
    bench = gpu.Bench(p, how, torch.device("cpu"), lanes=2)
    seen, together = [], threading.Barrier(2, timeout=60)

    def prepare():
        def work():
            together.wait()  # nobody alone comes past it
            seen.append(torch.get_num_threads())

        return work

    row = gpu.measured(bench, gpu.Row("train", "fp32", 1), prepare)
    assert row.outcome == "ok" and set(seen) == {1} and len(seen) == 2 * 5
    made = gpu.report(bench, [row], smoke=False)
    assert made["lanes"] == 2 and made["device"].endswith(" cores")


@pytest.mark.gpu
def test_the_smoke_run_on_a_gpu_measures_memory(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    done = call("--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = json.loads(next(tmp_path.iterdir()).read_text())
    assert all(row["peak_bytes"] for row in made["rows"] if row["outcome"] == "ok")
