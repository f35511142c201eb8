"""The stage table, the content records and the runner, without any heavy stage."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from ssimbad import artifacts, cli
from ssimbad import params as parameters
from ssimbad.errors import ParameterError, UserError
from ssimbad.files import Seen
from ssimbad.pipeline import cleaning, code, dvcfile, records, runner, table
from ssimbad.pipeline.table import Stage, instances
from ssimbad.tracking import spool

from .conftest import ROOT, write_params


def load(tree, monkeypatch=None):
    return parameters.Params.model_validate(tree)


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
        ("sketches.p", {"sketches"}),
        ("references.seed", {"raw", "references", "pretrain", "finetune"}),
        ("schedule.points", {"ssim_curves", "select_phi"}),
        ("methods.ssimbad.finetune.learning_rate", {"finetune", "compute"}),
        ("methods.ssimbad.finetune.sampler", {"finetune", "colorize", "spread", "compute"}),
        ("methods.ssimbad.label", {"tables", "figures", "spread_table", "compute"}),
        ("colorize.seed", {"colorize", "spread"}),
        ("evaluation.seed", {"evaluate", "baselines", "tables", "spread", "spread_table"}),
        ("report.grid_images", {"figures"}),
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
    file = ROOT / f"presets/{preset}.yaml"
    content = yaml.safe_load(dvcfile.text(parameters.load(file)))
    keys = {key for stage in content["stages"].values() for key in stage["params"] if isinstance(key, str)}
    for key in keys:
        node = yaml.safe_load(file.read_text())
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
        jobs = [j for j in flow._workflow.dag.jobs if j.shellcmd]
        return {j.shellcmd.split(" 2>&1")[0]: (data(j.input), data(j.output)) for j in jobs}


def table_dag(p: parameters.Params):
    """What `snakemake_dag` should find: every stage instance of the table."""
    return {i.command: (set(i.files), {*i.outputs.values(), i.record}) for i in instances(p)}


@pytest.mark.parametrize("change", ["demo", "folder", "weights", "rivals"])
def test_snakemake_rules_are_the_table(house, tree, change):
    from .conftest import miniature, write_params

    if change == "folder":
        tree["data"] |= {"source": "folder", "path": "my-faces", "test_list": "test.txt"}
        (house / "my-faces").mkdir()
        (house / "test.txt").touch()
    if change == "weights":
        tree["weights"]["enabled"] = True
        tree["methods"]["ssimbad"]["finetune"]["options"]["loss"] = "lpips"
    if change == "rivals":
        tree = miniature("demo-all")
        tree["weights"]["enabled"] = True
        tree["report"]["ladder"] = ["edm", "ssimbad"]
        tree["report"]["nfe"] = {"calls": [2], "samplers": [{"name": "euler"}], "images": 4}
    write_params(house, tree)
    assert snakemake_dag(house) == table_dag(load(tree))


@pytest.mark.parametrize("preset", PRESETS)
def test_all_makes_every_stage_of_a_preset(house, preset):
    """Else `dvc status` would list as deleted what `snakemake all` was never asked for."""
    (house / "params.yaml").write_text((ROOT / f"presets/{preset}.yaml").read_text())
    p = parameters.load(house / "params.yaml")
    if p.data.path:
        (house / p.data.path).mkdir(parents=True)
    assert snakemake_dag(house) == table_dag(p)


def test_without_a_target_everything_is_asked_for(house):
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api, contextlib.redirect_stdout(io.StringIO()):
        flow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=house / "Snakefile", workdir=house)
        flow.dag(DAGSettings()).summary()
        assert "all" in {j.rule.name for j in flow._workflow.dag.jobs}


def test_source_files_of_a_stage_are_the_closure_of_its_imports():
    files = code.closure("ssimbad.pairing.stage_sketches:run")
    assert "src/ssimbad/pairing/xdog.py" in files
    assert "src/ssimbad/faces/reading.py" in files  # imported inside a function
    assert "src/ssimbad/artifacts.py" in files
    assert "src/ssimbad/training/loop.py" not in files
    for stage in table.STAGES:
        assert code.closure(stage.run), stage.name


# A pipeline of two stages that costs nothing: `cheap` copies a file, `dear` counts how often it was computed.


meddle = {}  # what somebody does to the inputs: {"before" or "after" the stage reads them: function}


def run_cheap(params, inputs, outputs, job):
    meddle.get("before", Path)()
    text = inputs["raw"].read_text()
    meddle.get("after", Path)()
    artifacts.write_text(outputs["copy"], text)
    meddle.get("written", Path)()


def run_dear(params, inputs, outputs, job):
    """Reads its input, or goes on from what it has read of it, as a training does."""
    counter = Path("computed.txt")
    counter.write_text(counter.read_text() + "x" if counter.exists() else "x")
    state = job.scratch / "state.txt"
    if not state.exists():
        meddle.get("before", Path)()
        text = inputs["copy"].read_text()
        meddle.get("after", Path)()
        if "confirmed" in meddle:
            job.confirm()
        job.scratch.mkdir(parents=True, exist_ok=True)
        state.write_text(text)
    meddle.get("end", Path)()
    artifacts.write_text(outputs["weights"], state.read_text() + str(params.colorize.seed))
    job.note_cost(seconds=params.colorize.seed)
    meddle.get("written", Path)()


@pytest.fixture
def toy(house, monkeypatch):
    stages = (
        Stage(
            "cheap", "tests.test_pipeline:run_cheap", lambda p, w: {"raw": "raw.txt"},
            lambda p, w: {"copy": "copy.txt"}, lambda p, w: ("data.seed",),
        ),
        Stage(
            "dear", "tests.test_pipeline:run_dear", lambda p, w: {"copy": "copy.txt"},
            lambda p, w: {"weights": "weights.txt"}, lambda p, w: ("colorize.seed",), expensive=True,
        ),
    )  # fmt: skip
    monkeypatch.setattr(table, "STAGES", stages)
    monkeypatch.setattr(runner, "STAGES", stages)
    monkeypatch.setattr(records, "version", lambda stage: toy_version["dear"])
    monkeypatch.setattr(code, "closure", lambda entry: ("code.py",))
    (house / "raw.txt").write_text("face")
    (house / "code.py").write_text("# first\n")
    return house


toy_version = {"dear": 1}


@pytest.fixture(autouse=True)
def _as_at_first():
    toy_version["dear"] = 1
    meddle.clear()


def bring(tree):
    p = load(tree)
    for instance in table.instances(p):
        runner.run(p, instance)
    return p


def computed():
    return len(Path("computed.txt").read_text())


def test_a_fresh_stage_is_left_alone(toy, tree):
    assert set(records.survey(load(tree)).values()) != {None}
    p = bring(tree)
    assert records.survey(p) == {"cheap": None, "dear": None}
    bring(tree)
    assert computed() == 1


def test_reasons_are_told(toy, tree):
    p = bring(tree)
    (toy / "raw.txt").write_text("other")
    assert records.survey(p)["cheap"] == "input raw.txt changed"
    assert records.survey(p)["dear"] == "upstream cheap is not fresh"
    (toy / "raw.txt").write_text("face")
    (toy / "weights.txt").write_text("tampered")
    assert records.survey(p) == {"cheap": None, "dear": "output weights.txt changed"}
    (toy / "weights.txt").unlink()
    assert records.survey(p)["dear"] == "output weights.txt is missing"


def test_a_changed_parameter_is_named(toy, tree):
    bring(tree)
    tree["colorize"]["seed"] = 7
    assert records.survey(load(tree))["dear"] == "parameter colorize.seed changed"


def test_a_comment_retrains_nothing(toy, tree):
    p = bring(tree)
    (toy / "code.py").write_text("# second\n")
    assert records.survey(p) == {"cheap": "code code.py changed", "dear": "upstream cheap is not fresh"}
    bring(tree)
    assert records.survey(p) == {"cheap": None, "dear": None}
    assert computed() == 1


def test_going_back_restores_instead_of_computing(toy, tree):
    bring(tree)
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face7"
    tree["colorize"]["seed"] = 0
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert computed() == 2


def test_a_damaged_kept_result_is_computed_again(toy, tree, capsys):
    bring(tree)
    (kept,) = Path("work/dear").glob("*/kept/weights")
    kept.write_text("")
    Path("weights.txt").unlink()
    bring(tree)
    assert "the kept result is damaged; dear is computed again" in capsys.readouterr().err
    assert Path("weights.txt").read_text() == kept.read_text() != ""
    assert computed() == 2


def test_a_restored_result_comes_with_its_own_cost(toy, tree):
    def seconds():
        return json.loads(Path("work/cost/dear.json").read_text())["seconds"]

    bring(tree)
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert seconds() == 7
    tree["colorize"]["seed"] = 0
    bring(tree)
    assert seconds() == 0
    next(path for path in Path("work/dear").glob("*/kept/dear.json") if '"seconds": 7' in path.read_text()).unlink()
    tree["colorize"]["seed"] = 7
    bring(tree)
    assert not Path("work/cost/dear.json").exists(), "better none than another result's"


def test_a_measurement_names_the_fingerprint_of_its_result(toy, tree):
    for seed in (0, 7):
        tree["colorize"]["seed"] = seed
        bring(tree)
        measured = json.loads(Path("work/cost/dear.json").read_text())
        assert (Path("work/dear") / measured["fingerprint"] / "kept/weights").read_text() == f"face{seed}"


def test_what_somebody_has_put_among_the_states_stays(toy, tree):
    p = bring(tree)
    (kept,) = Path("work/dear").glob("*/kept")
    own = [kept.parent / "notes.txt", kept.parent / "mine/x.txt", kept / "remarks.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    state = kept.parent / "state-000000000064.safetensors"
    state.touch()
    runner.run(p, table.instances(p)[1], force=True)
    assert [path.read_text() for path in own] == ["mine"] * 3
    assert not state.exists()


def logbook(name):
    """What the newest spool of an instance says: its start, and all tags of the run."""
    path = max(spool.ROOT.glob(f"{name}-*.jsonl"), key=lambda p: p.stat().st_mtime_ns)
    events = spool.read(path)
    assert events[-1]["event"] == "end"
    later = [event["values"] for event in events if event["event"] == "tags"]
    return events[0], {key: value for tags in [events[0]["tags"], *later] for key, value in tags.items()}


def test_the_logbook_has_the_md5_of_all_that_went_in_and_came_out(toy, tree):
    bring(tree)
    for name in ("cheap", "dear"):
        start, tags = logbook(name)
        record = json.loads(Path(f"records/{name}.json").read_text())
        assert start["inputs"] == record["inputs"]
        told = {key.removeprefix("output_md5/"): value for key, value in tags.items() if key.startswith("output_md5/")}
        assert told == record["outputs"]
        assert "restored" not in tags


def test_the_logbook_tells_a_restored_result_from_a_computed_one(toy, tree):
    bring(tree)
    Path("weights.txt").unlink()
    bring(tree)
    start, tags = logbook("dear")
    assert tags["restored"] == "true"
    assert tags["output_md5/weights.txt"] == json.loads(Path("records/dear.json").read_text())["outputs"]["weights.txt"]
    assert start["inputs"] == json.loads(Path("records/dear.json").read_text())["inputs"]
    assert computed() == 1


def test_a_lost_output_is_restored(toy, tree):
    bring(tree)
    (toy / "weights.txt").unlink()
    (toy / "records/dear.json").unlink()
    bring(tree)
    assert computed() == 1


def test_a_raised_version_computes_anew(toy, tree):
    bring(tree)
    toy_version["dear"] = 2
    assert records.survey(load(tree))["dear"] == "stage version changed"
    bring(tree)
    assert computed() == 2


def test_records_hold_no_times_and_are_the_same_twice(toy, tree):
    bring(tree)
    first = (toy / "records/dear.json").read_bytes()
    p = load(tree)
    runner.run(p, table.instances(p)[1], force=True)
    assert (toy / "records/dear.json").read_bytes() == first
    assert set(json.loads(first)) == {"command", "params", "inputs", "version", "libraries", "outputs"}


@pytest.fixture
def library(monkeypatch):
    """{name: version} of what the toys are made with, to be changed at will."""
    versions = {"torch": "2.13.0", "numpy": "2.4.6"}
    monkeypatch.setattr(code, "libraries", lambda files: tuple(versions))
    monkeypatch.setattr(records, "installed", versions.get)
    return versions


def told(capsys) -> dict[str, str]:
    """What `ssimbad status` says of each instance."""
    capsys.readouterr()
    cli.status()
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_another_library_is_told_and_makes_nothing_stale(toy, tree, library, capsys):
    p = bring(tree)
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}
    before = {f: f.read_bytes() for f in Path("records").iterdir()}
    library["torch"] = "2.14.1"
    assert records.survey(p) == {"cheap": None, "dear": None}
    assert told(capsys)["dear"] == "fresh, made with torch 2.13.0, now 2.14.1"
    bring(tree)
    assert {f: f.read_bytes() for f in Path("records").iterdir()} == before
    assert computed() == 1
    (toy / "raw.txt").write_text("other")
    assert told(capsys)["cheap"] == "input raw.txt changed"
    bring(tree)
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}


def test_a_restored_result_keeps_the_libraries_that_made_it(toy, tree, library, capsys):
    bring(tree)
    library |= {"torch": "2.14.1", "numpy": "2.5.0"}
    for seed in (7, 0):
        tree["colorize"]["seed"] = seed
        write_params(toy, tree)
        bring(tree)
        assert ("made with" in told(capsys)["dear"]) == (seed == 0)
    assert computed() == 2
    assert told(capsys)["dear"] == "fresh, made with numpy 2.4.6, now 2.5.0; torch 2.13.0, now 2.14.1"


def test_what_was_recorded_or_kept_before_libraries_were_is_read(toy, tree, library, capsys):
    bring(tree)
    for file in Path("records").iterdir():
        record = json.loads(file.read_text())
        del record["libraries"]
        file.write_text(json.dumps(record))
    assert told(capsys) == {"cheap": "fresh", "dear": "fresh"}
    for kept in Path("work").rglob("libraries.json"):
        kept.unlink()
    (toy / "weights.txt").unlink()
    bring(tree)
    assert computed() == 1
    assert told(capsys)["dear"] == "fresh"


@pytest.mark.parametrize("text", ["", "[]", "3", '{"params": 1}', '{"outputs": []}', "\xff", "[" * 100_000])
def test_a_record_that_is_none_says_so(toy, tree, text):
    p = bring(tree)
    Path("records/dear.json").write_text(text, encoding="latin-1")
    assert records.survey(p)["dear"] == "record records/dear.json is unreadable"
    bring(tree)
    assert records.survey(p)["dear"] is None


def test_every_library_behind_a_stage_has_a_version(tree):
    for instance in instances(load(tree)):
        found = records.libraries(instance)
        names = code.libraries(code.closure(instance.stage.run))
        assert len(found) >= 1 + len(names), instance.name
        assert {"python", "numpy", "pillow"} <= found.keys()
    assert {"torch", "safetensors", "scipy"} <= found.keys() | records.libraries(
        next(i for i in instances(load(tree)) if i.stage.name == "pretrain")
    ).keys()


def test_markers_tell_the_truth(toy, tree):
    p = bring(tree)
    records.reconcile(p)
    assert {m.name for m in Path(".state").glob("*.ok")} == {"cheap.ok", "dear.ok"}
    (toy / "raw.txt").write_text("other")
    records.reconcile(p)
    assert not list(Path(".state").glob("*.ok"))


# Ways in which an input is another one while a stage reads it, and each the other way round.


def anew(path, text):
    """As a stage or an engine does it."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def in_place(path, text):
    """Same length, same times."""
    times = path.stat()
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def moved(path, text):
    """The file itself comes back: its content, its inode and the time of its last write have never changed."""
    aside = path.with_name("aside")
    if aside.exists():
        aside.replace(path)
    else:
        path.replace(aside)
        path.write_text(text)


