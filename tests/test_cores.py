"""Cores: the grant is read once, libraries compute with one thread each, and work is mapped over threads of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssimbad.errors import ParameterError
from ssimbad.runtime import cores

from .conftest import ROOT

VARIABLES = (
    *("SSIMBAD_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("OMP_PROC_BIND", "OMP_WAIT_POLICY", "VECLIB_MAXIMUM_THREADS"),
)
# Every library that a stage may load computes once; with one thread each, the process has no thread beside its own.
COMPUTES = """
import sys
from ssimbad import cli
from ssimbad.runtime import cores
heavy = {"numpy", "torch", "scipy"} & set(sys.modules)
assert not heavy, heavy  # they read the variables when they are loaded
def app():
    import numpy, scipy.linalg, torch
    square = numpy.random.default_rng(0).random((400, 400))
    scipy.linalg.sqrtm(square @ square.T)
    big = torch.ones(400, 400)
    (big @ big).exp_()
    torch.nn.functional.conv2d(torch.ones(8, 16, 32, 32), torch.ones(16, 16, 3, 3))
    import os
    print(cores.granted(), torch.get_num_threads(), len(os.listdir("/proc/self/task")))
cli.app = app
cli.main()
"""


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # noted, so that whatever a test sets is unset at its end
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return monkeypatch


def said(**given: str) -> list[int]:
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"PYTHONPATH": str(ROOT / "src")} | given
    done = subprocess.run([sys.executable, "-c", COMPUTES], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads that Linux shows")
@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "3"}, {"SSIMBAD_THREADS": "3", "MKL_NUM_THREADS": "2"}])
def test_whatever_was_granted_no_library_starts_threads_of_its_own(given):
    grant, of_torch, in_all = said(**given)
    assert (of_torch, in_all) == (1, 1)
    assert grant == (min(3, os.cpu_count()) if given else len(os.sched_getaffinity(0)))


def test_the_engine_is_asked_before_openmp_and_openmp_before_the_machine(environment):
    assert 1 <= cores.granted() <= os.cpu_count()
    environment.setenv("OMP_NUM_THREADS", "5")
    assert cores.granted() == 5
    environment.setenv("SSIMBAD_THREADS", "7")
    assert cores.granted() == 7


def test_openmps_list_counts_by_its_first_level(environment):
    for given in ("4,2", "4", " 4 , 2 "):
        environment.setenv("OMP_NUM_THREADS", given)
        assert cores.granted() == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SSIMBAD_THREADS"])
@pytest.mark.parametrize("given", ["0", "000", "-1", "many", "1.5", ",2", "², 2", "٠", "٣", " ", "x" * 5000])
def test_a_grant_that_is_no_number_is_named(environment, name, given):
    environment.setenv(name, given)
    with pytest.raises(ParameterError, match=name) as caught:
        cores.granted()
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SSIMBAD_THREADS"])
@pytest.mark.parametrize("given", ["9", "4096", "100000000", "9" * 5000, "100000000,2"])
def test_no_more_cores_are_granted_than_the_machine_has(environment, name, given):
    """Each has a thread, and pictures or networks of its own."""
    environment.setenv(name, given)
    assert cores.granted() == 8
    environment.setenv(name, "0" * 5000 + "3")
    assert cores.granted() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_bound_to_one_core_is_granted_one(environment):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.granted() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_claim_lets_children_know_the_grant(environment):
    environment.setenv("OMP_NUM_THREADS", "6")
    cores.claim()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert cores.granted() == 6
    cores.claim()
    assert cores.granted() == 6
