"""Which source files a stage runs: the closure of its imports inside this package, read from the source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


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
def _imports(file: Path) -> frozenset[Path]:
    """Files of this package that `file` imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {f for name in names if (f := _file(name))}
    return frozenset(found)


# Read by every stage for the form of values only; a change there shows in the values themselves.
_FORM_ONLY = {PACKAGE / name for name in ("params.py", "errors.py", "job.py", "__init__.py", "methods/registry.py")}


@cache
def closure(entry: str) -> tuple[str, ...]:
    """Sorted source files, relative to the repository root, behind a stage's entry point `module:function`."""
    start = _file(entry.split(":")[0])
    if start is None:
        raise ValueError(f"{entry}: no such module in {PACKAGE}")
    seen, waiting = set(), [start]
    while waiting:
        file = waiting.pop()
        if file not in seen and file not in _FORM_ONLY:
            seen.add(file)
            waiting += _imports(file)
    return tuple(sorted(f"src/{f.relative_to(PACKAGE.parent)}" for f in seen if f.stat().st_size))
