"""The stage table, and what Snakemake and DVC make of it."""

from __future__ import annotations

import contextlib
import copy
import io
from functools import reduce
from pathlib import Path

import pytest
import yaml

from ssimbad.errors import ParameterError
from ssimbad.params import overlay
from ssimbad.params import tree as parameters
from ssimbad.pipeline import code, dvcfile, runner, table
from ssimbad.pipeline.table import instances

from .conftest import ROOT, preset_tree, write_params
from .toy import load


def test_names_and_outputs_are_unique(tree):
    found = instances(load(tree))
    names = [i.name for i in found]
    outputs = [o for i in found for o in i.outputs.values()]
    assert len(set(names)) == len(names)
    assert len(set(outputs)) == len(outputs)


def test_everything_read_is_made_upstream_or_comes_from_outside(tree):
    found = instances(load(tree))
    made = {o for i in found for o in i.outputs.values()}
    for instance in found:
        assert set(instance.files) <= made, instance.name


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("sketches.p", {"sketches", "evaluate", "baselines"}),
        ("references.seed", {"references", "pretrain", "finetune"}),
        ("schedule.points", {"ssim_curves", "select_phi"}),
        ("methods.ssimbad.finetune.learning_rate", {"finetune", "compute"}),
        ("methods.ssimbad.finetune.options", {"finetune", "compute"}),
        ("methods.ssimbad.colour.finetune", {"colorize", "spread", "tables", "compute"}),
        ("methods.ssimbad.label", {"tables", "figures", "spread_table", "compute"}),
        ("colorize.seed", {"colorize", "spread"}),
        ("evaluation.seed", {"evaluate", "baselines", "tables", "spread", "spread_table"}),
        ("report.grid_images", {"figures", "data_sheet"}),
        ("report.spread.samples", {"spread", "spread_table"}),
        ("data.test", {"raw", "faces"}),
        ("network.base", {"pretrain", "finetune", "compute"}),
    ],
)
def test_a_parameter_reaches_only_the_stages_that_use_it(tree, key, stages):
    found = instances(load(tree))
    used = {
        i.stage.name for i in found for p in i.params if key == p or key.startswith(p + ".") or p.startswith(key + ".")
    }
    assert used == stages


def test_own_folder_leaves_out_what_only_embedded_faces_have(tree):
    tree["data"] |= {"source": "folder", "path": "my-faces"}
    found = instances(load(tree))
    assert not [i for i in found if i.stage.name == "raw"]
    assert {i.wildcards["setting"] for i in found if i.stage.name == "evaluate"} == {"same", "cross"}
    assert next(i for i in found if i.stage.name == "faces").inputs["raw"] == "my-faces"


def test_shards_change_what_the_two_data_stages_read_and_nothing_else(tree):
    """Rendered faces are dealt out too; a single shard is none."""
    alone, one, three = (load(tree | {"data": tree["data"] | more}) for more in ({}, {"shards": 1}, {"shards": 3}))
    assert instances(alone) == instances(one)
    plain, scattered = ({i.name: i for i in instances(p)} for p in (alone, three))
    assert [name for name in scattered if name not in plain] == [
        "face_shard-0", "face_shard-1", "face_shard-2", "sketch_shard-0", "sketch_shard-1", "sketch_shard-2",
    ]  # fmt: skip
    assert [name for name in plain if plain[name] != scattered[name]] == ["faces", "sketches"]
    assert plain["faces"].params == scattered["faces"].params
    assert scattered["face_shard-0"].upstream == ("raw",)
    assert {"face_shard-0", "face_shard-1", "face_shard-2"} <= set(scattered["faces"].upstream)
    assert {"faces", "sketch_shard-2"} <= set(scattered["sketches"].upstream)


def test_feature_weights_are_a_stage_only_when_switched_on(tree):
    tree["weights"]["enabled"] = True
    found = instances(load(tree))
    assert [i for i in found if i.stage.name == "weights"]
    evaluate = next(i for i in found if i.stage.name == "evaluate")
    assert "weights" in evaluate.upstream