def bent(path, text):
    """A link leads elsewhere for a while."""
    for name, content in (("face", "face"), ("scar", "scar")):
        Path(name).write_text(content) if not Path(name).exists() else None
    path.unlink()
    path.symlink_to(text)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("change", [anew, in_place, moved, bent])
@pytest.mark.parametrize("stage", ["cheap", "dear"])
def test_nothing_is_kept_of_a_replaced_input(toy, tree, stage, change, back):
    """Neither a record nor a result or state that the true input would be given later."""
    path = toy / {"cheap": "raw.txt", "dear": "copy.txt"}[stage]
    if change is bent:
        bent(toy / "raw.txt", "face")
    p = load(tree)
    cheap, dear = table.instances(p)
    if stage == "dear":
        runner.run(p, cheap)
    if change is bent:
        bent(path, "face")
    meddle["before"] = lambda: change(path, "scar")
    if back:
        meddle["after"] = lambda: change(path, "face")
    with pytest.raises(UserError, match="an input changed while the stage ran; run the same command again"):
        runner.run(p, {"cheap": cheap, "dear": dear}[stage])
    assert records.survey(p)[stage] is not None
    assert not [f for f in Path("work/dear").rglob("*") if f.name in ("state.txt", "complete.json")]
    events = [spool.read(file) for file in Path("work/spool").glob(f"{stage}-*.jsonl")]
    assert [told[-1]["status"] for told in events] == ["FAILED"]
    meddle.clear()
    if not back:
        change(path, "face")
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert set(records.survey(p).values()) == {None}


