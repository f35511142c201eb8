"""Parameters: typed, validated, one readable line for every mistake."""

import copy
import json
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

from ssimbad.errors import ParameterError
from ssimbad.params import tree as params
from ssimbad.params.base import MADE
from ssimbad.params.view import View, lookup
from ssimbad.pipeline.table import instances

from .conftest import ROOT, miniature, preset_tree, unwatched


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


def test_companions_are_of_rendered_faces_and_no_method_that_traces_the_warp(tree):
    tree["references"]["companions"] = 0.5
    parse(tree)
    folder = copy.deepcopy(tree)
    folder["data"] |= {"source": "folder", "path": "faces"}
    assert "references.companions: only rendered faces" in complaint(folder)
    every = miniature("demo-all")
    for name in ("scft", "split-attention"):
        tree["methods"] = {name: every["methods"][name]}
        assert f"methods.{name} trains on references that show the image itself" in complaint(tree)


def test_unknown_key_inside_a_method(tree):
    tree["methods"]["ssimbad"]["pretrain"]["imags"] = 8
    assert "methods.ssimbad.pretrain.imags" in complaint(tree)
    assert "'images'" in complaint(tree)


def test_unknown_option_of_an_objective(tree):
    tree["methods"]["ssimbad"]["finetune"]["options"]["los"] = "mse"
    assert "methods.ssimbad.finetune.options.los" in complaint(tree)


def test_number_that_yaml_reads_as_text(tree):
    text = yaml.safe_dump(tree).replace("learning_rate: 0.002", "learning_rate: 2e-3", 1)
    assert "2e-3" in text
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
        ("network", "attention", [9], "network.attention: 9: expected each of 0 to"),
        ("network", "attention", [0, 0], "network.attention: 0: expected each"),
        ("network", "attention", [-1], "network.attention.0"),
        ("data", "test", 2, "data.test"),
        ("schedule", "size", 24, "schedule.size"),
        ("training", "precision", "fp16", "training.precision"),
        ("data", "size", "16", "data.size"),
    ],
)
def test_impossible_values(tree, where, key, value, named):
    tree[where][key] = value
    assert named in complaint(tree)


@pytest.mark.parametrize("steps", [0, 1001, 10**11])
def test_a_sampler_has_at_most_as_many_steps_as_ddpm(tree, steps):
    """A slip of the pen would take all memory."""
    sampler = tree["methods"]["ssimbad"]["colour"]["pretrain"]["sampler"]
    sampler["steps"] = steps
    assert "colour.pretrain.sampler.steps: Input should be" in complaint(tree)
    sampler["steps"] = 1000
    tree["report"]["nfe"] = {"calls": [1000, steps], "samplers": [{"name": "euler"}], "images": 4}
    assert "report.nfe.calls.1: Input should be" in complaint(tree)


@pytest.mark.parametrize("seeds", [[-1], [0, -3], [-0x8000_0000_0000_0000]])
def test_a_seed_is_part_of_file_names_and_not_negative(tree, seeds):
    tree["seeds"] = seeds
    assert f"seeds.{len(seeds) - 1}: " in complaint(tree)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinities_are_no_values(tree, value):
    """No record could hold them."""
    tree["sketches"]["epsilon"] = value
    assert "sketches.epsilon: Input should be a finite number" in complaint(tree)


def own(tree, key: str, path: str) -> dict:
    """The tree with a path of the user's at a key."""
    tree["data"] |= {"source": "folder", "path": "data/raw/faces"}
    tree.get("references", {}).pop("companions", None)  # of rendered faces alone
    node = tree
    *nodes, last = key.split(".")
    for name in nodes:
        node = node.setdefault(name, {})
    node[last] = path
    return tree


def test_masks_of_rendered_faces_are_known(tree):
    tree["masks"] = {"network": "mine.onnx"}
    assert "masks.network belongs to source folder" in complaint(tree)


OWN = ["data.path", "data.test_list", "masks.network", "weights.inception.path", "weights.alexnet.path"]


