"""What the texts name is there: links, commands with their options, targets of make, paths, parameters, hooks."""

from __future__ import annotations

import re
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import BaseModel

from ssimbad import cli
from ssimbad.params.tree import Params
from ssimbad.pipeline import table

from .conftest import ROOT
from .texts import TEXTS, anchors, commands, inline, lines, links, read

OPEN = re.compile(r"[…<>\[\]{}*$]|\.\.\.|\b[A-Z]{1,9}\b")  # something is left to the reader
OURS = typer.main.get_command(cli.app)
MAKEFILE = read("Makefile")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
ROOMS = ("src", "tests", "benchmarks", "presets", "profiles", "workflow", "docs", ".github", ".ci")
SOURCES = sorted(
    p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/rules/*.smk")]
)
every_text = pytest.mark.parametrize("text", TEXTS)


@every_text
def test_every_link_holds(text):
    for link in links(read(text)):
        if re.match(r"https://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / text).parent / name if name else ROOT / text
        assert target.exists(), f"{text}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{text}: {link} leaves the repository"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{text}: {link}"


def spoken(text: str) -> list[tuple[list[str], bool]]:
    """(words, whether they are a whole command) of all commands in a text."""
    found = [(words, not OPEN.search(line)) for line in lines(text) for words in commands(line)]
    return found + [(words, False) for code in inline(text) for words in commands(code)]


def ours(words: list[str], whole: bool) -> str | None:
    """What is wrong with a command of ssimbad, if these words are one."""
    if "ssimbad" not in words[:-1] or words[0] in ("cd", "pip", "import", "python"):
        return None
    name, *rest = words[words.index("ssimbad") + 1 :]
    if OPEN.search(name):
        return None
    if (command := OURS.commands.get(name)) is None:
        return f"no command {name}" if re.fullmatch(r"[a-z-]+", name) else None
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")} | {"--help"}
    if unknown := [w for w in rest if w.startswith("--") and w.partition("=")[0] not in options]:
        return f"{name} has no option {unknown[0]}"
    if whole:
        try:
            command.make_context(name, list(rest))
        except Exception as error:  # of the click that typer carries within
            return str(error)
    return _named(name, [word for word in rest if not OPEN.search(word)])


def _named(command: str, words: list[str]) -> str | None:
    """Stages, keys and presets of a command that are not there."""
    free = [word for word in takewhile(lambda word: not word.startswith("--"), words) if re.match(r"[a-z]", word)]
    if command in ("stage", "verify") and free:
        stages = {s.name for s in table.STAGES}
        if "=" not in free[0] and free[0] not in stages:
            return f"no stage {free[0]}"
        keys = {word.partition("=")[0] for word in free if "=" in word}
        return f"no key {keys}" if keys - {"method", "stage", "seed", "setting"} else None
    made = free and free[0].startswith("sweep-")  # by `ssimbad sweep`
    if command == "preset" and free and not made and not (ROOT / f"presets/{free[0]}.yaml").exists():
        return f"no preset {free[0]}"
    return None


@pytest.mark.parametrize("text", [*TEXTS, "Makefile"])
def test_every_command_of_ours_is_one(text):
    content = read(text)
    recipes = [(words, False) for line in content.splitlines() for words in commands(line)]
    found = recipes if text == "Makefile" else spoken(content)
    wrong = [(" ".join(words), fault) for words, whole in found if (fault := ours(words, whole))]
    assert not wrong


def test_every_command_that_a_message_names_is_one():
    """Remedies in errors, help and docstrings, and what the rules run."""
    wrong = {}
    for source in SOURCES:
        for words in re.findall(r"`(ssimbad [^`\n{]+)", read(source)):
            for command in commands(words):
                if fault := ours(command, False):
                    wrong[source, words] = fault
    assert not wrong


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ssimbad colour --sketch a.png", "no command colour"),
        ("OMP_NUM_THREADS=1 ssimbad colorize --skecth a.png", "colorize has no option --skecth"),
        ("ssimbad plan --images-per-second many", "should be a valid number"),
        ("srun -n 2 ssimbad stage pretrian method=ssimbad", "no stage pretrian"),
        ("ssimbad stage pretrain methods=ssimbad", "no key"),
        ("ssimbad preset nowhere", "no preset nowhere"),
        ("ssimbad verify pretrain method=ssimbad  # once more", None),
        ("cd ssimbad && make install", None),
    ],
)
def test_a_command_that_is_none_would_be_found(line, fault):
    found = [fault for words, whole in spoken(f"Type\n\n    {line}\n") if (fault := ours(words, whole))]
    assert bool(found) == bool(fault)
    assert not fault or fault in found[0]


@every_text
def test_every_target_of_make_is_one(text):
    for words, _ in spoken(read(text)):
        if words[0] == "make":
            named = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
            assert set(named) <= TARGETS, f"{text}: {' '.join(words)}"


@every_text
def test_every_program_and_path_is_there(text):
    """Scripts with their options, test files, and files of the repository that stand between backticks."""
    content = read(text)
    for words, _ in spoken(content):
        for place, word in enumerate(words):
            if re.fullmatch(r"(benchmarks|tests|\.ci)/[\w/]+\.py", word):
                assert (ROOT / word).is_file(), f"{text}: {word}"
            if word.startswith("benchmarks/") and words[place - 1] == "python":
                options = {w.partition("=")[0] for w in words[place + 1 :] if w.startswith("--")}
                assert all(f'"{o}"' in read(word) for o in options), f"{text}: {' '.join(words)}"
    for code in inline(content):
        if re.fullmatch(rf"({'|'.join(map(re.escape, ROOMS))})/[\w./-]+", code) and not OPEN.search(code):
            assert (ROOT / code).exists(), f"{text}: {code}"


@cache
def snakemake_options() -> set[str]:
    from snakemake.cli import get_argument_parser

    # argparse tells them nowhere else but in texts for people.
    return set(get_argument_parser()._option_string_actions)


@every_text
def test_every_option_of_snakemake_is_one(text):
    for words, _ in spoken(read(text)):
        if words[0] == "snakemake":
            given = {word.partition("=")[0] for word in words[1:] if word.startswith("-") and word != "--"}
            assert given <= snakemake_options(), f"{text}: {' '.join(words)}"


def key_there(model: type[BaseModel], key: str) -> bool:
    """Whether the tree of parameters has this dotted key, as far as it is typed."""
    first, _, rest = key.partition(".")
    if first not in model.model_fields:
        return False
    inner = model.model_fields[first].annotation
    typed = isinstance(inner, type) and issubclass(inner, BaseModel)
    return key_there(inner, rest) if rest and typed else True


@every_text
def test_every_parameter_is_one(text):
    """Dotted keys between backticks that begin with a block of params.yaml."""
    blocks = "|".join(set(Params.model_fields) - {"methods"})
    for code in inline(read(text)):
        if re.fullmatch(rf"({blocks})(\.[a-z_]+)+(: .*)?", code) and not re.search(r"\.(py|md|csv|yaml|json)$", code):
            assert key_there(Params, code.partition(":")[0]), f"{text}: {code}"


def test_hooks_and_make_lint_are_the_same():
    (repo,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    hooks = {hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]}
    recipe = MAKEFILE.split("\nlint:")[1].split("\n\n")[0].splitlines()[1:]
    ran = {line.strip() for line in recipe}
    for hook in hooks:  # which is given the files of a commit where make names all
        assert sum(line.startswith(hook) for line in ran) == 1, hook
    for line in ran:
        assert any(line.startswith(hook) for hook in hooks), line


def test_the_files_checker_finds_what_it_looks_for(tmp_path, monkeypatch):
    import importlib.util

    spec = importlib.util.spec_from_file_location("files", ROOT / ".ci/files.py")
    checker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checker)
    monkeypatch.chdir(tmp_path)
    home = "/" + "home/somebody"
    for name, content, fault in (
        ("a.md", f"see\n{home}/faces", f"a.md:2: {home} is a path"),
        ("a.yaml", "a: 1\na: 2\n", "a.yaml"),
        ("a.lock", "--index-url https://example.org", "an address"),
        ("a.bin", "x" * (checker.LARGEST + 1), "larger than"),
    ):
        Path(name).write_text(content)
        (said,) = checker.faults(Path(name))
        assert fault in said
    folder = "/" + "home/x"
    Path("b.md").write_text(f"docs{folder} and ~{folder} and http://example.org{folder}")
    assert list(checker.faults(Path("b.md"))) == []