@pytest.mark.parametrize("restored", [False, True])
def test_an_input_that_is_gone_or_a_raised_version_leaves_nothing_either(toy, tree, restored):
    p = bring(tree)
    cheap, dear = table.instances(p)
    if not restored:
        shutil.rmtree("work")
    (toy / "records/dear.json").unlink()
    before = records.made_from(dear, p, records.Hashes())
    for change in (lambda: (toy / "copy.txt").unlink(), lambda: toy_version.update(dear=2)):
        meddle["end"] = change
        with pytest.raises(UserError):
            runner.run(p, dear, force=True)
        assert not (toy / "records/dear.json").exists()
        kept = toy / "work/dear" / records.fingerprint(before) / "kept/weights"
        assert kept.exists() == restored, "what was kept before is as good as it was"
        toy_version["dear"] = 1
        runner.run(p, cheap)


def test_a_state_that_was_confirmed_outlives_a_later_change(toy, tree):
    """Hours of a training are not lost because somebody touches a file at its end."""
    p = load(tree)
    cheap, dear = table.instances(p)
    runner.run(p, cheap)
    meddle.update({"confirmed": True, "end": (toy / "copy.txt").touch})
    with pytest.raises(UserError, match=r"copy\.txt was touched"):
        runner.run(p, dear)
    (state,) = Path("work/dear").rglob("state.txt")
    assert not list(state.parent.glob("kept/complete.json"))
    state.write_text("from the state: face")
    meddle.clear()
    runner.run(p, dear)
    assert (toy / "weights.txt").read_text() == "from the state: face0"