@pytest.mark.parametrize("key", OWN)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~/faces", "~"),
        ("~anna/faces.zip", "~"),
        ("data/raw/{split}", "braces"),
        ("data/raw/${HOME}", "braces"),
        ("/somewhere/a}b", "braces"),
        ("data/raw/x</script><script>alert(1)", "markup"),
        ("data/raw/<!--<script>", "markup"),
        ("s3://bucket/faces", "//"),
        ("data//raw/faces", "//"),
        ("data/raw/a\nb", "line breaks"),
        ("data/raw/a\x07", "line breaks"),
        (" data/raw/faces", "blanks"),
        ("data/faces", "data/faces"),
        ("data/faces/mine", "data/faces"),
        ("./data/raw/../references/x.txt", "data/references"),
        ("models/mine.zip", "models"),
        ("work", "work"),
        ("data", "data/faces"),
        (".", "data/faces"),
        ("/", "data/faces"),
        ("..", "data/faces"),
    ],
)
def test_a_path_that_not_all_would_read_alike_is_refused(tree, monkeypatch, tmp_path, key, path, said):
    (tmp_path / "house").mkdir()
    monkeypatch.chdir(tmp_path / "house")
    assert complaint(own(tree, key, path)).startswith(f"params.yaml: {key}: {path!r}: ")
    assert said in complaint(own(tree, key, path))


@pytest.mark.parametrize("key", OWN)
@pytest.mark.parametrize(
    "path",
    [
        "data/raw/faces", "data/raw/embedded.zip", "data/facesets/1", "../faces", "/somewhere/else/faces.zip", "faces",
        "data/raw/a b", "data/raw/it's \"mine\"", "data/raw/täst-顔", "data/raw/$HOME", "data/raw/*[ab]?",
        "data/raw/x/", "./data/raw/x", "data/raw/a#1%20;|&<b>", "data/raw/a:b", "-n",
    ],
)  # fmt: skip
def test_any_other_path_is_taken_as_it_is(tree, monkeypatch, tmp_path, key, path):
    monkeypatch.chdir(tmp_path)
    assert lookup(parse(own(tree, key, path)), key) == path


def test_a_link_into_what_the_pipeline_makes_is_seen_through(tree, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/faces").mkdir(parents=True)
    (tmp_path / "mine").symlink_to("data/faces")
    for path in ("mine", str(tmp_path / "mine"), str(tmp_path / "data/faces/mine")):
        assert f"data.path: {path!r}: the pipeline writes" in complaint(own(tree, "data.path", path))


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "presets").glob("*.yaml")))
def test_all_that_the_stages_make_of_a_users_images_lies_where_none_of_his_may(name):
    tree = own(preset_tree(name), "data.path", "data/raw/faces")
    made = [f for i in instances(parse(tree)) for f in [*i.outputs.values(), i.record, i.marker]]
    assert len(made) > 50
    assert [f for f in made if not any(f.startswith(f"{folder}/") for folder in MADE)] == []


def test_a_checkout_in_a_folder_with_braces_is_refused(house, monkeypatch):
    (house / "{x}").mkdir()
    (house / "{x}/params.yaml").write_text((house / "params.yaml").read_text())
    params.load()
    monkeypatch.chdir(house / "{x}")
    with pytest.raises(ParameterError, match="braces in a path; rename the folder"):
        params.load()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "ssimbat"}, "methods.ssimbad.kind"),
        ({"config": {}}, "methods.ssimbad.config"),
        ({"config": {"phi": {"form": "ratonal", "c": 0.3}}}, "ratonal"),
        ({"pretrain": None, "colour": {}}, "methods.ssimbad.finetune.start"),
        ({"pretrain": None}, "methods.ssimbad.colour: no weights of stage 'pretrain'"),
        ({"colour": {"encoder": {}}}, "methods.ssimbad.colour"),
        ({"weights": "ssimbad/pretrain"}, "methods.ssimbad.config: belongs to the training"),
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
        (None, "methods.ssimbad.colour.pretrain.sampler: missing"),
        ({"name": "eular", "steps": 2}, "methods.ssimbad.colour.pretrain.sampler.name: kind ssimbad has no sampler"),
        ({"name": "euler", "steps": 2, "eta": 1.0}, "eta belongs to ddim"),
        ({"name": "ddim", "steps": 2, "churn": {"s_churn": 40.0}}, "churn belongs to heun"),
    ],
)
def test_impossible_samplers(tree, sampler, named):
    tree["methods"]["ssimbad"]["colour"]["pretrain"]["sampler"] = sampler
    assert named in complaint(tree)


