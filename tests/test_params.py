"""Parameters: typed, validated, one readable line for every mistake."""

import os
import subprocess
import sys

import pytest
import yaml

from ssimbad import params
from ssimbad.errors import ParameterError
from ssimbad.pipeline.table import instances

from .conftest import ROOT


def parse(tree):
    return params.parse(yaml.safe_dump(tree))


def complaint(tree) -> str:
    with pytest.raises(ParameterError) as caught:
        parse(tree)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_presets_are_valid(name, monkeypatch):
    monkeypatch.chdir(params.Path(__file__).parents[1])
    assert params.load(params.Path(f"presets/{name}.yaml")).preset == name


def test_delivered_parameters_are_the_demo_preset():
    """As committed: whoever tries another preset here has not broken anything."""

    def committed(file):
        return subprocess.run(["git", "show", f"HEAD:{file}"], cwd=ROOT, capture_output=True, check=True).stdout

    assert committed("params.yaml") == committed("presets/demo.yaml") != b""


def test_unknown_key_names_itself_and_its_nearest_neighbour(tree):
    tree["training"]["precison"] = "fp32"
    assert "training.precison" in complaint(tree)
    assert "'precision'" in complaint(tree)


def test_unknown_key_inside_a_method(tree):
    tree["methods"]["ssimbad"]["pretrain"]["imags"] = 8
    assert "methods.ssimbad.pretrain.imags" in complaint(tree)
    assert "'images'" in complaint(tree)


def test_unknown_option_of_an_objective(tree):
    tree["methods"]["ssimbad"]["finetune"]["options"]["los"] = "mse"
    assert "methods.ssimbad.finetune.options.los" in complaint(tree)


def test_number_that_yaml_reads_as_text(tree):
    text = yaml.safe_dump(tree).replace("learning_rate: 0.001", "learning_rate: 1e-3", 1)
    assert "1e-3" in text
    with pytest.raises(ParameterError, match=r"write it with a point, like 1\.0e-4"):
        params.parse(text)


@pytest.mark.parametrize(
    ("where", "key", "value", "named"),
    [
        ("data", "size", 24, "data.size"),
        ("data", "source", "folder", "data.path"),
        ("data", "train", None, "data.train"),
        ("noise", "sigma_min", 90.0, "noise.sigma_min"),
        ("network", "groups", 3, "network.groups"),
        ("data", "test", 2, "data.test"),
        ("schedule", "size", 24, "schedule.size"),
        ("training", "precision", "fp16", "training.precision"),
        ("data", "size", "16", "data.size"),
    ],
)
def test_impossible_values(tree, where, key, value, named):
    tree[where][key] = value
    assert named in complaint(tree)


@pytest.mark.parametrize("seeds", [[-1], [0, -3], [-0x8000_0000_0000_0000]])
def test_a_seed_is_part_of_file_names_and_not_negative(tree, seeds):
    tree["seeds"] = seeds
    assert f"seeds.{len(seeds) - 1}: " in complaint(tree)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "ssimbat"}, "methods.ssimbad.kind"),
        ({"config": {}}, "methods.ssimbad.config"),
        ({"config": {"phi": {"form": "ratonal", "c": 0.3}}}, "ratonal"),
        ({"pretrain": None}, "start"),
    ],
)
def test_impossible_methods(tree, change, named):
    tree["methods"]["ssimbad"] |= change
    assert named in complaint(tree)


def test_lpips_loss_needs_the_feature_network(tree):
    tree["methods"]["ssimbad"]["finetune"]["options"]["loss"] = "lpips"
    assert "weights.enabled" in complaint(tree)


@pytest.mark.parametrize(
    ("sampler", "named"),
    [
        (None, "methods.ssimbad.pretrain.sampler: missing"),
        ({"name": "euler", "steps": 2, "eta": 1.0}, "eta belongs to ddim"),
        ({"name": "ddim", "steps": 2, "churn": {"s_churn": 40.0}}, "churn belongs to heun"),
    ],
)
def test_impossible_samplers(tree, sampler, named):
    tree["methods"]["ssimbad"]["pretrain"]["sampler"] = sampler
    assert named in complaint(tree)


def test_not_yaml(tree):
    with pytest.raises(ParameterError, match="not valid YAML"):
        params.parse("a: [")
    with pytest.raises(ParameterError, match="ssimbad preset demo"):
        params.parse("- 1")


def test_a_view_shows_what_is_declared_and_nothing_else(tree):
    view = params.View(parse(tree), ("data.size", "methods.ssimbad.pretrain"))
    assert view.data.size == 16
    assert view.methods["ssimbad"].pretrain.batch == 8
    with pytest.raises(AttributeError, match="without declaring"):
        _ = view.data.native_size
    with pytest.raises(AttributeError, match="without declaring"):
        _ = view.methods["ssimbad"].finetune


def test_declared_parameters_exist(tree):
    p = parse(tree)
    for instance in instances(p):
        for key in instance.params:
            params.lookup(p, key)


def test_command_line_reports_in_one_line_with_status_2(house):
    text = (house / "params.yaml").read_text().replace("precision:", "precison:")
    (house / "params.yaml").write_text(text)
    run = subprocess.run(
        [sys.executable, "-c", "from ssimbad.cli import main; main()", "stage", "faces"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "precison" in run.stderr


def test_a_file_system_that_fails_is_one_line_too(house):
    """Here with a limit on the size of files, as a full disk would."""
    (house / "params.yaml").write_bytes((house / "presets/demo.yaml").read_bytes())
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    run = subprocess.run(
        [sys.executable, "-c", f"{limited}; from ssimbad.cli import main; main()", "preset", "paper"],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == "ssimbad: params.yaml: File too large\n"


def test_the_page_of_parameters_is_up_to_date():
    from ssimbad import params_page

    page = (ROOT / "docs/parameters.md").read_text()
    assert page == params_page.page(), "run `ssimbad parameters > docs/parameters.md`"
