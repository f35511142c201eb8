"""A preset becomes params.yaml, and what somebody has written there is not lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssimbad.errors import ParameterError, UserError
from ssimbad.params import overlay
from ssimbad.params import tree as parameters
from ssimbad.pipeline import dvcfile, lock, preset, snakefile, table

from .conftest import ROOT, preset_tree, unwatched

FILE = Path("params.yaml")
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid")


@pytest.fixture
def demo(house):
    """The demo as it is delivered, with one value edited."""
    return (house / "presets/demo.yaml").read_text().replace("epsilon: 0.01", "epsilon: 0.02  # I like it")


def copies() -> dict[str, str]:
    return {p.name: p.read_bytes().decode() for p in Path().glob("*.bak")}


@pytest.mark.parametrize("text", ["edited", "a: [", "", "- 1", "preset: demo\n", "preset: demo\nsees: 3\n", "\xe4"])
def test_what_somebody_has_written_is_kept_and_named(demo, capsys, text):
    text = demo if text == "edited" else text
    FILE.write_bytes(text.encode("latin-1"))
    preset.activate("demo-ladder")
    assert parameters.load().preset == "demo-ladder"
    assert Path("params.yaml.1.bak").read_bytes() == text.encode("latin-1")
    assert "your params.yaml is kept as params.yaml.1.bak" in capsys.readouterr().out
    assert dvcfile.text(parameters.load()) == Path("dvc.yaml").read_text()


def test_no_copy_replaces_another(demo, capsys):
    mine = Path("params.yaml.2.bak")
    mine.write_text("somebody's own")
    for number in (1, 2):
        FILE.write_text(demo + f"# {number}\n")
        preset.activate("demo-ladder")
    FILE.write_text(demo + "# 1\n")
    preset.activate("demo")
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said] == ["params.yaml.1.bak", "params.yaml.3.bak", "params.yaml.1.bak"]
    assert copies() == {
        "params.yaml.1.bak": demo + "# 1\n", mine.name: "somebody's own", "params.yaml.3.bak": demo + "# 2\n"
    }  # fmt: skip


def test_no_preset_is_switched_under_what_runs(demo, monkeypatch):
    """It would go on with other parameters; the preset that is active may be confirmed."""
    shutil.copy("presets/demo.yaml", FILE)
    preset.activate("demo")
    before = FILE.read_bytes(), Path("dvc.yaml").read_bytes()
    with lock.held(Path("work/faces"), "faces"):
        with pytest.raises(
            UserError, match=r"^params\.yaml: not replaced, since what runs here reads it: faces: process"
        ):
            preset.activate("demo-ladder")
        preset.activate("demo")
        preset.activate("demo", unless_active=True)
    monkeypatch.setattr(snakefile, "alone", lambda: False)
    with pytest.raises(UserError, match=r"^params\.yaml: not replaced.* a Snakemake run is under way here; wait until"):
        preset.activate("demo-ladder", unless_active=True)
    preset.activate("demo")
    assert (FILE.read_bytes(), Path("dvc.yaml").read_bytes()) == before
    assert copies() == {}


def test_what_is_in_presets_needs_no_copy(house):
    for name in ("demo", "demo-ladder", "demo-all", "demo"):
        FILE.write_text(overlay.whole(house / "presets/demo-ladder.yaml"))
        preset.activate(name)
        preset.activate(name)
        assert FILE.read_text() == overlay.whole(house / f"presets/{name}.yaml")
    assert copies() == {}


def test_what_git_has_needs_no_copy_and_what_it_lacks_does(demo):
    FILE.write_text(demo)
    subprocess.run([*GIT, "init", "-q"], check=True)
    subprocess.run([*GIT, "add", "params.yaml"], check=True)
    preset.activate("demo-ladder")
    assert copies() == {"params.yaml.1.bak": demo}, "staged is not committed"
    FILE.write_text(demo)
    subprocess.run([*GIT, "commit", "-qam", "mine"], check=True)
    Path("params.yaml.1.bak").unlink()
    preset.activate("demo-ladder")
    assert copies() == {}
    FILE.write_text(demo + "# more\n")
    preset.activate("demo-ladder")
    assert copies() == {"params.yaml.1.bak": demo + "# more\n"}


def test_without_git_there_is_a_copy(demo, monkeypatch):
    monkeypatch.setenv("PATH", "")
    FILE.write_text(demo)
    preset.activate("demo-ladder")
    assert copies() == {"params.yaml.1.bak": demo}


def test_without_params_the_preset_is_written(house):
    FILE.unlink()
    preset.activate("demo", unless_active=True)
    assert parameters.load().preset == "demo"
    assert copies() == {}


@pytest.mark.parametrize("name", ["none", "../presets/demo", "demo.yaml", ""])
def test_an_unknown_preset_changes_nothing(house, name):
    before = FILE.read_bytes()
    with pytest.raises(ParameterError, match="presets are demo, demo-all"):
        preset.activate(name)
    assert FILE.read_bytes() == before


def target(folder: Path, name: str) -> subprocess.CompletedProcess:
    """What the Makefile's targets do before they run a preset's pipeline."""
    shutil.copy(ROOT / "Makefile", folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-s", f"--eval=probe: ; $(call active,{name})", "probe"]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line",
    [
        "preset: demo",
        "preset: demo  # mine",
        "preset: 'demo'",
        'preset:   "demo"',
        '"preset": demo',
        "? preset\n: demo",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_edited_preset_is_still_that_preset(house, demo, line, end):
    text = demo.replace("preset: demo", line).replace("\n", end)
    FILE.write_bytes(text.encode())
    if (line, end) == ("preset: demo  # mine", "\n"):  # the others by the command alone, which is quicker
        assert target(house, "demo").returncode == 0
    preset.activate("demo", unless_active=True)
    assert FILE.read_bytes() == text.encode()
    assert copies() == {}


def test_another_preset_is_left_with_a_copy_of_its_edits(house, demo):
    FILE.write_text(demo)
    done = target(house, "demo-all")
    assert "your params.yaml is kept as params.yaml.1.bak" in done.stdout
    assert copies() == {"params.yaml.1.bak": demo}
    assert parameters.load().preset == "demo-all"


@pytest.mark.parametrize("text", ["preset: demo\na: [", "", "- 1", "preset: demo\nsees: 3\n", "epsilon: 1\n", "\xe4"])
def test_a_file_that_does_not_say_which_preset_it_is_stops_the_targets(house, text):
    FILE.write_bytes(text.encode("latin-1"))
    with pytest.raises(ParameterError, match=r"^params\.yaml\b.*; mend it, or .*`ssimbad preset demo`.* a copy$"):
        preset.activate("demo", unless_active=True)
    assert FILE.read_bytes() == text.encode("latin-1")
    assert copies() == {}


def test_what_cannot_be_kept_is_not_replaced(demo):
    """On a disk that is full after some bytes of the copy, here by a limit on the size of files."""
    FILE.write_text(demo)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    done = subprocess.run(
        [sys.executable, "-c", f"{limited}; from ssimbad.cli import main; main()", "preset", "demo-ladder"],
        env=unwatched() | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "ssimbad: params.yaml.1.bak: File too large\n"
    assert FILE.read_text() == demo
    assert copies() == {}


@pytest.mark.parametrize(
    "edit", ["# a word of mine\n{}", "{}  # at its end", "{}artifacts: {{}}\n", "mine: 1\n", "\xe4"]
)
def test_what_was_written_into_dvc_yaml_by_hand_is_kept(house, tree, edit, capsys):
    params = parameters.Params.model_validate(tree)
    text = edit.format(dvcfile.text(params)).encode("latin-1")
    Path("dvc.yaml").write_bytes(text)
    dvcfile.write(params)
    assert Path("dvc.yaml.1.bak").read_bytes() == text
    assert "dvc.yaml was changed by hand; it is kept as dvc.yaml.1.bak" in capsys.readouterr().out
    assert Path("dvc.yaml").read_text() == dvcfile.text(params)


def test_what_was_generated_before_needs_no_copy(house, tree):
    dvcfile.write(parameters.Params.model_validate(tree))
    tree["seeds"] = [0, 1]
    dvcfile.write(parameters.Params.model_validate(tree))
    assert copies() == {}


def test_a_preset_may_say_only_what_differs(house):
    """Blocks are mixed key by key, but the rows of a preset are all the rows that it has."""
    own = "# mine\nextends: demo\npreset: mine\nnoise:\n  sigma_max: 40.0 # lower\nmethods:\n  regression:\n"
    block = (house / "presets/demo-seeds.yaml").read_text().split("  regression:\n")[1].split("  regression-comp")[0]
    Path("presets/mine.yaml").write_text(own + block)
    preset.activate("mine")
    p, demo = parameters.load(), parameters.load(house / "presets/demo.yaml")
    assert (p.preset, list(p.methods), p.noise.sigma_max) == ("mine", ["regression"], 40.0)
    assert p.noise.sigma_min == demo.noise.sigma_min and p.network == demo.network
    text = FILE.read_text()
    assert text.startswith("# mine\n") and "sigma_max: 40.0\n" in text
    assert "extends" not in text and "path: null" in text and "minimum_rate: 1.0e-8" in text


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_overlays_say_nothing_twice(name):
    """What a preset says is another thing than what it extends says."""
    tree = yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text())
    base = preset_tree(tree.pop("extends")) if "extends" in tree else {}
    for key, value in tree.items():
        for part in value if isinstance(value, dict) and key != "methods" and base else [None]:
            same = base.get(key) == value if part is None else part in base[key] and base[key][part] == value[part]
            assert not same, f"{key}.{part}"


@pytest.mark.parametrize(("texts", "said"), [
    ({"a": "extends: none"}, "a.yaml: extends: no file presets/none.yaml"),
    ({"a": "extends: b", "b": "extends: a"}, "it extends itself"),
    ({"a": "extends: a"}, "it extends itself"),
    ({"a": "extends: [demo]"}, "is no name of a preset"),
        ({"a": "extends: ../params"}, "is no name of a preset"),
    ({"a": "extends: demo\nnoise: {sigma_mx: 1.0}"}, "a.yaml: unknown key noise.sigma_mx"),
    ({"a": "extends: demo\nextends: paper"}, "twice"),
])  # fmt: skip
def test_an_overlay_that_cannot_be_laid_over_changes_nothing(house, texts, said):
    for name, text in texts.items():
        Path(f"presets/{name}.yaml").write_text(text)
    before = FILE.read_bytes()
    with pytest.raises(ParameterError, match=re.escape(said)) as caught:
        preset.activate("a")
    assert "\n" not in str(caught.value)
    assert FILE.read_bytes() == before


def test_git_ignores_whatever_the_stages_of_a_preset_make(monkeypatch):
    monkeypatch.chdir(ROOT)
    made: set[str] = set()
    for path in Path("presets").glob("*.yaml"):
        for instance in table.instances(parameters.load(path)):
            made |= {*instance.outputs.values(), instance.record, instance.marker}
    asked = ("git", "check-ignore", "--no-index", "--stdin")
    ignored = subprocess.run(asked, input="\n".join(made), text=True, capture_output=True).stdout.splitlines()
    assert made - set(ignored) == set() and len(made) > 500
