"""Faces drawn from nothing, against noise: pixel MMD to the test faces with an interval.

    python benchmarks/free_rows.py

Needs a finished run with rows in the setting `free` (`make demo-all`) in the current directory. Beside the rows stand
as many training faces, and noise pictures of the training faces' mean and spread: of all pixels together (one mean and
deviation per channel), and place by place. The interval is a jackknife's over answers and test faces, since resampling
with replacement would count an image's likeness to itself.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ssimbad import artifacts
from ssimbad.errors import in_one_line
from ssimbad.faces import manifest
from ssimbad.metrics.mmd import kernel_distance
from ssimbad.metrics.pixel_mmd import thumbnails
from ssimbad.metrics.test_set import at_size, by_id
from ssimbad.pairing import resize
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, rows


def main() -> None:
    p = params.load()
    ids = manifest.ids(Path(paths.MANIFEST), "test")
    faces = thumbnails(at_size(Path("data/faces/test.npy"), p.data.size, ids))
    train = resize.area(artifacts.read_array(Path("data/faces/train.npy")), p.data.size)
    lines = [(name, *jackknife(thumbnails(images), faces)) for name, images in sets(p, ids, train)]
    if len(lines) == 3:
        sys.exit("no row in the setting free; run make demo-all first")
    print(tabulate(lines, ["set", "pixel MMD", "2.5 %", "97.5 %"], floatfmt=".4f", tablefmt="github"))


def sets(p: params.Params, ids: list[str], train: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (N, S, S, 3) uint8)."""
    for w in rows.coloured_rows(p):
        if w["setting"] == "free":
            yield f"{w['method']}, seed {w['seed']}", by_id(Path(paths.coloured(w)), ids, p.data.size)
    rng, values = np.random.default_rng(0), train.astype(np.float32)
    shape = (len(ids), *train.shape[1:])
    for name, axes in (("all pixels together", (0, 1, 2)), ("place by place", 0)):
        drawn = values.mean(axis=axes) + values.std(axis=axes) * rng.standard_normal(shape)
        yield f"noise, {name}", np.rint(drawn.clip(0, 255)).astype(np.uint8)
    yield "training faces", train[: len(ids)]


def jackknife(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Squared MMD and its normal 95 % interval, by leaving out each vector of either set."""

    def spread(left_out: Callable[[int], float], n: int) -> float:
        values = np.array([left_out(i) for i in range(n)])
        return (n - 1) / n * np.square(values - values.mean()).sum()

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return kernel_distance(x, y, 0, "pixel_mmd")

    variance = spread(lambda i: distance(np.delete(a, i, 0), b), len(a))
    variance += spread(lambda i: distance(a, np.delete(b, i, 0)), len(b))
    value, half = distance(a, b), 1.96 * variance**0.5
    return value, value - half, value + half


if __name__ == "__main__":
    with in_one_line("free_rows.py"):
        main()
