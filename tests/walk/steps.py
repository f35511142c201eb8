"""The steps of a walk and the walk itself, as one of Hypothesis' state machines."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import assume, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from PIL import Image, ImageOps

from ..conftest import write_params
from . import toys
from .house import Command, Gate, House, Server

COMMANDS = {"snakemake": ("snakemake", "--cores", "2", "all"), "dvc": ("dvc", "repro", "-q")}
FACES = "data/raw/faces"  # in the checkout, versioned by DVC
OUTSIDE = "../faces"  # beside it, with a folder that is a link
LIST = "data/raw/list.txt"

Change = tuple[str, ...]
Undo = Callable[[], object]


@dataclass(frozen=True)
class Kit:
    """What there is to change and to stop in a pipeline. Every parameter goes round its values."""

    values: dict[str, tuple]
    own: dict[str, str]
    """{stage: a parameter that it uses}"""
    raw: tuple[str, ...]
    """The user's files."""
    reads: dict[str, tuple[str, ...]]
    """{stage: files it reads}; every other stage's are never changed under its hands."""
    writes: dict[str, tuple[str, ...]]
    """{stage: outputs that somebody replaces once it has written them}"""
    made: tuple[str, ...]
    """Outputs that somebody may change by hand."""
    code: tuple[str, ...]
    """Stages whose code may change."""
    inside: tuple[str, ...]
    """Points inside a stage function, besides its start and its end."""

    @property
    def steps(self) -> st.SearchStrategy[tuple]:
        parameter = _tuples("parameter", self.values)
        raw = _tuples("swap", self.raw, WAYS)
        made = _tuples("swap", self.made, ("in place", "deleted"))
        code = [_tuples("code", self.code), _tuples("comment", self.code)] if self.code else []
        points = _tuples(self.own, ("start", *self.inside, "end", "record"))
        under_hands = st.one_of([self._under_hands(stage) for stage in self.reads])
        replaced = st.one_of([self._replaced(stage) for stage in self.writes])
        return st.one_of(
            *[_tuples("run", ENGINES)] * 3,
            *[_tuples("edit", st.one_of(parameter, raw, *code), BOTH)] * 3,
            *[_tuples("kill", ENGINES, st.one_of(points, st.sampled_from(BETWEEN)), (None, *ENGINES))] * 2,
            *[_tuples("meddle", ENGINES, under_hands, BOTH)] * 3,
            _tuples("meddle", ENGINES, replaced, BOTH),
            _tuples("meddle", ENGINES, _tuples(BETWEEN, parameter), BOTH),
            _tuples("edit", made, (False,)),
            _tuples("by_hand", self.own),
            _tuples("sync"),
            _tuples("restore", ("params.yaml", "data/raw", *(["src"] if self.code else []))),
            _tuples("commit"),
            _tuples("checkout", (0, 1, 2), BOTH),
            _tuples("preset", ("small", "large")),
            _tuples("other_clone"),
        )

    def _under_hands(self, stage: str) -> st.SearchStrategy[tuple]:
        """(where the stage stands, a change of what it is made from)"""
        swap = _tuples("swap", self.reads[stage], [way for way in WAYS if way != "added"])
        code = [_tuples("code", (stage,))] if stage in self.code else []
        return _tuples(_tuples((stage,), ("start", *self.inside, "end", "record")), st.one_of(swap, *code))

    def _replaced(self, stage: str) -> st.SearchStrategy[tuple]:
        """(where the stage stands, a change of what it has written there)"""
        points = [point for point in ("half", "end", "record") if point != "half" or point in self.inside]
        swap = _tuples("swap", self.writes[stage], [way for way in WAYS if way != "added"])
        return _tuples(_tuples((stage,), points), swap)


ENGINES = tuple(COMMANDS)
BOTH = (False, True)
WAYS = ("in place", "in place, same time", "renamed", "renamed, same time", "added", "deleted")
BETWEEN = (
    ("snakemake", "surveyed"), ("sync", "surveyed"), ("sync", "save"), ("sync", "dump"), ("dvc", "save"),
    ("dvc", "dump"),
)  # fmt: skip


def _tuples(*parts: Any) -> st.SearchStrategy[tuple]:
    """A word stays, of a strategy or another collection one is taken."""
    return st.tuples(*map(_one, parts))


