"""The schedule search against the direct protocol, on one thread: time per image and agreement.

    python benchmarks/ssim_search.py [--images 3] [--size 128]

Direct: 22 candidates × 50 sigmas, every SSIM by scikit-image. Here: one curve per image on the shared sigma
grid, every candidate read off it. Both see the same faces and the same noise. Times are CPU seconds of this
process, which on an idle machine are the wall-clock seconds of one thread.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import io
import time

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from tabulate import tabulate

from ssimbad.faces import embedded
from ssimbad.noise.transforms import PUBLISHED, make
from ssimbad.schedule.selection import Criterion, line_r2
from ssimbad.schedule.ssim_curves import Curves, noise, sigma_curve, sigma_grid

SEED, SIGMAS = 0, 32
CRITERION = Criterion(points=50, sigma_min=0.002, sigma_max=80.0)


def faces(count: int, size: int) -> dict[str, np.ndarray]:
    """{id: (size, size, 3) uint8} embedded faces."""
    drawn = embedded.draw_faces(embedded.face_ids(count), "adventurer", SEED)
    pngs = {id_: embedded.render("adventurer", *look, size) for id_, look in drawn.items()}
    return {id_: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for id_, png in pngs.items()}


def direct(images: dict[str, np.ndarray]) -> np.ndarray:
    """(22, N) R² per image, as the public search computes it, but with one noise array per image."""
    r2 = np.empty((len(PUBLISHED), len(images)))
    for n, (id_, image) in enumerate(images.items()):
        clean, drawn = image / 127.5 - 1, noise(SEED, id_, image.shape[0]).astype(np.float64)
        target = (clean + 1) / 2
        for k, spec in enumerate(PUBLISHED):
            phi = make(spec)
            ends = phi.forward(np.array([CRITERION.sigma_min, CRITERION.sigma_max]))
            u = np.linspace(*ends, CRITERION.points)
            noisy = ((np.clip(clean + sigma * drawn, -1, 1) + 1) / 2 for sigma in phi.inverse(u))
            ssim = [structural_similarity(target, x, data_range=1, channel_axis=2) for x in noisy]
            r2[k, n] = line_r2(u, np.array([ssim]))[0]
    return r2


def shared(images: dict[str, np.ndarray]) -> np.ndarray:
    """(22, N) R² per image, read off one curve per image."""
    grid = sigma_grid(SIGMAS, CRITERION.sigma_min, CRITERION.sigma_max)
    ssim = [sigma_curve(image, noise(SEED, id_, image.shape[0]), grid) for id_, image in images.items()]
    curves = Curves("sigma", tuple(images), grid, np.stack(ssim))
    return np.stack([CRITERION.score(curves, spec) for spec in PUBLISHED])


def timed(function, images: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """The result and the CPU seconds per image."""
    start = time.process_time()
    result = function(images)
    return result, (time.process_time() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = faces(arguments.images, arguments.size)
    shared(dict(list(images.items())[:1]))  # first calls load libraries
    expected, slow = timed(direct, images)
    found, fast = timed(shared, images)

    means = np.stack([expected.mean(axis=1), found.mean(axis=1)], axis=1)
    rows = [(make(spec).label, a, b, b - a) for spec, (a, b) in zip(PUBLISHED, means, strict=True)]
    print(tabulate(rows, ["mean R² of", "direct R²", "shared R²", "difference"], floatfmt=("", ".5f", ".5f", ".1e")))
    print(f"{arguments.images} faces at {arguments.size} px, {SIGMAS} shared sigmas, one thread")
    print(f"worst difference of mean R²: {np.abs(means[:, 1] - means[:, 0]).max():.1e} (allowed 5e-4)")
    print(f"direct {slow:.2f} s per image, shared {fast * 1e3:.1f} ms per image: {slow / fast:.0f} times less")


if __name__ == "__main__":
    main()
