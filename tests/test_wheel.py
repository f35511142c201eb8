"""The package outside of a checkout: what it asks for, what it carries, and the studies that it lays out."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from ssimbad import cli, extras, web
from ssimbad.errors import ParameterError, UserError
from ssimbad.faces.sources import registry as sources
from ssimbad.metrics import registry as metrics
from ssimbad.params import tree as parameters
from ssimbad.pipeline import code, dvcfile, records, study

from .conftest import ROOT, miniature, own_source, write_params
from .test_environment import ran
from .test_imports import FILES, below, graph
from .texts import read

PYPROJECT = tomllib.loads(read("pyproject.toml"))
ASKED = {"": PYPROJECT["project"]["dependencies"], **PYPROJECT["project"]["optional-dependencies"]}
# What the package gives without any extra.
BASE = ("colorize.user", "colorize.painter", "pipeline.publish", "pipeline.study", "metrics.folders", "params_page")
# Loaded by name: kinds of sources and metrics, of which only what stands at the top is needed to tell of them.
LOADED = {
    *(f"ssimbad.faces.sources.{name}" for name in sources.names()),
    *(f"ssimbad.metrics.{name}" for name in metrics.names()),
}
# Modules whose distributions have another name, besides those that a remedy must know.
DISTRIBUTIONS = extras.DISTRIBUTIONS | {"pynvml": ["nvidia-ml-py"], "ruamel": ["ruamel.yaml"], "yaml": ["PyYAML"]}
# Asked for and never imported: Snakemake finds it by its name.
BY_NAME = {"snakemake-executor-plugin-slurm"}
# At the top of the repository, for those who work on it.
OF_THE_CHECKOUT = {
    *(".ci", ".github", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md"),
    *("CONTRIBUTING.md", "LICENSE", "Makefile", "NOTICE", "README.md", "SECURITY.md", "benchmarks", "docs"),
    *("environment.yml", "mkdocs.yml", "pyproject.toml", "requirements.hashes.lock", "requirements.lock", "tests"),
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def asked(extra: str) -> set[str]:
    return {normal(requirement) for requirement in ASKED[extra]}


def reached(starts: Iterable[str], within: Mapping[str, set[str]]) -> set[str]:
    """Our modules that these lead to, themselves among them."""
    found, waiting = set(), list(starts)
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += [name for name in within[module] if name in FILES]
    return found


def brought(modules: Iterable[str], within: Mapping[str, set[str]]) -> set[str]:
    """Distributions of others that our modules import."""
    tops = {name.partition(".")[0] for module in modules for name in within[module]}
    tops -= sys.stdlib_module_names | {"ssimbad", "pydantic_core"}  # the last comes with pydantic
    return {normal(name) for top in tops for name in DISTRIBUTIONS.get(top, [top])}


def in_room(name: str) -> set[str]:
    return {module for module in FILES if below(module, f"ssimbad.{name}")}


def test_the_base_is_what_colouring_exporting_and_judging_import():
    whole, top = graph(True), graph(False)
    modules = reached({f"ssimbad.{name}" for name in BASE} | in_room("methods"), whole)
    loaded = reached(LOADED, top)
    assert brought(modules, whole) | brought(loaded | {"ssimbad.cli"}, top) == asked("")


def test_the_pages_extra_is_what_the_page_imports_besides():
    whole = graph(True)
    assert brought(reached(in_room("web"), whole), whole) - asked("") == asked("page")


def test_the_pipelines_extra_is_all_the_rest():
    others = set(FILES) - in_room("web")
    assert brought(others, graph(True)) - asked("") == asked("pipeline") - asked("") - BY_NAME
    assert "executor: slurm" in read("profiles/slurm/config.yaml")


def test_two_extras_ask_for_the_same_versions():
    bounds = {extra: {normal(r): r for r in ASKED[extra]} for extra in ("page", "pipeline")}
    both = bounds["page"].keys() & bounds["pipeline"].keys()
    assert both and all(bounds["page"][name] == bounds["pipeline"][name] for name in both)


@pytest.fixture
def installed(monkeypatch):
    """What the installed package asks for is what pyproject.toml says."""
    lines = [f"{r}; extra == '{extra}'" if extra else r for extra in ASKED for r in ASKED[extra]]
    monkeypatch.setattr(extras.metadata, "requires", lambda name: lines)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("uvicorn", "page"),
        ("starlette.applications", "page"),
        ("dicebear", "pipeline"),
        ("pytorch_fid.inception", "pipeline"),
        ("torch", None),
        ("nowhere", None),
        (None, None),
    ],
)
def test_a_package_that_is_missing_names_its_extra(installed, module, extra):
    said = extras.remedy(module)
    assert (said is None) == (extra is None)
    assert said is None or f"`pip install 'ssimbad[{extra}]'`" in said


def test_a_command_whose_extra_is_missing_says_so_in_one_line(installed, monkeypatch, capsys):
    monkeypatch.setattr(cli.cores, "claim", lambda: None)
    monkeypatch.setattr(sys, "argv", ["ssimbad", "page"])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ssimbad.web.server", raising=False)
    monkeypatch.delattr(web, "server", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("ssimbad: uvicorn is not installed; `pip install 'ssimbad[page]'` brings it")
    monkeypatch.setitem(sys.modules, "uvicorn", sys)
    monkeypatch.setitem(sys.modules, "ssimbad.web.server", None)  # not a package that an extra brings: a fault of ours
    with pytest.raises(ModuleNotFoundError):
        cli.main()


ALONE = {"colorize", "compare", "evaluate", "init", "page", "parameters"}  # work wherever one stands
REST = {
    **dict.fromkeys(("status", "verify", "plan", "gc", "dvc-yaml", "versions", "sync", "ui", "results"), ()),
    "stage": ("raw",),
    "preset": ("demo",),
    "sweep": ("x", "pretrain.batch=1", "--of", "ssimbad"),
    "clean": ("results",),
    "export": ("a/b", "--out", "c"),
    "export-run": ("a/b", "--out", "c"),
}


def test_every_command_works_anywhere_or_asks_for_a_study():
    assert {c.name or c.callback.__name__ for c in cli.app.registered_commands} == ALONE | REST.keys()


@pytest.mark.parametrize("name", REST)
def test_outside_of_a_checkout_a_command_of_the_pipeline_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run in a checkout, or in a folder that `ssimbad init FOLDER` has laid out"):
        cli.app([name, *REST[name]], standalone_mode=False)
    assert not list(tmp_path.iterdir())


def git(folder: Path, *words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_a_study_has_all_that_the_engines_and_the_commands_want(tmp_path, monkeypatch):
    folder = tmp_path / "my study"
    said = study.lay_out(folder).splitlines()
    assert said[1].startswith(f"next: cd '{folder}' && git init && ") and said[1].endswith("snakemake --cores all all")
    assert all(path.name in said[0] for path in folder.iterdir())
    monkeypatch.chdir(folder)
    demo = parameters.load(Path("presets/demo.yaml"))
    assert parameters.load() == demo and Path("dvc.yaml").read_text() == dvcfile.text(demo)
    assert dvcfile.outdated(demo) is None
    assert records.survey(demo)["raw"] == "output data/raw/embedded.zip is missing"
    assert all(Path(file).is_file() for file in code.closure("ssimbad.faces.raw:run"))
    assert Path("slurm/config.yaml").read_text() == read("profiles/slurm/config.yaml")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    listed = set(git(folder, "ls-files"))
    assert {"Snakefile", "params.yaml", "dvc.yaml", "slurm", ".dvc/config", "src/.gitignore"} <= listed
    assert "src/ssimbad" not in listed, "it means nothing on another machine"


def test_all_at_the_top_of_the_repository_is_laid_out_or_not_for_studies():
    try:
        top = {path.partition("/")[0] for path in git(ROOT, "ls-files")}
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a downloaded archive: nobody knows what belongs to it")
    made = {"dvc.yaml", "params.yaml", "slurm", "src"}
    assert top - OF_THE_CHECKOUT - made == {name.partition("/")[0] for name in study.CARRIED}


@pytest.mark.parametrize("inside", [[], [".git"]])
def test_an_empty_folder_stays_the_same_one(tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    for name in inside:
        Path(name).mkdir()
    number = tmp_path.stat().st_ino
    assert study.lay_out(Path()).splitlines()[1].startswith("next: snakemake" if inside else "next: git init && ")
    assert tmp_path.stat().st_ino == number and Path("Snakefile").is_file() and not Path(".new").exists()


def test_nothing_is_written_where_something_is(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.hidden").touch()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name, said in (
        ("full", "full: not empty, it holds .hidden; name a folder that is empty or not there yet"),
        ("file", "file: a file; name a folder that is not there yet"),
        ("link", "link: a link that leads nowhere; name a folder that is not there yet"),
        ("file/below", r"file/below: cannot be made \((Not a directory|File exists)\); name another place"),
        ("{x}", "stumble over braces in a path"),
    ):
        with pytest.raises(ParameterError, match=said):
            study.lay_out(tmp_path / name)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "file", "full", "full/.hidden", "link"
    ]  # fmt: skip


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_of_a_study_that_was_not_finished(tmp_path, monkeypatch, there):
    folder = tmp_path / "study"
    if there:
        folder.mkdir()
    monkeypatch.setattr(dvcfile, "text", lambda params: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.lay_out(folder)
    assert list(tmp_path.rglob("*")) == ([folder] if there else [])


def test_a_package_without_its_workflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "AROUND", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere/\.dvc/\.gitignore: missing; install ssimbad again, from its wheel"):
        study.lay_out(tmp_path / "study")
    assert not list(tmp_path.iterdir())


def told(error: UserError) -> str:
    """The shell's command in a message."""
    return re.search(r"`((?:mkdir|cp) [^`]+)`", str(error))[1]


