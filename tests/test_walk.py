"""Random walks over a checkout: whatever the engines call fresh is what a computation from nothing makes.

The steps are what people do: edit, run an engine, kill it, swap an input, undo, switch the preset, go on in a second
clone. The stages of the long walks are toys (tests/walk/toys.py); Snakemake, DVC and the pipeline are the real ones. A
walk that fails is printed as its steps, as few as Hypothesis finds in five minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from .walk import kits
from .walk.house import Server
from .walk.steps import Walk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets in the abstract namespace")


class ToyWalk(Walk):
    kit = kits.TOYS

    @rule(step=kit.steps)
    def step(self, step: tuple) -> None:
        self.take(step)


class MiniatureWalk(Walk):
    kit = kits.MINIATURE

    @rule(step=kit.steps)
    def step(self, step: tuple) -> None:
        self.take(step)


@contextmanager
def ground(folder: Path, kind: str, house: Callable[[Path, Server], Path]) -> Iterator[tuple[Path, Path, Server]]:
    """The folder of the walks, the finished run that they start from, and the server of their commands."""
    served = Server(folder, kind)
    try:
        yield folder, house(folder / "template", served), served
    finally:
        served.close()


def walk(kind: type[Walk], place: tuple[Path, Path, Server], walks: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: kind(*place),
        settings=settings(
            max_examples=walks, stateful_step_count=1 + steps, derandomize=True, database=None, deadline=None,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink), print_blob=False,
            verbosity=Verbosity.debug if "SSIMBAD_WALK" in os.environ else Verbosity.normal,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    with ground(tmp_path_factory.mktemp("toys"), "toys", kits.toy_house) as place:
        yield place


@pytest.mark.engines
@pytest.mark.timeout(1200)
def test_thirty_steps(toys):
    walk(ToyWalk, toys, walks=3, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_steps(toys):
    walk(ToyWalk, toys, walks=10, steps=20)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_steps_of_the_real_stages(tmp_path):
    with ground(tmp_path, "real", kits.miniature_house) as place:
        walk(MiniatureWalk, place, walks=1, steps=10)
