"""Images per second of one core for reading, drawing and writing faces of 256², beside the straightforward way.

    python benchmarks/data.py [--images 200] [--rounds 5]

Straightforward: Pillow opens, converts and resizes a file and nothing is checked; the same XDoG with
scipy.ndimage.gaussian_filter; all images are stacked in memory and saved at once. Both ways take turns, round by round,
and the median round of each counts, in processor time: what a core does in a second that it has for itself.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # BLAS reads it when NumPy is imported

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from data_scale import SIDE, picture
from PIL import Image
from scipy.ndimage import gaussian_filter
from tabulate import tabulate

from ssimbad import artifacts
from ssimbad.faces import examining
from ssimbad.pairing import xdog
from ssimbad.params.blocks import Data, Sketches
from ssimbad.runtime.job import Job

DEMO = yaml.safe_load((Path(__file__).parents[1] / "presets/demo.yaml").read_text())


def read(data: bytes) -> np.ndarray:
    """A file's bytes → (S, S, 3) uint8, whatever they are."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw(image: np.ndarray, sigma: float, s: Sketches) -> np.ndarray:
    """XDoG with two Gaussian filters of SciPy, in float64."""
    grey = np.rint(image @ [0.299, 0.587, 0.114]) / 255
    narrow, wide = (gaussian_filter(grey, width, mode="mirror") for width in (sigma, s.k * sigma))
    u = grey * ((1 + s.p) * narrow - s.p * wide)
    return np.rint(255 * np.where(u >= s.epsilon, 1.0, 1 + np.tanh(s.phi * (u - s.epsilon)))).astype(np.uint8)


def ways(folder: Path, count: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is done to all images: name → (here, the straightforward way)."""
    (folder / "raw").mkdir()
    for number in range(count):
        name, content = picture(number)
        (folder / "raw" / name).write_bytes(content)
    files = {kind: sorted((folder / "raw").glob(f"*.{kind}")) for kind in ("jpg", "png")}
    data = Data(**DEMO["data"] | {"source": "folder", "path": str(folder / "raw"), "native_size": SIDE})
    sketches, job = Sketches(**DEMO["sketches"]), Job("data", folder)
    with examining.opened(data, folder / "raw", job) as reader:  # a folder stays readable after it
        pictures = {kind: [p for p in reader.pictures if p.name.endswith(kind)] for kind in files}
    faces = np.stack([read(file.read_bytes()) for file in [*files["jpg"], *files["png"]]])
    sigmas = xdog.draw_sigma([p.id for p in reader.pictures], 0, sketches)
    drawn = [draw(face, sigma, sketches) for face, sigma in zip(faces, sigmas, strict=True)]
    equal = (np.stack(drawn) == xdog.sketch(faces, sigmas, sketches)).mean()
    print(f"pixels of both ways' sketches that are equal: {100 * equal:.3f} %")

    def grown() -> None:
        with artifacts.growing(folder / "grown.npy", faces.shape[1:]) as put:
            for face in faces:
                put(face)

    return {
        **{
            f"read and check, {kind}": (
                lambda kind=kind: [examining.examine(reader, p) for p in pictures[kind]],
                lambda kind=kind: [read(file.read_bytes()) for file in files[kind]],
            )
            for kind in files
        },
        "XDoG": (
            lambda: xdog.sketch(faces, sigmas, sketches),
            lambda: [draw(face, sigma, sketches) for face, sigma in zip(faces, sigmas, strict=True)],
        ),
        "write": (grown, lambda: np.save(folder / "saved.npy", np.stack(list(faces)))),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, both in ways(Path(folder), asked.images).items():
            times: list[list[float]] = [[], []]
            for _ in range(asked.rounds):
                for way, own in zip(both, times, strict=True):
                    start = time.process_time()
                    way()
                    own.append(time.process_time() - start)
            count = asked.images / (2 if "check" in name else 1)
            here, plain = (count / statistics.median(own) for own in times)
            rows.append((name, f"{here:,.0f}", f"{plain:,.0f}", f"{here / plain:.2f}"))
    print(f"{asked.images} images of {SIDE}², the median of {asked.rounds} rounds; images per second of processor time")
    print(tabulate(rows, ["", "here", "straightforward", "ratio"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
