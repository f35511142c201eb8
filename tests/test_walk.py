"""Random walks over a checkout: whatever the engines call fresh is what a computation from nothing makes.

The steps are what people do: edit, run an engine, kill it, swap an input, undo, switch the preset, go on in a second
clone. Stages are toys (tests/walk/toys.py); Snakemake, DVC and the pipeline are the real ones.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, Verbosity, assume, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from .conftest import ROOT, miniature, write_params
from .walk import toys
from .walk.house import Command, Gate, House, Server

COMMANDS = {"snakemake": ("snakemake", "--cores", "2", "all"), "dvc": ("dvc", "repro", "-q")}
FACES, LIST = "data/raw/faces", "data/raw/list.txt"
OUTSIDE = "../faces"  # beside the checkout, with a folder that is a link
VALUES = {
    "data.seed": (0, 1),
    "sketches.seed": (0, 1),
    "methods.ssimbad.pretrain.learning_rate": (1.0e-3, 2.0e-3),
    "colorize.seed": (0, 1),
    "evaluation.seed": (0, 1),
    "data.path": (OUTSIDE, FACES),
    "data.test_list": (None, LIST),
    "seeds": ([0], [0, 1]),
}
OWN = dict(zip((s.name for s in toys.STAGES), VALUES, strict=False))  # a parameter of each stage
READS = {
    "faces": (f"{OUTSIDE}/0.png", f"{OUTSIDE}/linked/0.png", f"{FACES}/0.png", LIST),
    "sketches": ("data/faces/train.npy",),
    "pretrain": (toys.HINTS, "data/faces/train.npy", "data/sketches/train.npy"),
    "colorize": ("models/ssimbad/seed-0.safetensors", "data/sketches/train.npy"),
    "tables": ("outputs/ssimbad/seed-0.zip", "models/ssimbad/seed-0.json"),
}
RAW = (*READS["faces"], toys.HINTS)
MADE = ("data/faces/train.npy", "models/ssimbad/seed-0.json", "reports/tables/main.md", "records/sketches.json")
WAYS = ("in place", "in place, same time", "renamed", "renamed, same time", "added", "deleted")

# Every change goes to the next of a few values: always another one, and back again before long.
parameter = st.tuples(st.just("parameter"), st.sampled_from(tuple(VALUES)))
code = st.tuples(st.just("code"), st.sampled_from(("shared", *toys.CHEAP, *toys.EXPENSIVE)))
comment = st.tuples(st.just("comment"), st.sampled_from((*toys.CHEAP, *toys.EXPENSIVE)))
raw = st.tuples(st.just("swap"), st.sampled_from(RAW), st.sampled_from(WAYS))
made = st.tuples(st.just("swap"), st.sampled_from(MADE), st.sampled_from(("in place", "deleted")))
engine = st.sampled_from(tuple(COMMANDS))
point = st.tuples(st.sampled_from(tuple(OWN)), st.sampled_from(("start", "read", "half", "end", "record")))
between = st.sampled_from(
    (("snakemake", "surveyed"), ("sync", "surveyed"), ("sync", "save"), ("sync", "dump"), ("dvc", "save"), ("dvc", "dump"))
)  # fmt: skip
read = st.sampled_from(tuple(OWN)).flatmap(
    lambda s: st.tuples(st.just("swap"), st.sampled_from(READS[s]), st.sampled_from(WAYS[:4])).flatmap(
        lambda c: st.tuples(st.tuples(st.just(s), st.sampled_from(("start", "read", "end", "record"))), st.just(c))
    )
)


def _step(name: str, *arguments: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), *arguments)


steps = st.one_of(
    *[_step("run", engine)] * 3,
    *[_step("edit", st.one_of(parameter, raw, code, comment), st.booleans())] * 3,
    *[_step("kill", engine, st.one_of(point, between), st.booleans())] * 2,
    *[_step("meddle", engine, read, st.booleans())] * 3,
    _step("meddle", engine, st.tuples(between, parameter), st.booleans()),
    _step("edit", made, st.just(False)),
    _step("by_hand", st.sampled_from(tuple(OWN))),
    _step("sync"),
    _step("restore", st.sampled_from(("params.yaml", "src", "data/raw"))),
    _step("commit"),
    _step("checkout", st.integers(0, 2), st.booleans()),
    _step("preset", st.sampled_from(("small", "large"))),
    _step("other_clone"),
)


class Walk(RuleBasedStateMachine):
    """One walk, from a finished run."""

    def __init__(self, folder: Path, template: Path, served: Server) -> None:
        super().__init__()
        self._template, self._served, self._memo = template, served, folder / "memo"
        self._folder = next(f for n in itertools.count() if not (f := folder / f"walk-{n}").exists())
        self._blind = False  # whether something was done that DVC cannot see

    # A walk that draws only first choices repeats one step; it is passed over.
    @initialize(go=st.integers(0, 9))
    def begin(self, go: int) -> None:
        assume(go)
        shutil.copytree(self._template, self._folder, symlinks=True)
        self.house = House(self._folder / "house", self._served)
        self._houses, self._tags = [self.house], 1

    @rule(step=steps)
    def step(self, step: tuple) -> None:
        name, *arguments = step
        getattr(self, f"_{name}")(*arguments)

    @invariant()
    def nothing_wrong_is_called_fresh(self) -> None:
        if hasattr(self, "house"):
            self._check()

    def _check(self) -> None:
        views = self.house.views(self._memo)
        assert views.snakemake in (None, views.records), "Snakemake plans other jobs than for what is not fresh"
        for name, wrong in views.wrong.items():
            trusting = [who for who in ("records", "dvc") if name in getattr(views, who)]
            if self._blind and trusting == ["dvc"]:
                continue
            assert not (trusting and wrong), (
                f"{name} is called fresh by {' and '.join(trusting)}, but has wrong {wrong}"
            )

    def _run(self, engine: str) -> None:
        """An engine that nobody disturbs makes everything fresh, in the eyes of both, or says why it cannot."""
        before = self.house.views(self._memo)
        code, said = self.house.run(*COMMANDS[engine])
        assert "Traceback" not in said, said
        after = self.house.views(self._memo)
        if before.possible and before.told:
            assert code == 0, said
            if not (engine == "dvc" and self._blind):
                assert after.records == after.names, f"{engine} left {after.names - after.records}\n{said}"
            if not self._blind:
                assert after.dvc == after.names, f"{engine} left {after.names - after.dvc} to DVC\n{said}"

    def _edit(self, change: tuple, tell: bool) -> None:
        """`tell`: let dvc.yaml follow."""
        self._change(change)
        if tell:
            self.house.must("ssimbad", "dvc-yaml")

    def _by_hand(self, stage: str) -> None:
        w = [] if stage in toys.CHEAP else ["method=ssimbad", "seed=0"]
        _, said = self.house.run("ssimbad", "stage", stage, *w)
        assert "Traceback" not in said, said

    def _sync(self) -> None:
        self.house.run("ssimbad", "sync")

    def _kill(self, engine: str, point: tuple[str, str], alone: bool) -> None:
        """`kill -9`, or of the engine `alone`: what it has started goes on."""
        command, gate = self._started(engine, point)
        if gate.reached(command):
            command.kill(alone)
            gate.open()
            command.gone()
            self.house.must("snakemake", "--unlock", "all")
        else:
            command.ended()

    def _meddle(self, engine: str, meddling: tuple[tuple[str, str], tuple], back: bool) -> None:
        """Change something while an engine works, perhaps change it back when that has ended, and run it again."""
        point, change = meddling
        command, gate = self._started(engine, point)
        undo = self._change(change) if gate.reached(command) else None
        gate.open()
        command.ended()
        if undo and back:
            undo()
        self._check()
        self.house.run(*COMMANDS[engine])

    def _started(self, engine: str, point: tuple[str, str]) -> tuple[Command, Gate]:
        """An engine that has something to do, and will stand still at the point."""
        self._change(("parameter", OWN.get(point[0], "data.seed")))
        gate = Gate(self._folder)
        return self.house.start(*COMMANDS[engine], WALK_STOP=" ".join(point), WALK_GATE=gate.address), gate

    def _restore(self, what: str) -> None:
        """Files as they were at the last commit."""
        self.house.git("checkout", "-q", "HEAD", "--", *{"src": ["src", "workflow"]}.get(what, [what]))
        if what == "data/raw":
            self.house.run("dvc", "checkout", "-q", "--force", f"{FACES}.dvc")

    def _commit(self) -> None:
        for command in (("ssimbad", "sync"), ("dvc", "add", "-q", FACES), ("dvc", "push", "-q")):
            self.house.run(*command)
        self.house.git("add", "-A")
        self.house.git("commit", "-q", "--allow-empty", "-m", f"v{self._tags}")
        self.house.git("tag", f"v{self._tags}")
        self._tags += 1

    def _checkout(self, back: int, force: bool) -> None:
        """A commit and its bytes."""
        known = self.house.tags()
        self.house.git("checkout", "-q", "--force", known[-1 - back % len(known)])
        self.house.run("dvc", "checkout", "-q", *(["--force"] if force else []))

    def _preset(self, name: str) -> None:
        self.house.run("ssimbad", "preset", name)

    def _other_clone(self) -> None:
        """A second clone, with the bytes of the last commit; then back again."""
        if len(self._houses) == 1:
            made = House(self._folder / "clone", self._served)
            self.house.git("clone", "-q", ".", str(made.folder))
            made.must("dvc", "config", "-q", "--local", "core.autostage", "false")
            made.run("dvc", "pull", "-q")
            self._houses.append(made)
        self.house = self._houses[1 - self._houses.index(self.house)]

    def teardown(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _change(self, change: tuple) -> Callable[[], object]:
        """Make the change; returns what takes it back."""
        self.house.touched()
        kind, *what = change
        return getattr(self, f"_change_{kind}")(*what)

    def _change_parameter(self, key: str) -> Callable[[], object]:
        file = self.house.folder / "params.yaml"
        before = file.read_text()
        tree = node = yaml.safe_load(before)
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = _next(VALUES[key], node[last])
        note(f"    {key} is now {node[last]}")
        write_params(self.house.folder, tree)
        return lambda: file.write_text(before)

    def _change_code(self, stage: str) -> Callable[[], object]:
        """Who changes what an expensive stage computes raises its version."""
        file, versions = (self.house.folder / f for f in (f"src/ssimbad/toy/{stage}.py", "workflow/versions.yaml"))
        before = file.read_text(), versions.read_text()
        salt = 1 - toys.salt(before[0])
        note(f"    the code of {stage} has SALT = {salt}")
        file.write_text(toys.source(stage, salt))
        if stage in toys.EXPENSIVE:
            versions.write_text(yaml.safe_dump({**yaml.safe_load(before[1]), stage: 1 + salt}))
        return lambda: [f.write_text(text) for f, text in zip((file, versions), before, strict=True)]

    def _change_comment(self, stage: str) -> Callable[[], object]:
        file = self.house.folder / f"src/ssimbad/toy/{stage}.py"
        before = file.read_text()
        file.write_text(f"{before}# a comment\n")
        return lambda: file.write_text(before)

    def _change_swap(self, name: str, how: str) -> Callable[[], object]:
        path = self.house.folder / name
        if how == "added":
            path = path.with_name(f"added{path.suffix}")
        before = path.read_text() if path.exists() else None
        if before is None:
            after = f"{path.name} 0\n"
        else:
            after = None if how == "deleted" else before[:-2] + chr(ord(before[-2]) ^ 1) + before[-1]
        self._write(path, after, how)
        note(f"    {name} is now {after!r}, was {before!r}")
        return lambda: self._write(path, before, "in place")

    def _write(self, path: Path, text: str | None, how: str) -> None:
        self._blind = self._blind or how == "in place, same time" or "linked" in path.parts
        stat = path.stat() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink(missing_ok=True)
            return
        if how.startswith("renamed"):
            path.with_name(".new").write_text(text)
            path.with_name(".new").replace(path)
        else:
            path.write_text(text)
        if how.endswith("same time") and stat:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _next(values: tuple, value: object) -> object:
    return values[(values.index(value) + 1) % len(values)]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """The folder of the walks, a finished run of the toys to start from, and the server of the commands."""
    folder = tmp_path_factory.mktemp("walk")
    served = Server(folder, "toys")
    yield folder, _template(folder / "template", served), served
    served.close()


def _template(folder: Path, served: Server) -> Path:
    house = House(folder / "house", served)
    shutil.copytree(ROOT / "profiles", house.folder / "profiles")
    for name in ("workflow/rules/common.smk", ".gitignore", ".dvcignore"):
        (house.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, house.folder / name)
    shutil.copy(Path(toys.__file__).with_name("Snakefile"), house.folder)
    (house.folder / "workflow/versions.yaml").write_text(yaml.safe_dump(dict.fromkeys(toys.EXPENSIVE, 1)))
    (house.folder / "src/ssimbad/toy").mkdir(parents=True)
    for stage in ("shared", *toys.CHEAP, *toys.EXPENSIVE):
        (house.folder / f"src/ssimbad/toy/{stage}.py").write_text(toys.source(stage, 0))
    _write_presets(house.folder)
    for raw in (house.folder / FACES, folder / "faces", folder / "elsewhere"):
        raw.mkdir(parents=True)
        (raw / "0.png").write_text("0.png 0\n")
        (raw / "1.png").write_text("1.png 0\n")
    (folder / "faces/linked").symlink_to("../elsewhere")
    (house.folder / toys.HINTS).write_text("hints.txt 0\n")
    (house.folder / LIST).write_text("list.txt 0\n")
    house.git("init", "-q", "-b", "main")
    house.must("dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", house.folder / ".dvc/config")
    shutil.copy(ROOT / ".dvc/plots_page.html", house.folder / ".dvc/plots_page.html")
    house.must("dvc", "config", "core.autostage", "false")
    house.must("dvc", "remote", "add", "-q", "-d", "store", "../../store")
    house.must("ssimbad", "dvc-yaml")
    house.must("dvc", "add", "-q", FACES)
    house.must(*COMMANDS["snakemake"])
    house.must("dvc", "push", "-q")
    house.git("add", "-A")
    house.git("commit", "-qm", "v0")
    house.git("tag", "v0")
    return folder


def _write_presets(folder: Path) -> None:
    tree = miniature()
    tree["data"] |= {"source": "folder", "path": OUTSIDE}
    del tree["methods"]["ssimbad-control"]
    write_params(folder, tree | {"preset": "small"})
    (folder / "presets").mkdir()
    shutil.copy(folder / "params.yaml", folder / "presets/small.yaml")
    large = tree | {"preset": "large", "seeds": [0, 1], "sketches": tree["sketches"] | {"seed": 1}}
    (folder / "presets/large.yaml").write_text(yaml.safe_dump(large, sort_keys=False))


def walk(ground, walks: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Walk(*ground),
        settings=settings(
            max_examples=walks, stateful_step_count=1 + steps, derandomize=True, database=None, deadline=None, **({"verbosity": Verbosity.debug} if os.environ.get("WALK_SAY") else {}),
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink), print_blob=False,
        ),
    )  # fmt: skip


@pytest.mark.engines
@pytest.mark.timeout(1500)
def test_thirty_steps(ground):
    walk(ground, walks=3, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_steps(ground):
    walk(ground, walks=10, steps=20)
