"""Two pipelines to walk through: the toys, and the miniature of the real one."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from ..conftest import ROOT, draw_faces, make_house, miniature, write_params
from . import toys
from .house import House, Server
from .steps import COMMANDS, FACES, LIST, OUTSIDE, Kit

TOYS = Kit(
    values={
        "data.seed": (0, 1),
        "sketches.seed": (0, 1),
        "methods.ssimbad.pretrain.learning_rate": (1.0e-3, 2.0e-3),
        "colorize.seed": (0, 1),
        "evaluation.seed": (0, 1),
        "data.path": (OUTSIDE, FACES),
        "data.test_list": (None, LIST),
        "seeds": ([0], [0, 1]),
    },
    own={
        "faces": "data.seed",
        "sketches": "sketches.seed",
        "pretrain": "methods.ssimbad.pretrain.learning_rate",
        "colorize": "colorize.seed",
        "tables": "evaluation.seed",
    },
    raw=(f"{OUTSIDE}/0.png", f"{OUTSIDE}/linked/0.png", f"{FACES}/0.png", LIST, toys.HINTS),
    reads={
        "faces": (f"{OUTSIDE}/0.png", f"{OUTSIDE}/linked/0.png"),
        "sketches": ("data/faces/train.npy",),
        "pretrain": (toys.HINTS, "data/faces/train.npy", "data/sketches/train.npy"),
        "colorize": ("models/ssimbad/seed-0.safetensors", "data/sketches/train.npy"),
        "tables": ("outputs/ssimbad/seed-0.zip", "models/ssimbad/seed-0.json"),
    },
    writes={
        "faces": ("data/faces/train.npy", "data/faces/manifest.csv"),
        "sketches": ("data/sketches/train.npy",),
        "pretrain": ("models/ssimbad/seed-0.safetensors", "models/ssimbad/seed-0.json"),
        "colorize": ("outputs/ssimbad/seed-0.zip",),
        "tables": ("reports/tables/main.md",),
    },
    made=("data/faces/train.npy", "models/ssimbad/seed-0.json", "reports/tables/main.md", "records/sketches.json"),
    code=("shared", *toys.CHEAP, *toys.EXPENSIVE),
    inside=("read", "state", "half"),
)

_PRETRAINED, _FINETUNED = (f"models/ssimbad/{s}/seed-0.safetensors" for s in ("pretrain", "finetune"))
_COLOURED = "outputs/ssimbad/finetune/seed-0/same.zip"
MINIATURE = Kit(
    values={
        "sketches.epsilon": (0.01, 0.5),
        "references.seed": (0, 1),
        "schedule.points": (10, 11),
        "methods.ssimbad.pretrain.learning_rate": (1.0e-3, 2.0e-3),
        "methods.ssimbad.finetune.learning_rate": (1.0e-3, 2.0e-3),
        "colorize.seed": (0, 1),
        "evaluation.seed": (0, 1),
        "report.grid_images": (2, 3),
    },
    own={
        "sketches": "sketches.epsilon",
        "references": "references.seed",
        "ssim_curves": "schedule.points",
        "pretrain": "methods.ssimbad.pretrain.learning_rate",
        "finetune": "methods.ssimbad.finetune.learning_rate",
        "colorize": "colorize.seed",
        "evaluate": "evaluation.seed",
        "figures": "report.grid_images",
    },
    raw=(f"{OUTSIDE}/00.png", f"{OUTSIDE}/linked/00.png"),
    reads={
        "sketches": ("data/faces/train.npy", f"{OUTSIDE}/00.png"),
        "pretrain": ("data/faces/train.npy", "data/sketches/train.npy"),
        "finetune": (_PRETRAINED,),
        "colorize": (_FINETUNED, "data/references/same.npy"),
        "evaluate": (_COLOURED,),
    },
    writes={
        "sketches": ("data/sketches/train.npy",),
        "pretrain": (_PRETRAINED,),
        "colorize": (_COLOURED,),
    },
    made=("data/faces/train.npy", _PRETRAINED, _COLOURED, "records/sketches.json"),
    code=(),
    inside=(),
)


def toy_house(folder: Path, served: Server) -> Path:
    """A folder with a checkout of the toys, its user's raw files, and a finished run."""
    house = folder / "house"
    shutil.copytree(ROOT / "profiles", house / "profiles")
    for name in ("workflow/rules/common.smk", ".gitignore", ".dvcignore"):
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, house / name)
    shutil.copy(Path(toys.__file__).with_name("Snakefile"), house)
    (house / "workflow/versions.yaml").write_text(yaml.safe_dump(dict.fromkeys(toys.EXPENSIVE, 1)))
    (house / "src/ssimbad/toy").mkdir(parents=True)
    for stage in TOYS.code:
        (house / f"src/ssimbad/toy/{stage}.py").write_text(toys.source(stage, 0))
    for raw in (house / FACES, folder / "faces", folder / "elsewhere"):
        raw.mkdir(parents=True)
        for name in ("0.png", "1.png"):
            (raw / name).write_text(f"{name} 0\n")
    (house / toys.HINTS).write_text("hints 0\n")
    (house / LIST).write_text("list 0\n")
    tree = miniature()
    tree["methods"]["ssimbad"]["pretrain"]["learning_rate"] = 1.0e-3
    _presets(house, tree, {"seeds": [0, 1], "sketches": {**tree["sketches"], "seed": 1}})
    return _finished(folder, served)


def miniature_house(folder: Path, served: Server) -> Path:
    """The same for the real stages, at their smallest."""
    folder.mkdir()
    house = make_house(folder / "house")
    for raw, count in ((house / FACES, 24), (folder / "faces", 24), (folder / "elsewhere", 2)):
        draw_faces(raw, count)
    shutil.rmtree(house / "presets")
    tree = miniature()
    for stage in ("pretrain", "finetune"):
        tree["methods"]["ssimbad"][stage]["learning_rate"] = 1.0e-3
    _presets(house, tree, {"references": {**tree["references"], "seed": 1}})
    return _finished(folder, served)


def _presets(house: Path, tree: dict, other: dict) -> None:
    tree["data"] |= {"source": "folder", "path": OUTSIDE}
    del tree["methods"]["ssimbad-control"]
    (house / "presets").mkdir()
    for name, changed in (("large", other), ("small", {})):
        write_params(house, tree | changed | {"preset": name})
        shutil.copy(house / "params.yaml", house / f"presets/{name}.yaml")


def _finished(folder: Path, served: Server) -> Path:
    (folder / "faces/linked").symlink_to("../elsewhere")
    house = House(folder / "house", served)
    house.git("init", "-q", "-b", "main")
    house.must("dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", house.folder / ".dvc/config")
    shutil.copy(ROOT / ".dvc/plots_page.html", house.folder / ".dvc/plots_page.html")
    house.must("dvc", "config", "core.autostage", "false")
    house.must("dvc", "remote", "add", "-q", "-d", "store", "../../store")
    house.must("ssimbad", "dvc-yaml")
    house.must("dvc", "add", "-q", FACES)
    house.must(*COMMANDS["snakemake"])
    house.must("dvc", "push", "-q")
    house.git("add", "-A")
    house.git("commit", "-qm", "v0")
    house.git("tag", "v0")
    return folder