@pytest.mark.parametrize("change", [anew, in_place, moved])
def test_no_state_is_saved_of_a_replaced_input_even_if_the_process_is_killed_then(toy, tree, change):
    p = load(tree)
    cheap, dear = table.instances(p)
    runner.run(p, cheap)
    meddle.update(
        {
            "confirmed": True,
            "before": lambda: change(toy / "copy.txt", "scar"),
            "after": lambda: change(toy / "copy.txt", "face"),
        }
    )
    with pytest.raises(UserError, match=r"copy\.txt was touched"):
        runner.run(p, dear)
    assert not list(Path("work/dear").rglob("state.txt"))


def gone(path, text):
    path.unlink()


@pytest.mark.parametrize("change", [anew, in_place, gone])
@pytest.mark.parametrize("stage", ["cheap", "dear"])
def test_a_replaced_output_is_not_what_the_stage_made(toy, tree, stage, change):
    """No record of it, nothing of it kept, and the logbook says that the stage has failed."""
    path = toy / {"cheap": "copy.txt", "dear": "weights.txt"}[stage]
    p = bring(tree)
    shutil.rmtree("work")
    for record in Path("records").iterdir():
        record.unlink()
    meddle["written"] = lambda: change(path, "scars")
    instance = {i.name: i for i in table.instances(p)}[stage]
    with pytest.raises(UserError, match=rf"^{stage}: an output changed while the stage ran; .*\({path.name} is not"):
        runner.run(p, instance, force=True)
    assert records.survey(p)[stage] == f"output {path.name if change is gone else instance.record} is missing"
    assert not list(Path("work").rglob("complete.json"))
    events = [spool.read(file) for file in Path("work/spool").glob(f"{stage}-*.jsonl")]
    assert [told[-1]["status"] for told in events] == ["FAILED"]
    meddle.clear()
    bring(tree)
    assert (toy / "weights.txt").read_text() == "face0"
    assert set(records.survey(p).values()) == {None}


