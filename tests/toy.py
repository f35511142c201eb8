"""A pipeline of two stages that costs nothing: `cheap` copies a file, `dear` counts how often it was computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssimbad import artifacts
from ssimbad.params import tree as parameters
from ssimbad.pipeline import code, records, runner, table
from ssimbad.pipeline.table import Stage


def load(tree):
    return parameters.Params.model_validate(tree)


meddle = {}  # what somebody does to the inputs: {"before" or "after" the stage reads them: function}


def run_cheap(params, inputs, outputs, job):
    meddle.get("before", Path)()
    text = inputs["raw"].read_text()
    meddle.get("after", Path)()
    artifacts.write_text(outputs["copy"], text)
    meddle.get("written", Path)()


def run_dear(params, inputs, outputs, job):
    """Reads its input, or goes on from what it has read of it, as a training does."""
    counter = Path("computed.txt")
    counter.write_text(counter.read_text() + "x" if counter.exists() else "x")
    state = job.scratch / "state.txt"
    if not state.exists():
        meddle.get("before", Path)()
        text = inputs["copy"].read_text()
        meddle.get("after", Path)()
        if "confirmed" in meddle:
            job.confirm()
        job.scratch.mkdir(parents=True, exist_ok=True)
        state.write_text(text)
    meddle.get("end", Path)()
    artifacts.write_text(outputs["weights"], state.read_text() + str(params.colorize.seed))
    job.note_cost(seconds=params.colorize.seed)
    meddle.get("written", Path)()


@pytest.fixture
def toy(house, monkeypatch):
    toy_version["dear"] = 1
    meddle.clear()
    stages = (
        Stage(
            "cheap", "tests.toy:run_cheap", lambda p, w: {"raw": "raw.txt"},
            lambda p, w: {"copy": "copy.txt"}, lambda p, w: ("data.seed",),
        ),
        Stage(
            "dear", "tests.toy:run_dear", lambda p, w: {"copy": "copy.txt"},
            lambda p, w: {"weights": "weights.txt"}, lambda p, w: ("colorize.seed",), expensive=True,
        ),
    )  # fmt: skip
    monkeypatch.setattr(table, "STAGES", stages)
    monkeypatch.setattr(runner, "STAGES", stages)
    monkeypatch.setattr(records, "version", lambda stage: toy_version["dear"])
    monkeypatch.setattr(code, "closure", lambda entry: ("code.py",))
    (house / "raw.txt").write_text("face")
    (house / "code.py").write_text("# first\n")
    return house


toy_version = {"dear": 1}


def bring(tree):
    p = load(tree)
    for instance in table.instances(p):
        runner.run(p, instance)
    return p


def computed():
    return len(Path("computed.txt").read_text())
