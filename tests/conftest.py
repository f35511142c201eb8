"""Shared by all tests: a miniature of the demo and a place to run it."""

from __future__ import annotations

import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from ssimbad.params import overlay
from ssimbad.params import tree as parameters
from ssimbad.pipeline import runner
from ssimbad.pipeline.table import instances

from .colouring import pictures, weights  # noqa: F401 - fixtures for all
from .logbook import database, logbook  # noqa: F401
from .toy import toy  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# Under `make test` every make that a test starts would take itself for a part of that one, and say where it works.
for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)


def unwatched() -> dict[str, str]:
    """The environment of a process in which no measuring of coverage writes files of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Of a story (`pytest.mark.story`) no chapter is left out before one that was asked for."""
    stories: dict[object, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("story"):
            stories.setdefault(item.parent, []).append(item)
    yield
    for chapters in stories.values():
        asked = [item for item in chapters if item in items]
        if asked:
            before = chapters[: chapters.index(asked[-1]) + 1]
            place = items.index(asked[0])
            items[:] = [item for item in items if item not in before]
            items[place:place] = before


# The smallest pipeline that still has every stage: 16-pixel faces, a network of a few thousand parameters.
_MINI_TRAIN = {"images": 16, "batch": 8, "warmup_images": 8}
_MINI_STEPS = {"steps": 2}


def _few_steps(colour: dict) -> dict:
    if "sampler" not in colour:
        return colour
    return colour | {"sampler": colour["sampler"] | {"steps": min(2, colour["sampler"]["steps"])}}


def preset_tree(name: str) -> dict:
    """A preset whole, as a plain tree."""
    return yaml.safe_load(overlay.whole(ROOT / f"presets/{name}.yaml"))


def miniature(preset: str = "demo-seeds") -> dict:
    """Parameters of a demo preset's miniature, as a plain tree; one seed."""
    tree = preset_tree(preset)
    tree["preset"], tree["seeds"] = "miniature", [0]
    tree["data"] |= {"native_size": 32, "size": 16, "train": 16, "val": 4, "test": 4}
    tree["embedded"]["size"] = 32
    tree["schedule"] |= {"images": 4, "size": 16, "sigmas": 16, "points": 10, "bootstrap": 100}
    tree["network"] |= {
        "base": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "heads": 2,
        "embedding": 8,
        "groups": 4,
        "attention": [1] if tree["network"]["attention"] else [],
    }
    tree["training"] |= {"threads": 1, "log_images": 8, "state_images": 8}
    for method in tree["methods"].values():
        for slot in ("encoder", "pretrain", "finetune"):
            if train := method.get(slot):
                method[slot] = small = train | _MINI_TRAIN
                if sampler := train.get("options", {}).get("sampler"):
                    small["options"] = train["options"] | {"sampler": sampler | _MINI_STEPS}
                if validation := train.get("validation"):
                    shown = {"colour": _few_steps(validation["colour"])} if "colour" in validation else {}
                    small["validation"] = {"every": 8, **shown}
        method["colour"] = {stage: _few_steps(row) for stage, row in method["colour"].items()}
    tree["colorize"]["chunk"] = 4
    tree["evaluation"]["bootstrap"] = 100
    tree["report"]["grid_images"] = 2
    if tree["report"].get("spread"):
        tree["report"]["spread"] = {"samples": 2, "images": 4}
    for method in tree["methods"].values():
        if method["kind"] == "scft":
            method["config"] |= {"base": 4, "levels": 3, "width": 8, "residuals": 1}
            method["pretrain"]["options"] |= {"discriminator": [4, 8]}
        if method["kind"] == "coloring_assistant" and "weights" not in method:
            method["config"] |= {"base": 4, "time": 8}
        if method["kind"].startswith("latent_cold") and "weights" not in method:
            codec = {"widths": [8, 8], "residuals": 1, "codes": 16, "code_size": 4}
            method["config"] |= {"layers": 2, "width": 8} | ({"codec": codec} if "codec" in method["config"] else {})
        if method["kind"] == "ddpm_faces" and "weights" not in method:
            method["config"] = {"base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "groups": 4}
    if tree["report"].get("reverse"):
        tree["report"]["reverse"] |= {"steps": 4, "samples": 5, "columns": 3, "trajectories": 2, "snapshots": 3}
        tree["report"]["reverse"] |= {"images": 2, "start": [0.1, 1.0]}
    return tree


def make_house(folder: Path, tree: dict | None = None) -> Path:
    """A working copy of the pipeline in `folder`, with the miniature's parameters."""
    folder.mkdir(exist_ok=True)
    for name in ("Snakefile", "environment.yml", ".dvcignore", ".gitignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    for name in ("workflow", "profiles", "presets"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    # Source files are dependencies of the cheap stages, and only the package that runs will do.
    (folder / "src").symlink_to(ROOT / "src")
    write_params(folder, tree or miniature())
    return folder


def bring(p: parameters.Params, only: Collection[str] = (), without: Collection[str] = ()) -> None:
    """Everything that the parameters ask for, brought up to date by the runner in this process: of all stages, or only
    of some, or of all but some."""
    for instance in instances(p):
        if instance.stage.name not in without and (not only or instance.stage.name in only):
            runner.run(p, instance)


@contextmanager
def lived_in(folder: Path, tree: dict, **stages: Collection[str]) -> Iterator[Path]:
    """A house with these parameters, in which this process works, and what `bring` brings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(make_house(folder, tree))
        patch.setenv("SSIMBAD_DEVICE", "cpu")
        bring(parameters.load(), **stages)
        yield folder


def own_source(folder: Path) -> Path:
    """Give a house a package of its own in place of the link; it runs with `PYTHONPATH=src`."""
    (folder / "src").unlink()
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def make_folder_house(folder: Path) -> Path:
    """The smallest one: a working copy with a folder of 26 drawn faces as its source, and one method."""
    tree = miniature()
    tree["data"] |= {"source": "folder", "path": "data/raw/faces"}
    tree["methods"] = {"ssimbad": tree["methods"]["ssimbad"]}
    made = make_house(folder, tree)
    draw_faces(made / "data/raw/faces", 26)
    return made


def write_params(folder: Path, tree: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def draw_faces(folder: Path, count: int) -> None:
    """Small pictures that are all different."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        colours = [tuple(int(v) for v in generator.integers(0, 256, 3)) for _ in range(3)]
        image = Image.new("RGB", (32, 32), colours[0])
        pen = ImageDraw.Draw(image)
        pen.ellipse((6, 4 + i % 5, 26, 28), fill=colours[1], outline="black")
        pen.rectangle((10, 12, 13 + i % 4, 16), fill=colours[2], outline="black")
        image.save(folder / f"{i:02d}.png")


# Names much like those of the stages.
_FOREIGN = ("my notes.txt", ".hidden", "mine.json", "mine.safetensors", "seed-0.safetensors.bak", ".mine.tmp")


def plant(folder: Path) -> dict[Path, bytes]:
    """Files of somebody's own in every folder that stages write to, and what is in them."""
    found = instances(parameters.load(folder / "params.yaml"))
    places = {Path(file).parent for i in found for file in [*i.outputs.values(), i.record, i.marker]}
    places |= {Path("work") / i.name for i in found} | {Path("logs") / i.stage.name for i in found}
    places |= {Path("work/cost"), Path("work/spool/imported"), Path("logs/slurm/rule_faces")}
    places |= {parent for place in places for parent in place.parents} - {Path()}
    own = {folder / place / name: f"{name} in {place}".encode() for place in places for name in _FOREIGN}
    for path, data in own.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return own


def lost(own: dict[Path, bytes]) -> list[str]:
    """Those of the planted files that are gone or changed."""
    return [str(path) for path, data in own.items() if not path.is_file() or path.read_bytes() != data]


@pytest.fixture
def tree() -> dict:
    return miniature()


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """An empty miniature house, the current directory."""
    monkeypatch.chdir(make_house(tmp_path))
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu")
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def _quiet_engines():
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Of networks as small as these, a second thread only waits for the first, for very long on a busy machine."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def study(tmp_path):
    """Three sets of two rows, each picture of one colour: its row is known by it."""
    sets = []
    for i in range(3):
        for name, level in (("sketch", 255), ("reference", 9), ("ours", 100 + i), ("theirs", 200 + i)):
            Image.new("L", (8, 8), level).save(tmp_path / f"{name}-{i}.png")
        answers = {row: f"{row}-{i}.png" for row in ("ours", "theirs")}
        sets.append(
            {"name": f"s{i}", "sketch": f"sketch-{i}.png", "reference": f"reference-{i}.png", "answers": answers}
        )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"per_rater": 2, "sets": sets}))
    return tmp_path / "study.yaml"


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    """The files and folders that the disk was asked to hold, in order."""
    asked, fsync = [], os.fsync

    def note(descriptor: int) -> None:
        asked.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    return asked


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Hands out what tells the most bytes that Python had at once in the block."""
    most = []
    tracemalloc.start()
    try:
        yield lambda: most[0]
    finally:
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
