"""Computing again in scratch: what repeats, what does not, and that nothing of the user's is touched; known answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ssimbad import artifacts
from ssimbad.cli import app
from ssimbad.errors import ParameterError, UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import cleaning, code, known, records, runner, table, verify
from ssimbad.pipeline.table import Stage

from .conftest import ROOT, make_house, write_params

# A pipeline that costs nothing. What `moody` and `dear` write depends on a file that is no declared input.


def run_plain(params, inputs, outputs, job):
    artifacts.write_text(outputs["copy"], inputs["raw"].read_text() + str(params.data.seed))


def run_moody(params, inputs, outputs, job):
    artifacts.write_text(outputs["same"], inputs["copy"].read_text())
    artifacts.write_text(outputs["mood"], Path("mood").read_text())


def run_dear(params, inputs, outputs, job):
    state = job.scratch / "state"
    job.scratch.mkdir(parents=True, exist_ok=True)
    if not state.exists():
        state.write_text(Path("mood").read_text() + str(job.seed))
    job.note_cost(seconds=1)
    job.metrics(0, {"loss": 1.0})
    artifacts.write_text(outputs["weights"], state.read_text())


TOY = (
    Stage(
        "plain", "tests.test_verify:run_plain", lambda p, w: {"raw": "raw.txt"}, lambda p, w: {"copy": "data/copy.txt"},
        lambda p, w: ("data.seed",),
    ),
    Stage(
        "moody", "tests.test_verify:run_moody", lambda p, w: {"copy": "data/copy.txt"},
        lambda p, w: {"same": "data/same.txt", "mood": "data/mood.png"}, lambda p, w: ("colorize.seed",),
    ),
    Stage(
        "dear", "tests.test_verify:run_dear", lambda p, w: {"copy": "data/copy.txt"},
        lambda p, w: {"weights": f"models/{w['seed']}.txt"}, lambda p, w: (), each=lambda p: [{"seed": 0}, {"seed": 1}],
        expensive=True,
    ),
    Stage(
        "got", "tests.test_verify:run_plain", lambda p, w: {"raw": "raw.txt"}, lambda p, w: {"copy": "data/got.txt"},
        lambda p, w: ("data.seed",), fetched=True,
    ),
)  # fmt: skip


@pytest.fixture
def toy(house, monkeypatch):
    """The toy pipeline, made; since then the mood is another."""
    monkeypatch.setattr(table, "STAGES", TOY)
    monkeypatch.setattr(runner, "STAGES", TOY)
    monkeypatch.setattr(records, "version", lambda stage: 1)
    monkeypatch.setattr(code, "closure", lambda entry: ("code.py",))
    monkeypatch.setattr(known, "STAGES", ("plain", "moody"))
    (house / "raw.txt").write_text("face")
    (house / "code.py").write_text("")
    (house / "mood").write_text("happy")
    p = parameters.load()
    for instance in table.instances(p):
        runner.run(p, instance)
    (house / "mood").write_text("sad")
    return house


def everything(folder):
    """Every file with its bytes and time; md5s are remembered in .state, which is nobody's result."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.parent.name != ".state")
    return {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def said(*words):
    """Exit code and lines of `ssimbad verify`; as the entry point does, a user's mistake is one line."""
    done = CliRunner().invoke(app, ["verify", *words])
    if isinstance(done.exception, UserError):
        return done.exception.code, [f"ssimbad: {done.exception}"]
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines()


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def test_what_repeats_is_told_from_what_does_not(toy):
    before = everything(toy)
    status, lines = said()
    assert status == 1
    assert lines == [
        f"equal    data/copy.txt  {md5('face0')}",
        f"equal    data/same.txt  {md5('face0')}",
        f"differs  data/mood.png  there {md5('happy')}, computed again {md5('sad')}",
        "verify: 3 outputs of 2 stage instances computed again: 2 equal, 1 different",
        "verify: left out: dear (2) (expensive; name one, or give --expensive)",
        "verify: left out: got (1) (checked by its digest when it was fetched)",
    ]
    assert everything(toy) == before


@pytest.mark.parametrize("words", [("dear",), ("--expensive",), ("dear", "seed=1")])
def test_an_expensive_stage_is_computed_and_not_copied_from_what_was_kept(toy, words):
    """A state or a kept result would have repeated the mood in which it was made."""
    before = everything(toy)
    status, lines = said(*words)
    assert status == 1
    assert f"differs  models/1.txt  there {md5('happy1')}, computed again {md5('sad1')}" in lines
    assert any("models/0.txt" in line for line in lines) == ("seed=1" not in words)
    assert everything(toy) == before
    (toy / "mood").write_text("happy")
    assert said(*words)[0] == 0


def test_a_stage_that_fails_leaves_nothing_behind(toy, monkeypatch):
    before = everything(toy)
    (toy / "mood").unlink()
    with pytest.raises(FileNotFoundError):
        verify.run(parameters.load(), "moody", {})
    (toy / "mood").write_text("sad")
    assert everything(toy).keys() == before.keys()
    assert not list((toy / "work").glob("verify-*"))


VERIFY = """
from tests import test_verify as here
here.code.closure = lambda entry: ("code.py",)
here.records.version = lambda stage: 1
here.table.STAGES = here.runner.STAGES = here.TOY
here.verify.run(here.parameters.load(), "dear", {"seed": "0"})
"""


def test_what_a_killed_verification_leaves_is_cleaned_up(toy, monkeypatch):
    """While it lives nothing is removed under its hands."""
    (toy / "mood").unlink()
    os.mkfifo(toy / "mood")  # where the stage stands still
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", VERIFY], env=env, cwd=toy)
    with (toy / "mood").open("w"):  # it has come there
        with pytest.raises(UserError, match=r"^nothing removed: verify-dear-seed-0-[0-9a-f]{12}: process"):
            cleaning.run("work", parameters.load())
        process.kill()
        process.wait()
    (left,) = (toy / "work").glob("verify-*")
    (left / "my notes.txt").write_text("mine")
    (left / "models").mkdir()
    (left / "models/0.txt").write_text("computed again")
    cleaning.run("work", parameters.load())
    assert [p.name for p in left.rglob("*")] == ["my notes.txt"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda house: (house / "data/same.txt").write_text("other"), r"output data/same\.txt changed"),
        (lambda house: (house / "data/mood.png").unlink(), r"output data/mood\.png is missing"),
        (lambda house: (house / "data/copy.txt").write_text("other"), r"input data/copy\.txt changed"),
        (lambda house: (house / "data/copy.txt").unlink(), r"moody: input data/copy\.txt is missing"),
        (lambda house: (house / "code.py").write_text("# other"), r"code code\.py changed"),
        (lambda house: (house / "records/moody.json").write_text("{"), r"record records/moody\.json is unreadable"),
    ],
)
def test_without_a_fresh_result_there_is_nothing_to_compare_with(toy, spoil, reason):
    spoil(toy)
    before = everything(toy)
    with pytest.raises(UserError, match=rf"^moody: not fresh \({reason}.*\(`ssimbad stage moody`\)$"):
        verify.run(parameters.load(), "moody", {})
    assert everything(toy) == before