@pytest.mark.parametrize("bent", ["gone", "nowhere", "another"])
def test_a_study_whose_link_leads_elsewhere_says_how_to_mend_it(tmp_path, monkeypatch, bent):
    folder = tmp_path / "study"
    study.lay_out(folder)
    monkeypatch.chdir(folder)
    code.LINK.unlink()
    if bent == "gone":  # a clone on another machine where nobody had to keep the folder
        Path("src/.gitignore").unlink()
        Path("src").rmdir()
    else:
        code.LINK.symlink_to(tmp_path / bent)
        (tmp_path / "another").mkdir()
    with pytest.raises(
        UserError, match=r"^src/ssimbad: not the package that runs, which is .*; in a study, `mkdir"
    ) as e:
        code.require_own()
    subprocess.run(["bash", "-c", told(e.value)], check=True)
    code.require_own()


def test_a_study_of_another_version_is_not_gone_on_with(tmp_path, monkeypatch):
    """Otherwise results of the older code would count as results of the newer one."""
    study.lay_out(tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    params = parameters.load()
    code.VERSIONS.write_text(code.VERSIONS.read_text().replace("pretrain: ", "pretrain: 1"))
    Path("workflow/mine.txt").touch()
    with pytest.raises(UserError, match=r"^workflow/versions\.yaml: not that of the ssimbad that runs; take its") as e:
        records.survey(params)
    subprocess.run(["bash", "-c", told(e.value)], check=True)
    records.survey(params)
    assert Path("workflow/mine.txt").exists()


def test_a_checkouts_versions_are_its_own(house, monkeypatch):
    """There they are raised by hand."""
    own_source(house)
    monkeypatch.setattr(code, "PACKAGE", house / "src/ssimbad")
    code.VERSIONS.write_text("pretrain: 99\n")
    code.require_own()


def built(place: Path, version: str) -> Path:
    """A wheel of this checkout as it is now."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", f"wheel:{version}", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where a wheel is unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(built(place, "standard")) as archive:
        archive.extractall(place / "site")
    return place / "site"


def listed(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_wheel_carries_the_package_and_what_is_laid_out(site):
    assert listed(site / "ssimbad/study").keys() == {
        name
        for carried in study.CARRIED
        for name in ([carried] if (ROOT / carried).is_file() else [f"{carried}/{n}" for n in listed(ROOT / carried)])
    }
    carried = {f"study/{name}" for name in listed(site / "ssimbad/study")}
    found = {name: data for name, data in listed(site / "ssimbad").items() if name not in carried}
    assert found == listed(ROOT / "src/ssimbad")


def test_an_editable_package_is_the_sources(tmp_path):
    """By the locked packages alone, as `make install` makes it."""
    with zipfile.ZipFile(built(tmp_path, "editable")) as archive:
        (paths,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(paths).decode().split() == [str(ROOT / "src")]
        assert not [name for name in archive.namelist() if name.endswith(".py")]


def test_a_study_from_a_wheel_is_one_from_a_checkout(site, tmp_path):
    program = "from ssimbad.cli import main; main()"
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-c", program, "init", "theirs"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(site / "ssimbad") in done.stdout
    study.lay_out(tmp_path / "ours")
    ours, theirs = (
        {name: data for name, data in listed(tmp_path / who).items() if not name.startswith("src/ssimbad/")}
        for who in ("ours", "theirs")
    )
    assert ours == theirs
    assert (tmp_path / "theirs/src/ssimbad").resolve() == (site / "ssimbad").resolve()


@pytest.mark.engines
def test_both_engines_work_in_a_study(tmp_path):
    """Source files that cheap stages depend on are read through the link."""
    folder = tmp_path / "study"
    study.lay_out(folder)
    write_params(folder, miniature())
    git(folder, "init", "-q")
    ran(folder, "ssimbad", "dvc-yaml")
    assert "2 of them new -> dvc.lock" in ran(folder, "snakemake", "--cores", "1", "faces")
    assert "Nothing to be done" in ran(folder, "snakemake", "--cores", "1", "-n", "faces")
    assert "didn't change, skipping" in ran(folder, "dvc", "repro", "faces")
    assert "src/ssimbad/faces/stage.py" in (folder / "dvc.lock").read_text()