def test_dvc_yaml_is_generated_from_the_table(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = dvcfile.text(parameters.load(ROOT / "params.yaml"))
    assert (ROOT / "dvc.yaml").read_text() == text, "run `ssimbad dvc-yaml`"


PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_dvc_finds_every_parameter_in_the_file(preset):
    """Also those of methods that leave something to its default."""
    text = dvcfile.text(parameters.load(ROOT / f"presets/{preset}.yaml"))
    content, tree = yaml.load(text, Loader=yaml.CSafeLoader), preset_tree(preset)
    keys = {key for stage in content["stages"].values() for key in stage["params"] if isinstance(key, str)}
    for key in keys:
        node = tree
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def snakemake_dag(folder: Path):
    """{command: (inputs, outputs)} of every job of the target `all`, without markers and log redirection."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    def data(files):
        return {str(f) for f in files if not str(f).startswith(".state/")}

    with (
        SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        flow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=folder / "Snakefile", workdir=folder)
        flow.dag(DAGSettings(targets={"all"}, forceall=True)).summary()  # summary() builds the graph
        # What Snakemake prints of a graph has no commands but those that have run.
        jobs = [j for j in flow._workflow.dag.jobs if j.shellcmd]
        return {j.shellcmd.split(" 2>&1")[0]: (data(j.input), data(j.output)) for j in jobs}


def table_dag(p: parameters.Params):
    """What `snakemake_dag` should find: every stage instance of the table."""
    return {i.command: (set(i.files), {*i.outputs.values(), i.record}) for i in instances(p)}


@pytest.mark.parametrize("change", ["demo", "folder", "weights", "losses", "rivals"])
def test_snakemake_rules_are_the_table(house, tree, change):
    from .conftest import miniature

    if change == "folder":
        tree["data"] |= {"source": "folder", "path": "my-faces", "test_list": "test.txt", "shards": 3}
        (house / "my-faces").mkdir()
        (house / "test.txt").touch()
        tree["methods"]["split-attention"] = miniature("demo-all")["methods"]["split-attention"]
        tree["masks"] = {"network": "figures.onnx"}
        (house / "figures.onnx").touch()
    if change == "weights":
        tree["weights"]["enabled"] = True
        tree["methods"]["ssimbad"]["finetune"]["options"]["loss"] = "lpips"
    if change == "losses":
        tree = miniature("demo-all")
        tree["weights"]["enabled"] = True
        tree["methods"]["edm"]["finetune"]["options"]["loss"] = "lpips-vgg"
        tree["methods"]["ssimbad"]["finetune"]["options"]["loss"] = "clip"
    if change == "rivals":
        tree = miniature("demo-all")
        tree["weights"]["enabled"] = True
        tree["report"]["ladder"] = ["edm", "ssimbad"]
        tree["report"]["nfe"] = {"calls": [2], "samplers": [{"name": "euler"}], "images": 4}
    write_params(house, tree)
    found = snakemake_dag(house)
    assert found == table_dag(load(tree))
    for stage in ("face_shard", "sketch_shard"):
        scattered = sorted(command for command in found if f"stage {stage} " in command)
        assert scattered == [f"ssimbad stage {stage} shard={i}" for i in range(tree["data"].get("shards", 0))]


def leaves(node, *path):
    """(keys down to it, value) of each."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, *path, key)
    else:
        yield path, node


def test_whatever_is_switched_on_is_in_the_rules_too(house, tree):
    """Of all that is off or 0: each one by itself, where it makes other files."""
    write_params(house, tree)
    before = table_dag(load(tree))
    switched = []
    for path, value in leaves(load(tree).model_dump(mode="json", exclude={"methods"})):
        if value is False or (isinstance(value, int | float) and value == 0):
            changed = copy.deepcopy(tree)
            reduce(lambda node, key: node.setdefault(key, {}), path[:-1], changed)[path[-1]] = type(value)(1)
            with contextlib.suppress(ParameterError):  # one that cannot be switched on by itself
                if table_dag(load(changed)) != before:
                    switched.append(".".join(path))
                    write_params(house, changed)
                    assert snakemake_dag(house) == table_dag(load(changed)), path
    assert {"weights.enabled", "references.companions"} <= set(switched)


@pytest.mark.parametrize("preset", PRESETS)
def test_all_makes_every_stage_of_a_preset(house, preset):
    """Else `dvc status` would list as deleted what `snakemake all` was never asked for."""
    (house / "params.yaml").write_text(overlay.whole(ROOT / f"presets/{preset}.yaml"))
    p = parameters.load(house / "params.yaml")
    if p.data.path:
        (house / p.data.path).mkdir(parents=True)
    assert snakemake_dag(house) == table_dag(p)


def test_without_a_target_everything_is_asked_for(house):
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api, contextlib.redirect_stdout(io.StringIO()) as told:
        flow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=house / "Snakefile", workdir=house)
        flow.dag(DAGSettings()).summary()
    made = {line.split("\t")[0] for line in told.getvalue().splitlines()}  # a line per file
    p = parameters.load(house / "params.yaml")
    assert made >= {path for _, outputs in table_dag(p).values() for path in outputs}


def test_source_files_of_a_stage_are_the_closure_of_its_imports():
    files = code.closure("ssimbad.pairing.stage_sketches:run")
    assert "src/ssimbad/pairing/xdog.py" in files
    assert "src/ssimbad/runtime/devices.py" in code.closure("ssimbad.metrics.evaluate:run")  # imported in a function
    assert "src/ssimbad/artifacts.py" in files
    assert "src/ssimbad/training/loop.py" not in files
    # only type checkers read what tables name of measuring
    assert "src/ssimbad/metrics/measure.py" not in code.closure("ssimbad.reporting.tables:run")
    for stage in table.STAGES:
        assert code.closure(stage.run), stage.name


@pytest.mark.parametrize(
    ("stage", "wildcards", "named"),
    [
        ("fases", {}, "stages are"),
        ("pretrain", {}, "for example: stage pretrain method=ssimbad seed=0"),
        ("pretrain", {"method": "ssimbad", "seed": "9"}, "seed=0"),
        ("weights", {}, "not part of the pipeline"),
    ],
)
def test_wrong_stage_names(tree, stage, wildcards, named):
    with pytest.raises(ParameterError, match=named):
        runner.find(load(tree), stage, wildcards)