def test_what_changes_meanwhile_is_not_judged(toy, monkeypatch):
    compute = runner.compute_apart

    def swapped(*args):
        found = compute(*args)
        (toy / "raw.txt").write_text("another face")
        return found

    monkeypatch.setattr(runner, "compute_apart", swapped)
    with pytest.raises(UserError, match=r"plain: not fresh \(input raw\.txt changed\); it changed meanwhile"):
        verify.run(parameters.load(), "plain", {})


@pytest.mark.parametrize("words", [("plane",), ("dear", "seed=7"), ("--known", "plain"), ("--write",), ("dear", "1")])
def test_wrong_words_are_refused(toy, words):
    with pytest.raises(ParameterError):
        CliRunner().invoke(app, ["verify", *words], catch_exceptions=False)


def test_the_list_knows_every_parameter_of_the_demo(monkeypatch):
    """One that came since would leave its stage uncompared: `ssimbad verify --known --write` after `make demo`."""
    monkeypatch.chdir(ROOT)
    demo = parameters.load(known.DEMO)
    asked = {i.name: records.resolved(i, demo) for i in table.instances(demo) if i.name in known.STAGES}
    assert {stage: answer["params"] for stage, answer in known.read().items()} == asked


@pytest.fixture
def answers(toy):
    """The toy's known answers; the presets' demo has the toy's parameters, as far as its stages look at them."""
    (toy / "presets/demo.yaml").write_text((toy / "params.yaml").read_text())
    assert said("--known", "--write") == (0, ["known answers -> workflow/known.json"])
    return toy


def test_known_answers_leave_drawings_out_and_are_equal_where_they_were_made(answers):
    outputs = {path: md5 for answer in known.read().values() for path, md5 in answer["outputs"].items()}
    assert outputs == {"data/copy.txt": md5("face0"), "data/same.txt": md5("face0")}
    assert said("--known") == (
        0,
        [
            f"equal    data/copy.txt  {md5('face0')}",
            f"equal    data/same.txt  {md5('face0')}",
            "verify: 2 known answers: 2 equal, 0 different",
        ],
    )


def test_another_answer_is_a_difference(answers):
    """As another processor or library may give it: whole, fresh, and other bytes."""
    (answers / "raw.txt").write_text("fact")
    p = parameters.load()
    runner.run(p, table.instances(p)[0])
    status, lines = said("--known")
    assert status == 1
    assert lines[0] == f"differs  data/copy.txt  there {md5('fact0')}, known {md5('face0')}"
    assert lines[1] == "not made yet: moody: input data/copy.txt changed"
    assert lines[2] == "verify: 2 known answers: 0 equal, 1 different, 1 not compared"