@pytest.mark.parametrize("change", [anew, in_place, gone])
def test_what_replaces_an_output_while_it_is_kept_is_not_kept(toy, tree, monkeypatch, change):
    keep = runner._keep

    def kept(*arguments):
        change(toy / "weights.txt", "scars")
        keep(*arguments)

    monkeypatch.setattr(runner, "_keep", kept)
    with pytest.raises((UserError, FileNotFoundError), match=r"weights\.txt"):
        bring(tree)
    assert not list(Path("work").rglob("complete.json"))
    assert not Path("records/dear.json").exists()


@pytest.mark.parametrize("change", [anew, in_place, gone])
def test_what_replaces_a_restored_output_is_not_recorded(toy, tree, monkeypatch, change):
    p = bring(tree)
    Path("records/dear.json").unlink()
    monkeypatch.setattr(runner._Given, "require_unchanged", lambda given: change(toy / "weights.txt", "scars"))
    with pytest.raises(UserError, match="dear: an output changed while the stage ran"):
        runner.run(p, table.instances(p)[1])
    assert computed() == 1
    assert not Path("records/dear.json").exists()


def test_what_replaces_a_kept_result_while_it_is_restored_is_not_restored(toy, tree, monkeypatch, capsys):
    bring(tree)
    (toy / "weights.txt").unlink()
    copyfile = shutil.copyfile

    def swapped(source, target):
        if "kept" in source.parts:
            anew(source, "scars")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", swapped)
    bring(tree)
    assert "the kept result is damaged; dear is computed again" in capsys.readouterr().err
    assert (toy / "weights.txt").read_text() == "face0"
    assert computed() == 2


