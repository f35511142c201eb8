"""The site: `python docs/site.py [--pages]` builds site/ by mkdocs; with --pages only its Markdown, in work/site.

The texts of docs/ and of the repository's root are taken as they are. One page for each stage, each kind of method and
each public module is made here from the stage table, the registries and the docstrings. A file of the repository that a
text links to becomes a page that shows it.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssimbad.methods import registry
from ssimbad.params import overlay
from ssimbad.params.tree import Params
from ssimbad.pipeline import table

ROOT = Path(__file__).resolve().parents[1]
API = {"Samplers": "samplers", "Metrics": "metrics", "Methods": "methods", "Noise": "noise"}
PAINTER = "colorize/painter.py"
START = [
    {"Start": "README.md"},
    {"The study": "study.md"},
    {"Your faces in an hour": "tutorial.md"},
    {"How to": ["data.md", "engines.md", "cluster.md", "reliability.md", "scaling.md", "parameters.md"]},
    {"Methods and metrics": ["methods.md", "metrics.md", "findings.md", "benchmarks.md"]},
]
END = {
    "Contributing": [
        "CONTRIBUTING.md",
        "extending.md",
        "mutants.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "CHANGELOG.md",
    ]
}
_LINK = re.compile(r"(?<=\]\()(?!#)([^)\s:]+?)(#[^)\s]*)?(?=\))")
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")


def pages() -> dict[str, str]:
    """{name: Markdown} of all pages."""
    made = {path.name: path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    found = {name: path.read_text(encoding="utf-8") for name, path in made.items()}
    found |= {f"stages/{stage.name}.md": _stage(stage) for stage in table.STAGES}
    found |= {f"kinds/{kind}.md": _kind(kind) for kind in registry.kinds()}
    found |= dict(_api())
    shown: dict[str, str] = {}
    for name, path in made.items():
        found[name] = _LINK.sub(lambda link, path=path: _target(link, path.parent, shown), found[name])
    return found | shown


def nav(names: list[str]) -> list[Any]:
    """What stands where: every page is found from a tab."""

    def under(folder: str) -> list[str]:
        return sorted(name for name in names if name.startswith(f"{folder}/"))

    reference = {"Stages": under("stages"), "Kinds of methods": under("kinds"), "Modules": under("api")}
    return [*START, {"Reference": [{title: found} for title, found in reference.items()]}, END]


def _target(link: re.Match, folder: Path, shown: dict[str, str]) -> str:
    """Where a link of a text at the root or in docs/ leads on the site."""
    path = (folder / link[1]).resolve()
    if path.suffix in (".md", ".png") and path.parent in (ROOT, ROOT / "docs", ROOT / "docs/images"):
        return (f"images/{path.name}" if path.suffix == ".png" else path.name) + (link[2] or "")
    name = f"files/{path.relative_to(ROOT).as_posix()}.md"
    if path.is_dir():
        files = "\n".join(sorted(f"- `{p.relative_to(path).as_posix()}`" for p in path.rglob("*.*") if p.is_file()))
        shown[name] = f"# {path.relative_to(ROOT)}\n\n{files}\n"
    else:
        kind = {".py": "python", ".json": "json"}.get(path.suffix, "text")
        text = path.read_text(encoding="utf-8")
        shown[name] = f"# {path.relative_to(ROOT)}\n\n````{kind}\n{text}\n````\n"
    return name


def example(stage: table.Stage) -> tuple[str, table.Instance] | None:
    """The first preset in which the stage exists, and an instance of it."""
    for path in [ROOT / "presets/demo.yaml", *sorted(ROOT.glob("presets/*.yaml"))]:
        tree = Params.model_validate(_tree(path))
        for instance in table.instances(tree):
            if instance.stage.name == stage.name:
                return path.stem, instance
    return None


_trees: dict[Path, Any] = {}


def _tree(path: Path) -> Any:
    import yaml

    if path not in _trees:
        _trees[path] = yaml.safe_load(overlay.whole(path))
    return _trees[path]


def _stage(stage: table.Stage) -> str:
    module, _, function = stage.run.partition(":")
    tree = ast.parse((ROOT / "src" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    run = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    parts = [f"# {stage.name}", _docstring(ast.get_docstring(tree)), _docstring(ast.get_docstring(run))]
    again = "its number in `workflow/versions.yaml`" if stage.expensive else "the source files that it runs"
    parts.append(f"Code: `{stage.run}`. It runs again when its inputs, its parameters or {again} change.")
    if found := example(stage):
        preset, one = found
        parts.append(f"An instance under `ssimbad preset {preset}`:\n\n    {one.command}")
        for title, files in (("Reads", one.files), ("Writes", [*one.outputs.values(), one.record])):
            parts.append(f"**{title}**\n\n" + ("\n".join(f"- `{file}`" for file in files) or "- nothing"))
        keys = "\n".join(f"- `{key}`" for key in one.params)
        parts.append(f"**Parameters** ([what they mean](../parameters.md))\n\n{keys}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _kind(kind: str) -> str:
    method = registry.get(kind)
    module = registry.places()[kind].partition(":")[0]
    tree = ast.parse((ROOT / "src" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    rows = [path.stem for path in sorted(ROOT.glob("presets/*.yaml")) if kind in _kinds_of(path)]
    parts = [f"# {kind}", _docstring(ast.get_docstring(tree))]
    parts.append(
        f"It is given {', '.join(method.inputs) or 'nothing'}; its samplers are "
        f"{', '.join(method.samplers) or 'none: it answers in one pass'}. Presets with rows of this kind: "
        f"{', '.join(f'`{name}`' for name in rows) or 'none'}. [The rows of the table](../methods.md) says more."
    )
    parts += ["## Config", _fields(method.Config), "## Options of a row", _fields(method.ColourOptions)]
    for objective, options in method.objectives.items():
        parts += [f"## Training: {objective}", _docstring(options.__doc__), _fields(options)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _kinds_of(path: Path) -> set[str]:
    return {block["kind"] for block in _tree(path)["methods"].values()}


def _fields(model: type[BaseModel]) -> str:
    """A table of a model's fields."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "—" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        rows.append(f"| `{name}` | {default.replace('|', '&#124;')} | {plain(field.description or '')} |")
    return "\n".join(rows) if model.model_fields else "None."


