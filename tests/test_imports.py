"""Imports point one way: no circles, and each room knows only what it may (read from the source, nothing is run)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from .conftest import ROOT

SRC = ROOT / "src"


def _module(path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


FILES = {_module(path): path for path in SRC.rglob("*.py")}
LAZY: set[tuple[str, str]] = set()
"""Imports within functions that break a circle: (who, whom). None is left; think twice before the first."""

# Room or file: what of the package it may import at its top, besides itself.
PURE = {"ssimbad.errors", "ssimbad.seeding"}
ALLOWED = {
    "networks": PURE,
    "noise": PURE,
    "samplers": PURE | {"ssimbad.noise"},
    "pairing.lines": PURE | {"ssimbad.pairing.xdog"},
    **{f"pairing.{name}": PURE for name in ("xdog", "tps", "resize", "references", "settings", "styles")},
}
# Outside library: the one room that knows it.
OWNER = {"mlflow": "tracking", "dvc": "pipeline", "snakemake": "pipeline"}
# Names of others that have no public one; but for os._exit, which is one, why stands beside each use.
THEIRS = {"_exit", "_workflow", "_option_string_actions", "_schedule_reevalutation", "_is_amx_tile_supported"}


def imported(tree: ast.AST, within_functions: bool) -> Iterator[str]:
    """Full names of what a module imports when it runs; what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in whole)
        elif within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(node, within_functions)


@cache
def graph(within_functions: bool) -> dict[str, set[str]]:
    """{module: what it imports}, of the package and of others."""
    return {
        module: set(imported(ast.parse(path.read_text(encoding="utf-8")), within_functions))
        for module, path in FILES.items()
    }


def below(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def test_the_graph_is_that_of_the_package():
    top, whole = graph(False), graph(True)
    assert "ssimbad.training.checkpoints" in top["ssimbad.training.loop"]
    assert "ssimbad.methods.contract" in top["ssimbad.training.loop"]
    assert "mlflow" in whole["ssimbad.tracking.store"] - top["ssimbad.tracking.store"]
    assert all(name in FILES for names in whole.values() for name in names if below(name, "ssimbad"))


def test_no_module_imports_itself_by_way_of_others():
    """Within functions neither, but for the listed ones."""
    edges = {
        module: {name for name in names if name in FILES and (module, name) not in LAZY}
        for module, names in graph(True).items()
    }
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_would_be_found():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


@pytest.mark.parametrize("room", ALLOWED)
def test_pure_rooms_know_nothing_of_files_parameters_or_engines(room):
    """Nor within functions."""
    mine = [module for module in FILES if below(module, f"ssimbad.{room}")]
    assert mine
    for module in mine:
        others = {name for name in graph(True)[module] if below(name, "ssimbad") and not below(name, f"ssimbad.{room}")}
        beyond = {name for name in others if not any(below(name, allowed) for allowed in ALLOWED[room])}
        assert not beyond, module


@pytest.mark.parametrize("library", OWNER)
def test_one_room_alone_knows_an_engine_or_the_logbook(library):
    users = {module for module, names in graph(True).items() if any(below(name, library) for name in names)}
    strangers = {module for module in users if not below(module, f"ssimbad.{OWNER[library]}")}
    assert not strangers


def test_a_method_is_light_to_import_and_opens_no_files():
    top = graph(False)
    for module in FILES:
        if below(module, "ssimbad.methods"):
            heavy = ("torch", "ssimbad.artifacts", "ssimbad.faces")
            assert not {name for name in top[module] if any(below(name, one) for one in heavy)}, module


def reached(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(whose, name): imports, attributes, and what texts name: `setattr(whose, "name", …)`, a dotted place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call):
            for whose, name in zip(node.args, node.args[1:], strict=False):
                if isinstance(name, ast.Constant):
                    yield ast.unparse(whose), str(name.value)
        elif isinstance(node, ast.Constant):
            yield from re.findall(r"\b(\w+)\.(\w+)", str(node.value))


def private(tree: ast.AST) -> set[str]:
    """Names with an underscore of whatever is not `self` or `cls`: whose they are only shows when the test runs."""
    return {name for whose, name in reached(tree) if re.match("_[A-Za-z]", name) and whose not in ("self", "cls")}


def test_tests_reach_for_no_private_name():
    """What means something to a test is a part of the interface, and has a name that says so."""
    found = {path: private(ast.parse(path.read_text("utf-8"))) - THEIRS for path in (ROOT / "tests").rglob("*.py")}
    assert len(found) > 100
    assert not {str(path): names for path, names in found.items() if names}


@pytest.mark.parametrize(
    "line",
    [
        "from ssimbad.faces.shards import {}Rows", "shards.{}Rows(paths)", "phi.{}forward(1.0)", "get('x').{}model",
        "monkeypatch.setattr(server, '{}PATIENCE', 1)", "monkeypatch.setattr('ssimbad.colorize.stage.{}PART', 2)",
        "getattr(runner, '{}keep')", "code = 'lock.{}machine = None'",
    ],
)  # fmt: skip
def test_a_private_name_would_be_found(line):
    assert len(private(ast.parse(line.format("_")))) == 1
    assert not private(ast.parse(line.format("")))
