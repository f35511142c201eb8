"""Which source files a stage runs: the closure of its imports inside this package, read from the source."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ssimbad.errors import HOME, UserError, there
from ssimbad.faces.sources import registry as sources
from ssimbad.features import registry as features
from ssimbad.files import Seen
from ssimbad.methods import registry
from ssimbad.metrics import registry as metrics

PACKAGE = Path(__file__).resolve().parents[1]
LINK = Path("src", PACKAGE.name)
"""Where a checkout has its package, and a study that `ssimbad init` has laid out a link to the installed one."""
AROUND = PACKAGE / "study" if (PACKAGE / "study").is_dir() else PACKAGE.parents[1]
"""Where the workflow lies that belongs to this code: in an installed package, or in its checkout."""
VERSIONS = Path("workflow/versions.yaml")
AT_START = Seen(map(str, sorted(PACKAGE.rglob("*.py"))))
"""The package's files as they were when this process began to load them."""


def require_own() -> None:
    """Refuse to work on one checkout with the code of another: the records name the files in ./src/ssimbad.

    Raises:
        UserError: the package that runs lies elsewhere, or is newer or older than the study that was laid out for it.
    """
    if not (LINK.is_dir() and LINK.samefile(PACKAGE)):
        if not (LINK.exists() or Path("Snakefile").is_file()):
            raise UserError(f"Snakefile: not there; {HOME}")
        raise UserError(f"{LINK}: not the package that runs, which is {PACKAGE}; {_remedy()}")
    # A number raised in a newer package says that results of the older one are none of its own.
    if LINK.is_symlink() and VERSIONS.is_file() and VERSIONS.read_bytes() != (AROUND / VERSIONS).read_bytes():
        taken = " ".join(shlex.quote(str(AROUND / name)) for name in ("Snakefile", "workflow"))
        raise UserError(
            f"{VERSIONS}: not that of the ssimbad that runs; take its workflow over by `cp -R {taken} .`, and see by"
            " `git diff` what that changes"
        )


def _remedy() -> str:
    if LINK.is_dir() and not LINK.is_symlink():
        return "run `make install` here, or put `PYTHONPATH=src` before the command"
    return f"in a study, `mkdir -p src && ln -sfn {shlex.quote(str(PACKAGE))} {LINK}`"


def require_unedited() -> None:
    """Refuse to go on after an edit: a part of the code is loaded as it was before, while this process waited, say.

    Raises:
        UserError: a file of the package was touched after the process had begun to load it.
    """
    if file := AT_START.touched():
        raise UserError(f"{file}: changed after this command had started; run it again")


def _file(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != PACKAGE.name:
        return None
    base = PACKAGE.joinpath(*parts[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _names(file: Path) -> frozenset[str]:
    """Modules that `file` imports, at the top or inside a function; also `module.name`, which may be one."""
    found: set[str] = set()
    for node in _run(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that type checkers alone read."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        waiting += node.orelse if checked else ast.iter_child_nodes(node)


_REGISTRY = PACKAGE / "methods/registry.py"
# Registries load files of their folder by name, which no import tells.
_BY_NAME = {
    PACKAGE / "faces/sources/registry.py": sources.names,
    PACKAGE / "features/registry.py": features.names,
    PACKAGE / "metrics/registry.py": metrics.names,
}
# Read by every stage for the form of values only; a change there shows in the values themselves.
_FORM_ONLY = {
    PACKAGE / name
    for name in (
        "errors.py",
        "params/base.py",
        "params/methods.py",
        "params/blocks.py",
        "params/tree.py",
        "params/view.py",
        "runtime/job.py",
        "__init__.py",
    )
} | {_REGISTRY}


def _imports(file: Path) -> set[Path]:
    """Files of this package that `file` loads; a registry loads those that it finds by name."""
    if file == _REGISTRY:
        return {file for place in registry.places().values() if (file := _file(place.partition(":")[0]))}
    if file in _BY_NAME:
        return {file.with_name(f"{name}.py") for name in _BY_NAME[file]()}
    return set() if file in _FORM_ONLY else {f for name in _names(file) if (f := _file(name))}


@cache
def closure(entry: str) -> tuple[str, ...]:
    """Sorted source files, relative to the repository root, behind a stage's entry point `module:function`."""
    start = _file(entry.split(":")[0])
    if start is None:
        raise ValueError(f"{entry}: no such module in {PACKAGE}")
    seen, waiting = set(), [start]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += _imports(file)
    return tuple(sorted(f"src/{f.relative_to(PACKAGE.parent)}" for f in seen - _FORM_ONLY if f.stat().st_size))


def outside(kind: str) -> dict[str, Path]:
    """{name in its package: file} of the code that brings a method from another package; {} for one of this package."""
    top = re.split("[.:]", registry.places()[kind])[0]
    if top == PACKAGE.name:
        return {}
    spec = there(importlib.util.find_spec(top))
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = {f"{top}/{file.relative_to(root)}": file for root in roots for file in sorted(root.rglob("*.py"))}
    return found or {f"{top}.py": Path(there(spec.origin))}


# Says yes or no to values and changes none.
_CHECKS_ONLY = {"pydantic"}


@cache
def libraries(files: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted top-level modules of others that source files import: what a stage's bytes may depend on besides."""
    modules = {name.split(".")[0] for file in files for name in _names(Path(file).resolve())}
    return tuple(sorted(modules - sys.stdlib_module_names - _CHECKS_ONLY - {PACKAGE.name}))
