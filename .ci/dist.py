"""A release: `python .ci/dist.py` builds dist/*.whl and dist/*.tar.gz of what is committed, and tries the wheel first.

It is installed into an environment of its own, far from this checkout, with the locked versions of what it asks for.
There `ssimbad init` lays out a study. This checkout's engines and the wheel's code train weights in it for a moment,
which the environment exports, and with which it colours a sketch: by the command, by `Painter`, and in the page.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
HERE = str(Path(sys.executable).parent)
TINY = """
extends: demo
preset: tiny
data: {native_size: 32, size: 16, train: 16, val: 4, test: 4}
embedded: {size: 32}
schedule: {images: 4, size: 16}
network: {base: 8, multipliers: [1, 2], blocks: 1, heads: 2, embedding: 8, groups: 4}
training: {threads: 1, log_images: 8, state_images: 8}
methods:
  regression:
    kind: regression
    label: Regression
    pretrain: {objective: direct, images: 64, batch: 8, learning_rate: 2.0e-3, warmup_images: 8}
    colour: {pretrain: {}}
"""
API = """
from pathlib import Path
from ssimbad.colorize.painter import Painter
sketch, reference = (Path(name).read_bytes() for name in ("s.png", "r.png"))
answer = Painter.from_pretrained("exported").colour(sketch, reference, fit="sketch")
assert answer.image.shape == (80, 60, 3), answer.image.shape
"""


def main() -> None:
    """Any step that fails ends it, and then nothing is in dist/ that was not there before."""
    with tempfile.TemporaryDirectory(prefix="ssimbad-dist-") as name:
        place = Path(name)
        built = build(place)
        outside = fresh(place / "venv", built["whl"], "")
        study = trained(place / "study", outside)
        ran(study, outside, "ssimbad", "export", "regression/pretrain", "--out", "exported", "--onnx")
        pictures(study)
        named = ("--sketch", "s.png", "--reference", "r.png", "--out", "coloured.png", "--fit", "sketch")
        ran(study, outside, "ssimbad", "colorize", *named, "--weights", "exported")
        ran(study, outside, "python", "-c", API)
        refused(study, outside, "pip install 'ssimbad[page]'", "ssimbad", "page")
        refused(study, outside, "pip install 'ssimbad[pipeline]'", "ssimbad", "stage", "raw")
        refused(place, outside, "`ssimbad init FOLDER`", "ssimbad", "status")
        page(study, fresh(place / "venv", built["whl"], "[page]"))
        DIST.mkdir(exist_ok=True)
        for path in [*built.values(), study / "coloured.png"]:
            print(f"-> {shutil.copy(path, DIST)}")


def build(place: Path) -> dict[str, Path]:
    """{ending: file} of the source archive and the wheel, which is built from that archive."""
    source = place / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
    ran(source, os.environ, sys.executable, "-m", "build", "--no-isolation", "-o", str(place / "built"))
    built = {path.suffix.lstrip("."): path for path in (place / "built").iterdir()}
    ran(place, os.environ, sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values()))
    return built


def fresh(venv: Path, wheel: Path, extra: str) -> dict[str, str]:
    """The variables of an environment that has the wheel with an extra, and nothing of this checkout."""
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    variables = kept | {"PATH": f"{venv / 'bin'}:/usr/bin:/bin"}
    versions = str(ROOT / "requirements.lock")
    ran(venv.parent, variables, "pip", "install", "-q", "--no-compile", "-c", versions, f"{wheel}{extra}")
    return variables


def trained(study: Path, outside: Mapping[str, str]) -> Path:
    """A study that the wheel lays out, with weights that its own code has trained."""
    ran(study.parent, outside, "ssimbad", "init", study.name)
    (study / "presets/tiny.yaml").write_text(TINY)
    engines = {**os.environ, "PYTHONPATH": str(study / "src"), "PATH": f"{HERE}:{os.environ['PATH']}"}
    ran(study, engines, "ssimbad", "preset", "tiny")
    ran(study, engines, "snakemake", "--quiet", "all", "--cores", "2", "all_models")
    ran(study, engines, "snakemake", "--quiet", "all", "--cores", "2", "-n", "all")
    return study


def pictures(folder: Path) -> None:
    sketch, reference = Image.new("L", (60, 80), "white"), Image.new("RGB", (50, 50), (250, 210, 180))
    ImageDraw.Draw(sketch).ellipse((10, 10, 50, 70), outline="black", width=2)
    ImageDraw.Draw(reference).rectangle((0, 0, 50, 20), fill=(70, 40, 160))
    sketch.save(folder / "s.png")
    reference.save(folder / "r.png")


def page(study: Path, outside: Mapping[str, str]) -> None:
    """It answers with itself, the weights at hand and a face to begin with."""
    words = ["ssimbad", "page", "--port", "0"]
    with subprocess.Popen(words, cwd=study, env=outside, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[1]
            ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
            assert b"<html" in ask(address).read()
            print(f"page at {address}: {json.load(ask(f'{address}api/state'))['weights']}", flush=True)
            assert ask(f"{address}api/example/0/sketch").read().startswith(b"\x89PNG")
        finally:
            server.send_signal(signal.SIGINT)


def ran(folder: Path, variables: Mapping[str, str], *words: str) -> None:
    print("$", " ".join(words).strip().partition("\n")[0], flush=True)
    subprocess.run(words, cwd=folder, env=variables, check=True)


def refused(folder: Path, variables: Mapping[str, str], remedy: str, *words: str) -> None:
    """It ends in one line that names the remedy."""
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode and said.count("\n") == 1 and remedy in said, said
    print(f"$ {' '.join(words)}\n{said}", end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"dist: {error}")
