"""Faces and their sketches at scale: minutes and memory of the stages, by one job or by shards.

    python benchmarks/data_scale.py [--faces 300] [--shards 1] [--cores 2] [--folder DIR]

Makes so many faces of 256², half JPEG, half PNG, in a temporary checkout (in DIR; a face takes 0.4 MB there, and 0.6 MB
with shards), and runs `ssimbad stage` for faces and sketches on them, each in a process of its own: a stage has all
cores; of shards, as many run side by side as there are cores, one core each. The digests that are printed do not
depend on the number of shards.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
SIDE = 256


def picture(number: int) -> tuple[str, bytes]:
    """(name, bytes) of a made face: colours that flow, a head with two eyes, and grain; no two are alike."""
    random = np.random.default_rng(number)
    rough = Image.fromarray(random.integers(40, 216, (8, 8, 3), dtype=np.uint8))
    image = rough.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    left, top, grow = (int(random.integers(0, 24)) for _ in range(3))
    skin, iris = (tuple(random.integers(low, 256, 3).tolist()) for low in (160, 0))
    pen.ellipse((40 + left, 40 + top, 180 + left + grow, 200 + top), fill=skin, outline="black", width=3)
    for across in (70, 125):
        pen.ellipse((across + left, 100 + top, across + 30 + left, 130 + top), fill=iris, outline="black", width=2)
    grain = random.integers(-3, 4, (SIDE, SIDE, 1), dtype=np.int16)
    image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    if number % 2:
        image.save(buffer, format="PNG", compress_level=1)
    else:
        image.save(buffer, format="JPEG", quality=92)
    return f"{number:06d}.{'png' if number % 2 else 'jpg'}", buffer.getvalue()


def checkout(folder: Path, faces: int, shards: int) -> Path:
    """A working copy of the pipeline with so many faces as its source."""
    house = folder / "checkout"
    raw = house / "data/raw/faces"
    raw.mkdir(parents=True)
    for number in range(faces):
        name, content = picture(number)
        (raw / name).write_bytes(content)
    shutil.copytree(ROOT / "workflow", house / "workflow")
    (house / "src").symlink_to(ROOT / "src")
    tree = yaml.safe_load((ROOT / "presets/demo.yaml").read_text())
    given = {"source": "folder", "path": "data/raw/faces", "native_size": SIDE, "train": None, "shards": shards}
    tree["data"] |= given
    (house / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return house


def stage(house: Path, command: list[str], threads: int) -> tuple[float, float]:
    """Run one stage; MB of memory of its own at most, and MB with the files that it has mapped."""
    package = {"PYTHONPATH": str(ROOT / "src"), "SSIMBAD_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, "-c", "from ssimbad.cli import main; main()", "stage", *command]
    process = subprocess.Popen(words, cwd=house, env=os.environ | package, stdout=subprocess.DEVNULL)
    own = mapped = 0.0
    while process.poll() is None:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        own = max(own, int(lines.get("RssAnon", "0").split()[0]) / 1e3)
        mapped = max(mapped, int(lines.get("VmHWM", "0").split()[0]) / 1e3)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"stage {' '.join(command)}: exit code {process.returncode}")
    return own, mapped


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--faces", type=int, default=300)
    arguments.add_argument("--shards", type=int, default=1)
    arguments.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--folder", type=Path, default=None)
    asked = arguments.parse_args()
    shards = range(asked.shards if asked.shards > 1 else 0)
    steps = [(name, [[name, f"shard={i}"] for i in shards]) if "shard" in name else (name, [[name]])
             for name in ("face_shard", "faces", "sketch_shard", "sketches")]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        start = time.perf_counter()
        house = checkout(Path(folder), asked.faces, asked.shards)
        print(f"{asked.faces} faces of {SIDE}² made in {time.perf_counter() - start:.0f} s", flush=True)
        rows = []
        for name, commands in [step for step in steps if step[1]]:
            beside = asked.cores if len(commands) > 1 else 1
            start = time.perf_counter()
            with ThreadPoolExecutor(beside) as pool:
                threads = asked.cores // beside
                memory = list(pool.map(lambda command, t=threads: stage(house, command, t), commands))
            minutes = (time.perf_counter() - start) / 60
            own, mapped = (max(peaks) for peaks in zip(*memory, strict=True))
            rows.append((name, len(commands), f"{minutes:.2f}", f"{own:,.0f}", f"{mapped:,.0f}"))
        rows.append(("all", "", f"{sum(float(row[2]) for row in rows):.2f}", "", ""))
        headers = ["stage", "jobs", "minutes", "MB of a job at most", "with mapped files"]
        print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
        made = sorted([*house.glob("data/faces/*.*"), *house.glob("data/sketches/*.npy")])
        print("\n".join(f"{hash_of(path)}  {path.relative_to(house)}" for path in made))


def hash_of(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


if __name__ == "__main__":
    main()