def test_what_is_not_made_yet_is_told(answers):
    (answers / "data/same.txt").unlink()
    status, lines = said("--known")
    assert status == 1
    assert lines[1] == "not made yet: moody: output data/same.txt is missing"


def test_other_parameters_are_told_and_not_compared(answers):
    tree = yaml.safe_load((answers / "params.yaml").read_text())
    tree["data"]["seed"] = 5
    write_params(answers, tree)
    assert said("--known") == (
        1,
        [
            "not compared: plain: data.seed is not what it is in presets/demo.yaml",
            "not compared: moody: made from plain",
            "verify: 2 known answers: 0 equal, 0 different, 2 not compared",
        ],
    )
    before = (answers / known.FILE).read_bytes()
    with pytest.raises(UserError, match=r"known\.json: not written, plain: data\.seed is not what it is in"):
        known.write(parameters.load())
    assert (answers / known.FILE).read_bytes() == before


_NONE = "workflow/known.json: no list of known answers; restore the file from git (`git checkout workflow/known.json`)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"plain": {"params": {}}}',
        '{"plain": 1, "moody": 2}',
        b"\xff",
        None,
        "folder",
    ],
)
def test_a_list_that_is_none_is_one_line(toy, text):
    file = toy / known.FILE
    file.unlink(missing_ok=True)
    if text == "folder":
        file.mkdir()
    elif text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said("--known") == (1, [f"ssimbad: {_NONE}"])


def change(answers, edit):
    tree = json.loads((answers / known.FILE).read_text())
    edit(tree)
    (answers / known.FILE).write_text(json.dumps(tree))


def test_a_file_that_the_list_lacks_is_a_difference(answers):
    change(answers, lambda tree: tree["plain"]["outputs"].clear())
    assert said("--known") == (
        1,
        [
            f"differs  data/copy.txt  there {md5('face0')}, known nothing",
            "workflow/known.json: not the list of what plain makes; restore the file from git"
            " (`git checkout workflow/known.json`)",
            f"equal    data/same.txt  {md5('face0')}",
            "verify: 2 known answers: 1 equal, 1 different",
        ],
    )


@pytest.mark.parametrize("path", ["data/none.txt", "raw.txt", "/etc/passwd"])
def test_a_file_that_no_stage_makes_is_a_difference(answers, path):
    change(answers, lambda tree: tree["plain"]["outputs"].update({path: md5("fact0")}))
    status, lines = said("--known")
    assert status == 1
    assert f"differs  {path}  there no output of plain, known {md5('fact0')}" in lines
    assert any(line.startswith("workflow/known.json: not the list of what plain makes; restore") for line in lines)
    assert lines[-1] == "verify: 3 known answers: 2 equal, 1 different"


@pytest.mark.parametrize("edit", [lambda tree: tree.pop("moody"), lambda tree: tree.update(more=tree["plain"])])
def test_a_list_of_other_stages_is_none(answers, edit):
    change(answers, edit)
    assert said("--known") == (1, [f"ssimbad: {_NONE}"])


def test_stages_that_these_parameters_do_not_have_are_told(answers, monkeypatch):
    monkeypatch.setattr(table, "STAGES", TOY[1:])
    status, lines = said("--known")
    assert status == 1
    assert lines[0] == "not compared: plain: not part of the pipeline with these parameters"


def test_the_committed_list_is_of_the_demo_as_it_is(monkeypatch):
    """Its parameters and its files; whether its md5s are those of today's code, a slow test asks."""
    monkeypatch.chdir(ROOT)
    demo = parameters.load(known.DEMO)
    stages = {i.name: i for i in table.instances(demo) if i.name in known.STAGES}
    answers, remedy = known.read(), "`make demo`, then `ssimbad verify --known --write`"
    assert answers.keys() == stages.keys() == set(known.STAGES)
    for name, instance in stages.items():
        assert answers[name]["params"] == records.resolved(instance, demo), remedy
        files = {path for path in instance.outputs.values() if not path.endswith((".png", ".pdf"))}
        assert answers[name]["outputs"].keys() == files, remedy
        assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in answers[name]["outputs"].values())


def ssimbad(folder, *words, **environment):
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "SSIMBAD_DEVICE": "cpu", **environment}
    program = [sys.executable, "-c", "from ssimbad.cli import main; main()", *words]
    return subprocess.run(program, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_demos_data_and_schedule_are_the_known_ones(tmp_path):
    """Computed as an older processor would: without AVX2, FMA and what else came after SSE 4.2."""
    tree = yaml.safe_load((ROOT / known.DEMO).read_text())
    folder = make_house(tmp_path / "house", tree)
    old = {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Prescott", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX",
    }  # fmt: skip
    for stage in known.STAGES:
        done = ssimbad(folder, "stage", stage, **old)
        assert done.returncode == 0, done.stderr
    done = ssimbad(folder, "verify", "--known")
    assert done.returncode == 0, done.stdout + done.stderr
