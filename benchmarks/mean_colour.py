"""What every row has learnt, at the least: more than the mean colour, and to look at its reference.

    python benchmarks/mean_colour.py

Needs a finished run (`make demo-all`) in the current directory. PSNR of each row with the same reference, its paired
difference to one flat picture of the training faces' mean colour, and how much of its PSNR against the true answer a
wrong reference costs; 95 % percentile bootstrap intervals over test faces.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ssimbad import artifacts
from ssimbad.errors import in_one_line
from ssimbad.faces import manifest
from ssimbad.metrics import bootstrap
from ssimbad.metrics.baselines import mean_color
from ssimbad.metrics.psnr import psnr
from ssimbad.metrics.test_set import at_size
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, rows


def main() -> None:
    p = params.load()
    ids = manifest.ids(Path(paths.MANIFEST), "test")
    faces = at_size(Path("data/faces/test.npy"), p.data.size, ids)
    flat = mean_color(artifacts.read_array(Path("data/faces/train.npy")))
    level = psnr(np.broadcast_to(flat, faces.shape), faces)
    print(
        tabulate(
            lines(p, level),
            ["row", "same", "minus mean colour", "right minus other"],
            tablefmt="github",
            disable_numparse=True,
        )
    )


def lines(p: params.Params, level: np.ndarray) -> Iterator[tuple[str, str, str, str]]:
    """`level`: (N,) PSNR of the mean colour, dB."""
    judged = {(w["method"], w["stage"], w["seed"], w["setting"]): w for w in rows.judged_rows(p)}
    for (method, stage, seed, setting), w in judged.items():
        if setting != "same":
            continue
        right, other = (judged.get((method, stage, seed, s)) for s in ("cross-true", "cross-other"))
        use = told(values(right), values(other), p) if right and other else "-"
        row = f"{p.methods[method].label}, {stage}, seed {seed}"
        yield row, f"{values(w).mean():.2f}", told(values(w), level, p), use


def values(w: paths.Wildcards) -> np.ndarray:
    """(N,) PSNR in dB of the row's test faces."""
    with Path(paths.metrics(w, "csv")).open(newline="") as file:
        return np.array([float(line["psnr"]) for line in csv.DictReader(file)])


def told(a: np.ndarray, b: np.ndarray, p: params.Params) -> str:
    """The mean of a - b and its interval."""
    found = bootstrap.difference(a, b, resamples=p.evaluation.bootstrap, confidence=0.95, seed=p.evaluation.seed)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


if __name__ == "__main__":
    with in_one_line("mean_colour.py"):
        main()
