"""Five stages that cost nothing, in the place of the real ones: everything else of the pipeline is the real thing.

Their sources lie in the checkout (`src/ssimbad/toy`), so that an edit there is an edit of the code that runs.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import ssimbad
from ssimbad import artifacts, files
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, runner, table
from ssimbad.pipeline.paths import Wildcards
from ssimbad.pipeline.table import Stage
from ssimbad.runtime.job import Job
from tests.walk.points import point

IMAGES = 3  # states of the toy training
HINTS = "data/raw/hints.txt"
CHEAP = ("faces", "sketches", "tables")
EXPENSIVE = ("pretrain", "colorize")


def _rows(p: Params) -> list[Wildcards]:
    return [{"method": m, "seed": seed} for m in p.methods for seed in p.seeds]


def _model(w: Wildcards, ending: str) -> str:
    return f"models/{w['method']}/seed-{w['seed']}.{ending}"


def _images(w: Wildcards) -> str:
    return f"outputs/{w['method']}/seed-{w['seed']}.zip"


STAGES = (
    Stage(
        name="faces",
        run="ssimbad.toy.faces:run",
        inputs=lambda p, w: {"raw": p.data.path, **({"list": p.data.test_list} if p.data.test_list else {})},
        outputs=lambda p, w: {"train": "data/faces/train.npy", "manifest": "data/faces/manifest.csv"},
        params=lambda p, w: ("data.path", "data.test_list", "data.seed"),
    ),
    Stage(
        name="sketches",
        run="ssimbad.toy.sketches:run",
        inputs=lambda p, w: {"train": "data/faces/train.npy", "manifest": "data/faces/manifest.csv"},
        outputs=lambda p, w: {"sketches": "data/sketches/train.npy"},
        params=lambda p, w: ("sketches.seed",),
    ),
    Stage(
        name="pretrain",
        run="ssimbad.toy.pretrain:run",
        each=_rows,
        inputs=lambda p, w: {"train": "data/faces/train.npy", "sketches": "data/sketches/train.npy", "hints": HINTS},
        outputs=lambda p, w: {"weights": _model(w, "safetensors"), "made": _model(w, "json")},
        params=lambda p, w: (f"methods.{w['method']}.pretrain.learning_rate",),
        expensive=True,
    ),
    Stage(
        name="colorize",
        run="ssimbad.toy.colorize:run",
        each=_rows,
        inputs=lambda p, w: {"weights": _model(w, "safetensors"), "sketches": "data/sketches/train.npy"},
        outputs=lambda p, w: {"images": _images(w)},
        params=lambda p, w: ("colorize.seed",),
        expensive=True,
    ),
    Stage(
        name="tables",
        run="ssimbad.toy.tables:run",
        inputs=lambda p, w: {"images": [_images(w) for w in _rows(p)], "made": [_model(w, "json") for w in _rows(p)]},
        outputs=lambda p, w: {"main": "reports/tables/main.csv", "main_md": "reports/tables/main.md"},
        params=lambda p, w: ("seeds", "evaluation.seed"),
    ),
)

_OWN = {
    "faces": "params.data.seed",
    "sketches": "params.sketches.seed",
    "pretrain": "params.methods[job.method].pretrain.learning_rate",
    "colorize": "params.colorize.seed",
    "tables": "params.evaluation.seed",
}


def source(stage: str, salt: int) -> str:
    """A stage's code; `salt` stands for all that an edit of it can change in the result."""
    if stage == "shared":
        return f"SALT = {salt}\n"
    shared = "from ssimbad.toy import shared\n" if stage in CHEAP else ""
    values = f"(SALT, {'shared.SALT, ' if shared else ''}{_OWN[stage]})"
    work = "train" if stage == "pretrain" else "make"
    return (
        f"{shared}from tests.walk import toys\n\nSALT = {salt}\n\n\n"
        f"def run(params, inputs, outputs, job):\n    toys.{work}(job, {values}, inputs, outputs)\n"
    )


def salt(text: str) -> int:
    return int(re.search(r"^SALT = (\d)$", text, re.MULTILINE)[1])


def content(path: Path | list[Path]) -> object:
    """What a stage reads there: of a folder all names and files, also behind links."""
    if isinstance(path, list):
        return [content(p) for p in path]
    if not path.is_dir():
        return path.read_text()
    found = [Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names]
    return sorted((f.relative_to(path).as_posix(), f.read_text()) for f in found)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make(job: Job, values: tuple, inputs: dict, outputs: dict) -> None:
    """Outputs that depend on all that the stage reads; those of the sketches are often equal all the same."""
    read = {}
    for name in sorted(inputs):
        read[name] = content(inputs[name])
        point(job.stage, "read")
    made = _digest(values, read)
    if job.stage == "sketches":
        made = str(int(made, 16) % 2)
    _write(job, made, outputs)


def train(job: Job, values: tuple, inputs: dict, outputs: dict) -> None:
    """Image after image is read, and a state kept after each, from which a killed training goes on."""
    states = sorted(job.scratch.glob("state-*"))
    made = states[-1].read_text() if states else ""
    for image in range(len(states), IMAGES):
        read = {name: content(inputs[name]) for name in sorted(inputs)}
        point(job.stage, "read")
        made = _digest(made, values, read)
        job.confirm()
        artifacts.write_text(job.scratch / f"state-{image}", made)
        point(job.stage, "state")
    _write(job, made, outputs)


def _write(job: Job, made: str, outputs: dict) -> None:
    for name, path in outputs.items():
        artifacts.write_text(path, f"{job.name} {name} {made}\n")
        point(job.stage, "half")


def install() -> None:
    """Put the toys in the place of the real stages."""
    table.STAGES = runner.STAGES = STAGES


def prepare() -> None:
    """The package is this checkout's as far as the toys' sources go."""
    here = Path.cwd() / "src/ssimbad"
    code.PACKAGE, code.AT_START = here, files.Seen(map(str, here.rglob("*.py")))
    ssimbad.__path__.append(str(here))
