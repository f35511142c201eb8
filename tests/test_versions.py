"""Expensive stages depend on a number instead of on their code; nobody changes the code and forgets the number."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import Field

from ssimbad import cli
from ssimbad.errors import UserError
from ssimbad.features import registry as features
from ssimbad.methods import registry
from ssimbad.metrics import registry as metrics
from ssimbad.params import tree as parameters
from ssimbad.pipeline import code, records, table, versions
from ssimbad.pipeline.table import STAGES

from .conftest import ROOT, own_source


def test_the_versions_stand_for_the_code_that_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = versions.doubts()
    assert found == [], f"changed since it was confirmed: {'; '.join(found)}. Do this: {versions.REMEDY}"


@pytest.fixture
def clone(house, monkeypatch) -> Path:
    """A checkout whose files can be edited, with its code confirmed."""
    own_source(house)
    monkeypatch.setattr(code, "require_own", lambda: None)
    versions.confirm()
    assert versions.doubts() == []
    return house


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


TRAININGS = "encoder, pretrain, finetune"
EVERYWHERE = f"{TRAININGS}, colorize, nfe, spread, reverse"


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        *((f"methods/{name}.py", EVERYWHERE) for name in (*registry.kinds(), "chain", "contract")),
        ("networks/unet.py", EVERYWHERE),
        ("noise/transforms.py", EVERYWHERE),
        ("samplers/ode.py", EVERYWHERE),
        ("training/loop.py", TRAININGS),
        ("training/feed.py", TRAININGS),
        ("colorize/nfe.py", "nfe"),
        ("colorize/reverse.py", "reverse"),
    ],
)
def test_a_change_of_code_names_the_file_and_the_stages(clone, capsys, file, stages):
    path = clone / "src/ssimbad" / file
    path.write_text(path.read_text() + "\nadded = 1\n")
    assert versions.doubts() == [f"src/ssimbad/{file} (run by {stages})"]
    with pytest.raises(UserError, match=r"raise the versions of these stages in workflow/versions\.yaml, or make sure"):
        cli.versions(confirm=False)
    assert f"src/ssimbad/{file}" in capsys.readouterr().out
    cli.versions(confirm=True)
    assert versions.doubts() == []


def test_what_a_program_says_of_itself_does_not_count(clone):
    file = clone / "src/ssimbad/methods/edm.py"
    edit(file, '"""EDM (Karras', '"""A word more. EDM (Karras')
    edit(file, "config: Config = setup.config", "config: Config = setup.config  # a comment\n")
    edit(file, 'description="mean of ln sigma"', 'description="the mean of\\n ln sigma"')
    edit(file, "METHOD = Method(", '"""It samples."""\nMETHOD = Method(')
    edit(
        clone / "src/ssimbad/pairing/stage_sketches.py", "from pathlib", "import math\nfrom pathlib"
    )  # of cheap stages only
    assert versions.doubts() == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"), ("x = 1", "x = True"), ("x = 'a'", "x = b'a'"), ("x = f(a)", "x = f(a=a)"),
        ("x = f(description=1)", "x = f()"), ("def f(a, b=1): pass", "def f(a, b=2): pass"),
        ("def f(*, a): pass", "def f(a): pass"), ("x = [a, b]", "x = [b, a]"), ("x = -1", "x = +1"),
        ("return_ = None", "return_ = 0"), ("if a:\n b()\nc()", "if a:\n b()\n c()"), ("x = 'doc'", "x = 'dog'"),
        ("x = f'{a:.2f}'", "x = f'{a:.3f}'"), ("x: int = 1", "x: float = 1"), ("@f\ndef g(): pass", "def g(): pass"),
    ],
)  # fmt: skip
def test_other_code_is_spelled_otherwise(one, other):
    assert versions.normal(one) != versions.normal(other)


def test_layout_is_not_spelled():
    assert versions.normal('"""Doc."""\nx = f(1, b="c")  # why') == versions.normal("x = f(\n    1,\n    b='c',\n)\n")
    assert versions.normal("x = Field(1, description='a')") == versions.normal("x = Field(1, description='b')")


def test_a_changed_default_is_named(clone, monkeypatch):
    edm, ssimbad, get = registry.get("edm"), registry.get("ssimbad"), registry.get

    class Config(edm.Config):
        rho: float = Field(default=6.0)

    class Denoising(edm.objectives["denoising"]):
        weight: float = 1.0

    objectives = {**edm.objectives, "denoising": Denoising}
    changed = {
        "edm": replace(edm, Config=Config, objectives=objectives),
        "ssimbad": replace(ssimbad, objectives=objectives),
    }
    monkeypatch.setattr(registry, "get", lambda kind: changed.get(kind) or get(kind))
    assert versions.doubts() == [
        "default of edm.Config.rho: 7.0 -> 6.0",
        "default of edm.Denoising.weight: none -> 1.0",
        "default of ssimbad.Denoising.weight: none -> 1.0",
    ]


def test_a_raised_version_is_confirmed_too(clone):
    """So that the next change is measured against the code of this version."""
    edit(clone / "workflow/versions.yaml", "colorize: 2", "colorize: 7")
    assert versions.doubts() == ["version of colorize: 2 -> 7"]


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"files": 1, "defaults": {}, "versions": {}}', "<<<<<<< ours"])
def test_a_damaged_list_is_told_in_one_line(clone, text):
    versions.CONFIRMED.unlink() if text is None else versions.CONFIRMED.write_text(text)
    with pytest.raises(UserError, match=r"workflow/closures\.json: missing or damaged; restore the file from git"):
        versions.doubts()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"<<<<<<< ours\npretrain: 3\n=======\npretrain: 4\n>>>>>>> theirs\n", ", line 2: not valid YAML"),
        (b"pretrain: 3\nfinetune: 3\npretrain: 4\n", ", line 3: key pretrain is given twice, before in line 1"),
        (b"pretrain: 3\n# \xff\n", ": not UTF-8 text"),
        (b"[" * 100_000, ": not valid YAML: values in values in values, too deep to read"),
        *((text, ": no version for stage pretrain; restore the file from git") for text in (
            None, b"", b"- pretrain", b"3", b"pretrain:", b"pretrain: [3]", b"pretrain: three", b"pretrain: true",
        )),
    ],
)  # fmt: skip
def test_damaged_versions_are_told_in_one_line(house, capsys, text, said):
    """And make no stage fresh, nor stop the command that tells what is."""
    records.VERSIONS.unlink() if text is None else records.VERSIONS.write_bytes(text)
    with pytest.raises(UserError, match=f"^{re.escape(f'{records.VERSIONS}{said}')}") as caught:
        records.version(next(stage for stage in STAGES if stage.name == "pretrain"))
    assert "\n" not in str(caught.value)
    cli.status()
    assert "Traceback" not in capsys.readouterr().err


def test_the_list_is_the_same_wherever_it_is_made(clone):
    committed = json.loads((ROOT / versions.CONFIRMED).read_text())
    made = json.loads(versions.CONFIRMED.read_text())
    assert made["files"].keys() == committed["files"].keys()
    assert made["defaults"].keys() == committed["defaults"].keys()


def test_the_closure_of_an_expensive_stage_has_every_method():
    # face_features runs none of them.
    for stage in (s for s in table.STAGES if s.expensive and s.name != "face_features"):
        files = code.closure(stage.run)
        assert {f"src/ssimbad/methods/{kind}.py" for kind in registry.kinds()} <= set(files), stage.name
        assert {"src/ssimbad/networks/unet.py", "src/ssimbad/noise/transforms.py"} <= set(files), stage.name


def test_the_ladder_is_stale_when_a_methods_default_changes():
    """It shows the whole configuration of its rungs, defaults among it: they stand in its record."""
    p = parameters.load(ROOT / "presets/demo-ladder.yaml")
    (ladder,) = [i for i in table.instances(p) if i.name == "ladder"]
    assert records.resolved(ladder, p)["methods.edm.config"]["rho"] == 7.0


def test_metrics_and_feature_networks_are_in_the_closure_of_what_measures_by_all_of_them():
    """And in no expensive stage's: another metric raises no doubt of a training or a colouring."""
    everything = {f"src/ssimbad/metrics/{name}.py" for name in metrics.names()}
    for entry in ("ssimbad.metrics.evaluate:run", "ssimbad.metrics.baselines:run"):
        networks = {f"src/ssimbad/features/{name}.py" for name in features.names()}
        assert everything | networks <= set(code.closure(entry))
    for stage in (s for s in table.STAGES if s.expensive):
        found = everything & set(code.closure(stage.run))
        assert found <= {"src/ssimbad/metrics/psnr.py", "src/ssimbad/metrics/ms_ssim.py"}, stage.name


def test_modules_are_loaded_by_name_in_registries_and_the_runner_only():
    """Any other would be missing in the closures: a registry's are added, the runner's are the stages themselves."""
    places = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = isinstance(node, ast.Name) and node.id in ("exec", "eval", "__import__")
            loads = ("import_module", "exec_module", "run_path", "run_module")
            if named or getattr(node, "attr", getattr(node, "id", None)) in loads:
                places.add(str(file.relative_to(ROOT / "src/ssimbad")))
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
    rooms = ("faces/sources", "features", "methods", "metrics")
    assert places == {f"{room}/registry.py" for room in rooms} | {"pipeline/runner.py"}
