"""TPS warp at 256² with bicubic resampling: the batched one against a straightforward one, image by image.

    python benchmarks/tps.py [--seconds 20]

The straightforward one evaluates the whole spline in float64 NumPy and resamples each channel with a cubic of
scipy.ndimage, on one thread. All are timed in turn, again and again, and the best of each counts: other work
on the machine only ever makes a repetition slower.
"""

import os

os.environ["OMP_NUM_THREADS"] = "2"  # the most that is timed; torch reads it when it is imported

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from skimage import data
from tabulate import tabulate

from ssimbad.pairing import resize, tps
from ssimbad.params.blocks import References

SIDE, BATCH = 256, 8
WARP = References(seed=0, low=0.3, high=0.7, shift=0.25, decimals=2, rotation=0.0)


def straightforward(image: np.ndarray, p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → the same, warped: d for x and for y, every kernel at every pixel, in float64."""
    corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    source = np.vstack([corners, np.stack([p, p], axis=1)])
    centres = np.vstack([corners, np.stack([p + r, p + r], axis=1)])

    def kernel(a: np.ndarray) -> np.ndarray:
        distances = np.linalg.norm(a[:, None] - centres, axis=-1)
        return np.hstack([distances**2 * np.log(distances + 1e-6), np.ones((len(a), 1)), a])

    upper = kernel(centres)
    system = np.vstack([upper, np.hstack([upper[:, 6:].T, np.zeros((3, 3))])])
    theta = np.linalg.solve(system, np.vstack([source - centres, np.zeros((3, 2))]))
    height, width, _ = image.shape
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    u = np.stack([x.ravel(), y.ravel()], axis=1)
    at = ((u + kernel(u) @ theta) * [width, height]).reshape(height, width, 2)
    places = [at[..., 1], at[..., 0]]
    return np.stack([map_coordinates(image[..., c], places, order=3, cval=0) for c in range(3)], axis=-1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=20.0)
    seconds = arguments.parse_args().seconds

    faces = np.stack([data.astronaut()[2 * i : 2 * i + SIDE, 2 * i : 2 * i + SIDE] for i in range(BATCH)])
    warp = tps.Warp.random(np.random.default_rng(0), BATCH, WARP)
    images = resize.to_unit(faces)

    def batched(threads: int) -> None:
        torch.set_num_threads(threads)
        tps.warp(images, tps.Warp(warp.points, warp.shifts))  # a new one: fitted each time

    # Threads, images a call, calls a round (the first of them warms up), what is called.
    candidates = {
        "one by one, float64 (NumPy, SciPy)": (
            1,
            1,
            3,
            lambda: straightforward(faces[0], warp.points[0], warp.shifts[0]),
        ),
        "batched, float32": (1, BATCH, 10, lambda: batched(1)),
        "batched, float32 ": (2, BATCH, 40, lambda: batched(2)),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, (_, count, calls, function) in candidates.items():
            for _ in range(calls):
                start = time.perf_counter()
                function()
                times[name].append((time.perf_counter() - start) / count * 1e3)
    slowest = max(min(t) for t in times.values())
    rows = [
        (name.strip(), candidates[name][0], min(t), statistics.median(t), slowest / min(t)) for name, t in times.items()
    ]
    print(f"TPS warp, {SIDE}², 3 channels, bicubic, batch {BATCH}, {seconds:g} s; ms per image")
    print(tabulate(rows, ["warp", "threads", "best", "median", "times faster"], floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