def _one(part: Any) -> st.SearchStrategy:
    if isinstance(part, st.SearchStrategy):
        return part
    return st.just(part) if isinstance(part, str) else st.sampled_from(tuple(part))


class Walk(RuleBasedStateMachine):
    """One walk, from a finished run. Subclasses have a rule that takes the steps of a kit."""

    kit: Kit

    def __init__(self, folder: Path, template: Path, served: Server) -> None:
        super().__init__()
        self._template, self._served, self._memo = template, served, folder / "memo"
        self._folder = next(f for n in itertools.count() if not (f := folder / f"walk-{n}").exists())
        self._house: House | None = None
        self._dvc_blind = False  # whether something was done that DVC cannot see

    @initialize(go=st.integers(0, 9))
    def begin(self, go: int) -> None:
        assume(go)  # where only first choices are drawn, every step is the same
        shutil.copytree(self._template, self._folder, symlinks=True)
        self._house = House(self._folder / "house", self._served)
        self._houses, self._tags = [self._house], 1

    def take(self, step: tuple) -> None:
        name, *arguments = step
        getattr(self, f"_{name}")(*arguments)

    @invariant()
    def nothing_wrong_is_called_fresh(self) -> None:
        if self._house is None:
            return
        views = self._house.views(self._memo)
        assert views.snakemake in (None, views.records), "Snakemake plans other jobs than for what is not fresh"
        for name, wrong in views.wrong.items():
            trusting = [who for who in ("records", "dvc") if name in getattr(views, who)]
            if wrong and trusting and not (trusting == ["dvc"] and self._dvc_blind):
                raise AssertionError(f"{name} is called fresh by {' and '.join(trusting)}, but has wrong {wrong}")

    def teardown(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    # The steps

    def _run(self, engine: str) -> None:
        """An engine that nobody disturbs makes everything fresh, in the eyes of both, or says why it cannot."""
        before = self._house.views(self._memo)
        code, said = self._house.run(*COMMANDS[engine])
        assert "Traceback" not in said, said
        if not (before.possible and before.told):
            return
        after = self._house.views(self._memo)
        assert code == 0, said
        if not (engine == "dvc" and self._dvc_blind):
            assert after.records == after.names, f"{engine} left {after.names - after.records}\n{said}"
        if not self._dvc_blind:
            assert after.dvc == after.names, f"{engine} left {after.names - after.dvc} to DVC\n{said}"

    def _edit(self, change: Change, tell: bool) -> None:
        """Change something; `tell`: let dvc.yaml follow."""
        self._change(change)
        if tell:
            self._house.must("ssimbad", "dvc-yaml")

    def _by_hand(self, stage: str) -> None:
        for argv in self._house.commands(stage):
            _, said = self._house.run(*argv)
            assert "Traceback" not in said, said

    def _sync(self) -> None:
        _, said = self._house.run("ssimbad", "sync")
        assert "Traceback" not in said, said

    def _kill(self, engine: str, point: tuple[str, str], heir: str | None) -> None:
        """`kill -9` of an engine and all it has started; or of it alone, and an heir begins while its stage goes on."""
        command, gate = self._started(engine, point)
        if not gate.reached(command):
            command.ended()
            return
        command.kill(alone=heir is not None)
        self._house.must("snakemake", "--unlock", "all")
        if heir:
            successor = self._house.start(*COMMANDS[heir])
            gate.open()
            successor.ended()
        command.gone()

    def _meddle(self, engine: str, meddling: tuple[tuple[str, str], Change], back: bool) -> None:
        """Change something while an engine works, perhaps change it back when that has ended, and run it again."""
        point, change = meddling
        command, gate = self._started(engine, point)
        reached = gate.reached(command)
        undo = self._change(change) if reached else None
        gate.open()
        command.ended()
        # DVC reads what it notes after a command has ended, and then believes that the command had read the same.
        self._dvc_blind |= reached and engine == "dvc" and point[1] in ("end", "record", "save", "dump")
        if undo and back:
            undo()
        self.nothing_wrong_is_called_fresh()
        self._house.run(*COMMANDS[engine])

    def _started(self, engine: str, point: tuple[str, str]) -> tuple[Command, Gate]:
        """An engine that has something to do, and will stand still at the point."""
        self._change(("parameter", self.kit.own.get(point[0], next(iter(self.kit.values)))))
        gate = Gate()
        return self._house.start(*COMMANDS[engine], WALK_STOP=" ".join(point), WALK_GATE=gate.address), gate

    def _restore(self, what: str) -> None:
        """Files as they were at the last commit."""
        self._house.git("checkout", "-q", "HEAD", "--", *{"src": ["src", "workflow"]}.get(what, [what]))
        if what == "data/raw":
            self._house.run("dvc", "checkout", "-q", "--force", f"{FACES}.dvc")

    def _commit(self) -> None:
        for command in (("ssimbad", "sync"), ("dvc", "add", "-q", FACES), ("dvc", "push", "-q")):
            self._house.run(*command)
        self._house.git("add", "-A")
        self._house.git("commit", "-q", "--allow-empty", "-m", f"v{self._tags}")
        self._house.git("tag", f"v{self._tags}")
        self._tags += 1

    def _checkout(self, back: int, force: bool) -> None:
        """A commit and its bytes."""
        known = self._house.tags()
        self._house.git("checkout", "-q", "--force", known[-1 - back % len(known)])
        self._house.run("dvc", "checkout", "-q", *(["--force"] if force else []))

    def _preset(self, name: str) -> None:
        self._house.run("ssimbad", "preset", name)

    def _other_clone(self) -> None:
        """A second clone, with the bytes of the last commit; then back again."""
        if len(self._houses) == 1:
            made = House(self._folder / "clone", self._served)
            self._house.git("clone", "-q", ".", str(made.folder))
            made.must("dvc", "config", "-q", "--local", "core.autostage", "false")
            made.run("dvc", "pull", "-q")
            self._houses.append(made)
        self._house = self._houses[1 - self._houses.index(self._house)]

    # The changes: each returns what takes it back

    def _change(self, change: Change) -> Undo:
        kind, *what = change
        undo = getattr(self, f"_change_{kind}")(*what)
        self._house.touched()
        return undo

    def _change_parameter(self, key: str) -> Undo:
        file = self._house.folder / "params.yaml"
        before = file.read_text()
        tree = node = yaml.safe_load(before)
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        values = self.kit.values[key]
        node[last] = values[(values.index(node[last]) + 1) % len(values)]
        note(f"    {key} is now {node[last]}")
        write_params(self._house.folder, tree)
        return lambda: file.write_text(before)

    def _change_code(self, stage: str) -> Undo:
        """Who changes what an expensive stage computes raises its version."""
        file, versions = (self._house.folder / f for f in (f"src/ssimbad/toy/{stage}.py", "workflow/versions.yaml"))
        before = file.read_text(), versions.read_text()
        salt = 1 - toys.salt(before[0])
        note(f"    the code of {stage} has SALT = {salt}")
        file.write_text(toys.source(stage, salt))
        if stage in toys.EXPENSIVE:
            versions.write_text(yaml.safe_dump({**yaml.safe_load(before[1]), stage: 1 + salt}))
        return lambda: [f.write_text(text) for f, text in zip((file, versions), before, strict=True)]

    def _change_comment(self, stage: str) -> Undo:
        file = self._house.folder / f"src/ssimbad/toy/{stage}.py"
        before = file.read_text()
        file.write_text(f"{before}# a comment\n")
        return lambda: file.write_text(before)

    def _change_swap(self, name: str, way: str) -> Undo:
        original = self._house.folder / name
        path = original.with_name(f"added-{original.name}") if way == "added" else original
        before = path.read_bytes() if path.exists() else None
        basis = before or (original.read_bytes() if original.exists() else b"0\n")
        after = None if way == "deleted" and before else _other(basis)
        note(f"    {path.name} was {before!r:.90}, is now {after!r:.90}")
        self._write(path, after, way)
        return lambda: self._write(path, before, "in place")

    def _write(self, path: Path, data: bytes | None, way: str) -> None:
        self._dvc_blind |= way == "in place, same time"
        stat = path.stat() if path.exists() else None
        if data is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.with_name(".new") if way.startswith("renamed") else path
        target.write_bytes(data)
        target.replace(path)
        if way.endswith("same time") and stat:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _other(data: bytes) -> bytes:
    """Other contents of the same kind; done twice, the first again."""
    if data.startswith(b"\x89PNG"):
        mirrored = io.BytesIO()
        ImageOps.mirror(Image.open(io.BytesIO(data))).save(mirrored, "PNG")
        return mirrored.getvalue()
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