def _api() -> Iterator[tuple[str, str]]:
    room = ROOT / "src/ssimbad"
    files = [path for part in API.values() for path in sorted((room / part).glob("*.py")) if path.stem != "__init__"]
    for path in [*files, *([room / PAINTER] if (room / PAINTER).exists() else [])]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(path.relative_to(room.parent).with_suffix("").parts)
        parts = [f"# {name}", _docstring(ast.get_docstring(tree))]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                parts += [f"## {node.name}", f"```python\n{_signature(node)}\n```", _docstring(ast.get_docstring(node))]
        yield f"api/{name}.md", "\n\n".join(filter(None, parts)) + "\n"


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Of a function its head, of a class its fields and the heads of its public methods."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"def {node.name}({ast.unparse(node.args)}){returns}"
    bases = ", ".join(map(ast.unparse, node.bases))
    lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:"]
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            lines.append(f"    {ast.unparse(part)}")
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            lines.append(f"    {_signature(part)}")
    return "\n".join(lines)


def _docstring(text: str | None) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    for line in (text or "").splitlines():
        if head := _SECTION.match(line):
            lines += ["", f"**{head[1]}**", ""]
        elif item := re.match(r"^    (\w[\w, ]*): (.*)", line):
            lines.append(f"- `{item[1]}`: {plain(item[2])}")
        else:
            lines.append(plain(re.sub(r"^    (?! )", "  ", line)))
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text in which nothing but code between backticks means anything to Markdown."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    told = [re.sub(r"([*_\[\]|\\])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    coded = [part.replace("|", "&#124;") if "|" in part else part for part in parts[1::2]]
    return "".join(a + b for a, b in zip(told, [*coded, ""], strict=True))


def write(folder: Path) -> list[str]:
    """All pages and pictures into an empty folder; returns the names of the pages."""
    shutil.rmtree(folder, ignore_errors=True)
    found = pages()
    for name, text in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs/images", folder / "images")
    return list(found)


def main(only_pages: bool) -> None:
    names = write(ROOT / "work/site")
    if only_pages:
        return
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from pymdownx.slugs import slugify

    config = load_config(str(ROOT / "mkdocs.yml"), nav=nav(names))
    config.markdown_extensions.append("toc")
    config.mdx_configs["toc"] = {"permalink": True, "slugify": slugify(case="lower")}  # headings as GitHub names them
    build(config)


if __name__ == "__main__":
    main("--pages" in sys.argv[1:])