def test_an_output_that_a_stage_does_not_write_is_not_the_one_that_was_there(toy, tree, monkeypatch):
    """It may be anybody's."""
    p = bring(tree)
    monkeypatch.setattr(artifacts, "write_text", lambda path, text: None)
    with pytest.raises(RuntimeError, match=r"cheap ended without writing \['copy\.txt'\]"):
        runner.run(p, table.instances(p)[0], force=True)


def test_what_a_stage_wrote_is_known_before_its_record(toy, tree):
    """Also what stood there from earlier runs; of damaged notes nothing is known."""
    notes = Path(".state/written/dear.json")
    p = load(tree)
    for text, other in (("", {}), ('{"other.txt": "1"}', {"other.txt": "1"}), ("[" * 100_000, {}), ('{"a": 1}', {})):
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(text)
        seen = []
        meddle["written"] = lambda seen=seen: seen.append(notes.read_text())
        for instance in table.instances(p):
            runner.run(p, instance, force=True)
        assert json.loads(seen[-1]) == {"weights.txt": records.md5(toy / "weights.txt")} | other
    for record in Path("records").iterdir():
        record.unlink()
    (toy / "copy.txt").write_text("mine")
    cleaning.run("results", p)
    assert not (toy / "weights.txt").exists()
    assert (toy / "copy.txt").read_text() == "mine"


def test_code_that_changes_while_a_cheap_stage_runs_is_not_what_made_it(toy, tree):
    code_file = toy / "code.py"
    meddle.update({"before": lambda: anew(code_file, "# later"), "after": lambda: anew(code_file, "# first\n")})
    with pytest.raises(UserError, match=r"code\.py was touched"):
        bring(tree)
    assert not (toy / "records/cheap.json").exists()


def test_code_that_was_edited_while_a_process_waited_is_not_run(toy, tree, monkeypatch):
    file = toy / "loaded.py"
    file.write_text("old = 1\n")
    monkeypatch.setattr(code, "_AT_START", Seen([str(file)]))
    bring(tree)
    file.write_text("new = 2\n")
    bring(tree)  # nothing to compute
    tree["colorize"]["seed"] = 7
    with pytest.raises(UserError, match=r"loaded\.py: changed after this command had started; run it again"):
        bring(tree)
    assert computed() == 1


def test_a_missing_input_is_named(toy, tree):
    (toy / "raw.txt").unlink()
    with pytest.raises(UserError, match=r"input raw\.txt is missing"):
        bring(tree)


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
