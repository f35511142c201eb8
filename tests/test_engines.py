"""Snakemake and DVC on one miniature pipeline: neither ever calls stale what is fresh, or fresh what is stale.

The checks tell one story, in order, in one repository; each test is a chapter. Who asks for one is told the story up to
there: `pytest tests/test_engines.py -k test_05`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssimbad.pipeline import lock
from ssimbad.tracking import spool

from .conftest import ROOT, lost, make_folder_house, own_source, plant, write_params
from .waiting import until

pytestmark = [pytest.mark.engines, pytest.mark.story]

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": "src",  # each clone runs its own package
    "SSIMBAD_DEVICE": "cpu",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.invalid",
    "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.invalid",
    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "advice.detachedHead", "GIT_CONFIG_VALUE_0": "false",
}  # fmt: skip

STAGES = 23
"""Stages of the miniature, each method, slot, seed and setting for itself."""
# sketches, then everything that is made from them
REPORTS = {"tables": 1, "figures": 1, "compute": 1, "spread_table": 1}
AFTER_SKETCHES = {
    "sketches": 1, "pretrain": 1, "finetune": 1, "colorize": 4, "evaluate": 4, "baselines": 1, "spread": 2,
    "data_sheet": 1, **REPORTS,
}  # fmt: skip
AFTER_FINETUNE = {"finetune": 1, "colorize": 2, "evaluate": 2, "spread": 1, **REPORTS}
AFTER_COLOUR = {"colorize": 2, "evaluate": 2, "spread": 1, **REPORTS}
AFTER_EVALUATE = {"evaluate": 4, "baselines": 1, "tables": 1, "compute": 1, "spread": 2, "spread_table": 1}
EXPENSIVE = {"pretrain", "finetune", "colorize", "spread"}


class House:
    """A checkout, its engines, and what they computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def snakemake(self, *arguments: str) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, "all")

    def planned(self) -> dict[str, int]:
        """Jobs that Snakemake would run, by rule."""
        text = self.snakemake("-n")
        if "Nothing to be done" in text:
            return {}
        rows = (line.split() for line in text.split("Job stats:")[-1].splitlines())
        jobs = {r[0]: int(r[1]) for r in rows if len(r) == 2 and r[1].isdigit()}
        return {k: v for k, v in jobs.items() if k not in ("all", "total")}

    def dvc_clean(self) -> bool:
        return "up to date" in self.run("dvc", "status")

    def computed(self) -> dict[str, int]:
        """Stage instances computed since the last call, by stage: each leaves a spool, as a restored one does."""
        spools = {p.name: p for p in (self.folder / "work/spool").rglob("*.jsonl")}
        new = spools.keys() - getattr(self, "_known", set())
        self._known = spools.keys()
        stages = [name.split("-")[0] for name in new if "restored" not in spool.read(spools[name])[0]["tags"]]
        return {stage: stages.count(stage) for stage in set(stages)}

    def change(self, key: str, value: object) -> None:
        tree = yaml.safe_load((self.folder / "params.yaml").read_text())
        node = tree
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = value
        write_params(self.folder, tree)

    def commit(self, tag: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", tag)
        self.run("git", "tag", tag)

    def checkout(self, tag: str) -> None:
        self.run("git", "checkout", "-q", tag)
        self.run("dvc", "checkout", "-q")


@pytest.fixture(scope="module")
def house(request, tmp_path_factory):
    """A git and DVC repository with faces under a .dvc pointer, nothing computed yet."""
    chapters = [name for name in vars(request.module) if name.startswith("test_")]
    here = [item for item in request.session.items if item.module is request.module]
    asked = list(dict.fromkeys(item.originalname for item in here))
    assert asked == chapters[: len(asked)], "a story has a beginning: pytest tests/test_engines.py -k NAME, no node"
    folder = own_source(make_folder_house(tmp_path_factory.mktemp("engines") / "house"))
    made = House(folder)
    made.foreign = plant(folder)
    made.run("git", "init", "-q", "-b", "main")
    made.run("dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copy(ROOT / ".dvc/plots_page.html", folder / ".dvc/plots_page.html")
    made.run("dvc", "config", "core.autostage", "false")
    made.run("ssimbad", "dvc-yaml")
    made.run("dvc", "add", "-q", "data/raw/faces")
    made.commit("v0")
    return made


def test_01_snakemake_all_leaves_dvc_clean(house):
    house.snakemake()
    assert sum(house.computed().values()) == STAGES
    assert house.dvc_clean()


def test_02_dvc_repro_then_runs_nothing(house):
    house.run("dvc", "repro", "-q")
    assert house.computed() == {}
    assert house.planned() == {}
    house.commit("v1")


def test_03_a_second_sync_commits_only_what_dvc_lacks(house):
    assert f"{STAGES} fresh stages, 0 of them new" in house.run("ssimbad", "sync")
    lock = yaml.safe_load((house.folder / "dvc.lock").read_text())
    digest = lock["stages"]["tables"]["outs"][0]["md5"]
    cached = house.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.unlink()
    assert f"{STAGES} fresh stages, 1 of them new" in house.run("ssimbad", "sync")
    assert cached.exists()
    assert yaml.safe_load((house.folder / "dvc.lock").read_text()) == lock


def test_04_a_run_with_an_outdated_dvc_yaml_computes_but_commits_nothing(house):
    yaml_text, lock = ((house.folder / name).read_text() for name in ("dvc.yaml", "dvc.lock"))
    shorter = yaml.safe_load(yaml_text)
    shorter["stages"]["figures"]["deps"].pop()
    (house.folder / "dvc.yaml").write_text(yaml.safe_dump(shorter))
    figure = house.folder / "reports/figures/training_curves.png"
    figure.unlink()
    done = subprocess.run(
        ["snakemake", "--cores", "2", "all"],
        cwd=house.folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    parsed, ended = (line for line in done.stderr.splitlines() if line.startswith("ssimbad: dvc.yaml does not say"))
    assert parsed.endswith("run `ssimbad dvc-yaml` before this run ends")
    assert ended.endswith("run `ssimbad dvc-yaml` and then this command again")
    assert figure.exists()
    assert not list((house.folder / "work/spool").glob("*.jsonl")), "the logbook is up to date"
    assert (house.folder / "dvc.lock").read_text() == lock
    (house.folder / "dvc.yaml").write_text(yaml_text)
    assert f"{STAGES} fresh stages, 0 of them new" in house.run("ssimbad", "sync")
    house.computed()


def test_05_a_changed_parameter_is_seen_by_both(house):
    house.change("sketches.epsilon", 0.5)
    assert house.planned() == AFTER_SKETCHES
    house.run("git", "checkout", "-q", "params.yaml")
    house.change("methods.ssimbad.finetune.learning_rate", 2.0e-4)
    assert house.planned() == AFTER_FINETUNE
    house.run("dvc", "repro", "-q")
    assert house.computed() == AFTER_FINETUNE
    assert house.planned() == {}
    house.commit("v2")


def test_06_how_a_row_colours_retrains_nothing_in_either_engine(house):
    house.change("methods.ssimbad.colour.finetune.sampler.steps", 3)
    assert house.planned() == AFTER_COLOUR
    house.run("dvc", "repro", "-q")
    assert house.computed() == AFTER_COLOUR
    house.change("methods.ssimbad.colour.finetune.sampler.steps", 4)
    house.snakemake()
    assert house.computed() == AFTER_COLOUR
    house.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    house.run("dvc", "checkout", "-q")
    assert house.planned() == {}
    assert house.dvc_clean()


def test_07_parameters_back_without_checkout_are_no_trap(house):
    house.run("git", "checkout", "-q", "v1", "--", "params.yaml")
    assert house.planned() == AFTER_FINETUNE
    assert not house.dvc_clean()
    house.run("git", "checkout", "-q", "v2", "--", "params.yaml")


def test_08_an_old_commit_comes_with_its_bytes(house):
    for tag in ("v1", "v2"):
        house.checkout(tag)
        assert house.planned() == {}, tag
        assert house.dvc_clean(), tag
    house.run("git", "checkout", "-q", "main")


@pytest.fixture(scope="module")
def remote(house, tmp_path_factory):
    store = tmp_path_factory.mktemp("remote")
    house.run("dvc", "remote", "add", "-q", "-d", "store", str(store))
    house.run("git", "commit", "-qam", "remote")
    house.run("dvc", "push", "-q")
    return store


def clone(house, folder: Path, kind: str) -> House:
    subprocess.run(["git", "clone", "-q", str(house.folder), str(folder)], env=ENVIRONMENT, check=True)
    copy = House(folder)
    copy.run("dvc", "config", "-q", "--local", "cache.type", kind)
    copy.run("dvc", "config", "-q", "--local", "core.autostage", "false")
    copy.run("dvc", "pull", "-q")
    return copy


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_09_a_clone_pulls_and_has_nothing_to_do(house, remote, tmp_path, kind):
    copy = clone(house, tmp_path / "clone", kind)
    assert copy.planned() == {}
    assert copy.dvc_clean()


def test_10_work_in_a_clone_arrives_at_the_same_lock(house, remote, tmp_path):
    copy = clone(house, tmp_path / "clone", "copy")
    copy.change("evaluation.bootstrap", 120)
    copy.snakemake()
    assert copy.computed() == AFTER_EVALUATE
    assert copy.dvc_clean()
    house.change("evaluation.bootstrap", 120)
    house.run("dvc", "repro", "-q")
    assert house.computed() == AFTER_EVALUATE
    assert (copy.folder / "dvc.lock").read_bytes() == (house.folder / "dvc.lock").read_bytes()
    assert house.planned() == {}


def test_11_back_to_old_parameters_trains_nothing(house):
    house.run("git", "checkout", "-q", "v1", "--", "params.yaml")
    house.run("dvc", "repro", "-q")
    assert not EXPENSIVE & set(house.computed())
    assert house.planned() == {}
    assert house.run("git", "diff", "--stat", "v1", "--", "dvc.lock") == ""


def test_12_a_comment_retrains_nothing(house):
    file = house.folder / "src/ssimbad/pairing/stage_sketches.py"
    text = file.read_text()
    file.write_text("# a comment\n" + text)
    assert house.planned()["sketches"] == 1
    house.run("dvc", "repro", "-q")
    assert house.computed() == {"sketches": 1}
    assert house.planned() == {}
    file.write_text(text)
    house.snakemake()
    done = house.computed()
    assert done["sketches"] == 1
    assert not {"faces", *EXPENSIVE} & set(done)
    assert house.dvc_clean()
    assert house.planned() == {}


def test_13_a_deleted_model_is_noticed_and_restored(house):
    (house.folder / "models/ssimbad/finetune/seed-0.safetensors").unlink()
    assert house.planned() == AFTER_FINETUNE
    house.run("dvc", "checkout", "-q")
    assert house.planned() == {}
    (house.folder / "models/ssimbad/finetune/seed-0.safetensors").unlink()
    house.snakemake()
    assert not EXPENSIVE & set(house.computed())
    assert house.planned() == {}


def test_14_a_tampered_output_is_noticed(house):
    path = house.folder / "reports/schedule/phi_star.json"
    path.write_text(path.read_text().replace("rational", "atan", 1))
    assert "select_phi" in house.planned()
    assert not house.dvc_clean()
    house.run("dvc", "checkout", "-q", "--force", "reports/schedule/phi_star.json")
    assert house.planned() == {}


def test_15_shards_are_scattered_and_gathered_to_the_same_bytes(house):
    files = [*(house.folder / "data").glob("faces/*.*"), *(house.folder / "data").glob("sketches/*.*")]
    before = {path: path.read_bytes() for path in files}
    texts = {
        path: path.read_text() for name in ("params.yaml", "dvc.yaml", "dvc.lock") for path in [house.folder / name]
    }
    house.change("data.shards", 2)
    planned = house.planned()
    assert (planned["face_shard"], planned["sketch_shard"]) == (2, 2)
    house.run("ssimbad", "dvc-yaml")
    house.computed()
    house.run("dvc", "repro", "-q", "sketches")
    assert house.computed() == {"face_shard": 2, "faces": 1, "sketch_shard": 2, "sketches": 1}
    assert house.planned() == {}, "what is made from them is as fresh as it was"
    assert {path: path.read_bytes() for path in files} == before
    for path, text in texts.items():
        path.write_text(text)
    house.run("dvc", "checkout", "-q")
    assert house.planned() == {}


def test_16_metrics_params_and_plots_of_dvc(house, tmp_path):
    assert "reports/metrics/ssimbad/finetune/seed-0/same.json" in house.run("dvc", "metrics", "show", "--md")
    assert "finetune.learning_rate" in house.run("dvc", "params", "diff", "v1", "v2", "--md")
    assert "psnr" in house.run("dvc", "metrics", "diff", "v1", "v2", "--md")
    own = {tmp_path / "plots" / name: b"mine" for name in ("mine.html", "static/mine.png", "vega/mine.js")}
    for path, data in own.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    house.run("dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    assert lost(own) == []
    page = (tmp_path / "plots/index.html").read_text()
    assert "://" not in page.split("<body>")[0]
    assert "training" in page


def test_17_the_report_of_snakemake_is_one_page(house, tmp_path):
    house.run("snakemake", "--report", str(tmp_path / "report.html"), "all")
    page = (tmp_path / "report.html").read_text()
    assert "qualitative_same.png" in page
    assert "main.csv" in page


def kill_in_training(house, *command: str) -> None:
    """Start an engine, wait for the first resumable state of finetune, kill -9 engine and jobs."""
    before = set((house.folder / "work").glob("finetune-*/*/state-*"))
    log = house.folder.parent / "killed.log"
    with log.open("w") as told:
        engine = subprocess.Popen(
            command, cwd=house.folder, env=ENVIRONMENT, start_new_session=True, stdout=told, stderr=subprocess.STDOUT
        )

    def reached() -> bool:
        assert engine.poll() is None, log.read_text()
        return bool(set((house.folder / "work").glob("finetune-*/*/state-*")) - before)

    try:
        until(reached, 300, "a state")
    finally:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()


def test_18_plans_of_other_parameters_disturb_no_run(house, tmp_path):
    """A run that waits in the middle of a job; then its later jobs need the markers that it found."""
    house.change("methods.ssimbad.finetune.images", 24)
    mine = (house.folder / "params.yaml").read_text()
    log = tmp_path / "log"
    target = ".state/colorize-ssimbad-finetune-seed-0-same.ok"
    with lock.held(house.folder / "work/finetune-ssimbad-seed-0", "finetune"), log.open("w") as file:
        command = ["snakemake", "--cores", "2", target]
        run = subprocess.Popen(command, cwd=house.folder, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)
        until(lambda: "waiting until it has ended" in log.read_text(), 300, "the second waits")
        markers = sorted((house.folder / ".state").glob("*.ok"))
        house.change("sketches.epsilon", 0.5)
        for plan in (["-n", "all"], ["--summary", "all"], ["--dag", "dot", "all"], ["--lint"]):
            said = house.run("snakemake", *plan, check=False)
            assert f"another Snakemake (process {run.pid}) executes jobs here" in said, plan
            assert sorted((house.folder / ".state").glob("*.ok")) == markers, plan
        assert "nothing removed" in house.run("ssimbad", "clean", "results", check=False)
        (house.folder / "params.yaml").write_text(mine)
    assert run.wait(timeout=300) == 0, log.read_text()


@pytest.mark.parametrize("first", ["snakemake", "dvc"])
def test_19_one_engine_killed_the_other_finishes(house, first):
    house.change("methods.ssimbad.finetune.images", 512 if first == "snakemake" else 520)
    house.computed()
    if first == "snakemake":
        kill_in_training(house, "snakemake", "--cores", "2", "all")
        house.computed()
        house.run("ssimbad", "sync")
        house.run("dvc", "repro", "-q")
    else:
        kill_in_training(house, "dvc", "repro", "-q")
        house.computed()
        house.run("snakemake", "--unlock", "all")
        house.snakemake()
    assert not {"faces", "sketches", "select_phi", "pretrain"} & set(house.computed())
    assert house.planned() == {}
    log = max((house.folder / "work/spool").rglob("finetune-*.jsonl"), key=lambda p: p.stat().st_mtime).read_text()
    assert '"resumed"' in log


def test_20_a_sweep_by_dvc(house):
    house.run("git", "stash", "-q")
    house.checkout("v1")
    house.computed()
    house.run("dvc", "exp", "run", "-q", "-S", "methods.ssimbad.finetune.learning_rate=3.0e-4", "-n", "slow")
    assert house.computed() == AFTER_FINETUNE
    shown = house.run("dvc", "exp", "show", "--only-changed", "--csv")
    assert "slow" in shown and "0.0003" in shown
    assert house.planned() == {}


def test_21_no_engine_has_touched_a_foreign_file(house):
    """After runs, restorations, kills, checkouts and a sweep, in the folders in which all that worked."""
    assert lost(house.foreign) == []
    assert len(house.foreign) > 200