def test_not_yaml(tree):
    with pytest.raises(ParameterError, match="not valid YAML"):
        params.parse("a: [")
    with pytest.raises(ParameterError, match="ssimbad preset demo"):
        params.parse("- 1")


def test_a_view_shows_what_is_declared_and_nothing_else(tree):
    view = View(parse(tree), ("data.size", "methods.ssimbad.pretrain"))
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
            lookup(p, key)


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
        env=unwatched() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == "ssimbad: params.yaml: File too large\n"


def test_the_page_of_parameters_is_up_to_date():
    from ssimbad import params_page

    page = (ROOT / "docs/parameters.md").read_text()
    assert page == params_page.page(), "run `ssimbad parameters > docs/parameters.md`"


def test_the_schema_is_up_to_date():
    from ssimbad import params_page

    file = ROOT / "docs/params.schema.json"
    assert file.read_text() == params_page.schema(), "run `ssimbad parameters --schema > docs/params.schema.json`"


def problems(tree) -> list[str]:
    """What an editor would underline."""
    schema = json.loads((ROOT / "docs/params.schema.json").read_text())
    found = jsonschema.Draft202012Validator(schema).iter_errors(tree)
    return [".".join(map(str, e.absolute_path)) for e in found]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_by_the_schema_presets_are_right_as_they_are_written(name):
    assert problems(yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text())) == []
    assert problems(preset_tree(name)) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("training.precison", "fp32"),
        ("data.size", "16"),
        ("methods.ssimbad.kind", "ssimbat"),
        ("methods.ssimbad.config.fi", 1),
        ("methods.ssimbad.pretrain.objective", "denoise"),
        ("methods.ssimbad.finetune.options.los", "mse"),
        ("methods.ssimbad.colour.pretrain.options.mode", "x"),
        ("methods.ssimbad.colour.pretrain.sampler.steps", 0),
    ],
)
def test_an_editor_sees_what_the_program_would_refuse(tree, place, value):
    assert problems(tree) == []
    node = tree
    *path, last = place.split(".")
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    assert problems(tree) != []
    complaint(tree)


PLACES = [
    *(("ssimbad", *path) for path in (
        ("kind",), ("config",), ("config", "phi"), ("weights",), ("encoder",), ("pretrain",), ("pretrain", "objective"),
        ("pretrain", "start"), ("pretrain", "options"), ("pretrain", "validation"), ("finetune", "options", "sampler"),
        ("finetune", "validation", "colour"), ("finetune", "validation", "every"), ("colour",), ("colour", "encoder"),
        ("colour", "pretrain"), ("colour", "pretrain", "sampler"), ("colour", "pretrain", "options"),
        ("colour", "pretrain", "samples"),
    )),
    ("new",),
]  # fmt: skip
VALUES = [
    *(None, [], {}, "", "x", 0, -1, 1.5, True, [1], [[]], {"a": 1}, {"name": "euler"}, 10**30),
    *("ssimbad/encoder", "ssimbad/pretrain", "../x/pretrain"),
]


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_whatever_stands_in_a_block_is_taken_or_refused_in_one_line(tree, path):
    """A list where a name should be is no key of a table, for example."""
    *above, last = path
    for value in VALUES:
        changed = copy.deepcopy(tree)
        node = changed["methods"]
        for part in above:
            node = node[part]
        node[last] = value
        try:
            instances(parse(changed))
        except ParameterError as error:
            assert "\n" not in str(error), value
            assert re.match(r"params\.yaml: (unknown key )?methods\.", str(error)), value


def test_a_block_may_say_that_it_borrows_nothing(tree):
    tree["methods"]["ssimbad"]["weights"] = None
    assert parse(tree).methods["ssimbad"].config.phi == "selected"
