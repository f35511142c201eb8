"""What one image of 256² costs the stages that use no GPU, on one core.

    python benchmarks/stages.py [--seconds 30]

The steps are timed in turn, again and again, on faces that the repository renders; best and median of each count.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported

import argparse
import hashlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tabulate import tabulate

from ssimbad.faces import embedded, manifest
from ssimbad.faces.reading import normalise
from ssimbad.metrics.ms_ssim import ms_ssim
from ssimbad.pairing import resize, tps, xdog
from ssimbad.params.blocks import References, Sketches

SIDE, COUNT, ROWS = 256, 4, 20_000
DEMO = yaml.safe_load((Path(__file__).parents[1] / "presets/demo.yaml").read_text())


def steps(folder: Path) -> dict[str, tuple[str, float, Callable[[], object]]]:
    """name → (unit, units in a call, call)."""
    style = DEMO["embedded"]["style"]
    ids = embedded.face_ids(COUNT)
    drawings = embedded.draw_faces(ids, style, 0)
    pngs = [embedded.render(style, shape, palette, SIDE) for shape, palette in drawings.values()]
    faces = np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])
    sketches, references = Sketches(**DEMO["sketches"]), References(**DEMO["references"])
    sigmas = xdog.draw_sigma(ids, 0, sketches)
    warps = tps.draw(0, ids, references)
    exact = resize.to_unit(faces).double()
    noisy = np.clip(faces + np.random.default_rng(0).normal(0, 20, faces.shape), 0, 255).astype(np.uint8)
    listing = folder / "manifest.csv"
    listing.write_text(_manifest())
    block = np.random.default_rng(0).bytes(100_000_000)
    return {
        "raw: render": ("ms per image", COUNT, lambda: [embedded.render(style, *d, SIDE) for d in drawings.values()]),
        "faces: read a PNG": ("ms per image", COUNT, lambda: [normalise(png, SIDE, 10**8) for png in pngs]),
        "sketches: XDoG": ("ms per image", COUNT, lambda: xdog.sketch(faces, sigmas, sketches)),
        "references: warp in float64": ("ms per image", COUNT, lambda: tps.warp(exact, warps)),
        "evaluate: MS-SSIM": ("ms per image", COUNT, lambda: ms_ssim(noisy, faces)),
        "md5 of the arrays": ("ms per MB", len(block) / 1e6, lambda: hashlib.md5(block).digest()),
        "read the manifest": ("ms per 1000 rows", ROWS / 1000, lambda: manifest.rows(listing, "test")),
    }


def _manifest() -> str:
    """One test face among many others, in the columns of the real one."""
    other = ",".join(["0" * 64, str(SIDE), str(SIDE), ""])
    lines = [f"face-{i},{'test' if i == 0 else 'train'},folder/face-{i}.png,{other}" for i in range(ROWS)]
    return "\n".join(["id,split,source,sha256,width,height,sketch", *lines]) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=30.0)
    seconds = arguments.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        found = steps(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in found}
        for _, _, call in found.values():
            call()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for name, (_, count, call) in found.items():
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) / count * 1e3)
    rows = [(name, found[name][0], min(t), statistics.median(t)) for name, t in times.items()]
    print(f"Stages without a network, {SIDE}², one core, {seconds:g} s")
    print(tabulate(rows, ["step", "unit", "best", "median"], floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
