"""Cross-true PSNR of given weights on the test sketches, drawn in each style of lines.

    python benchmarks/styles.py --weights models/regression/pretrain/seed-0.safetensors [...] [--faces 64] [--seed 0]

Needs a run of embedded faces (`make demo`) in the current directory. References, noise and chunks are those of the
stage colorize, so that xdog is the row's own number where the weights colour as the row does; last comes the mean of
the other styles less xdog.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ssimbad.colorize import chunks, load, stage
from ssimbad.errors import in_one_line
from ssimbad.faces import manifest
from ssimbad.metrics.psnr import psnr
from ssimbad.metrics.test_set import at_size
from ssimbad.pairing import resize, styles
from ssimbad.params import tree as params
from ssimbad.pipeline import paths
from ssimbad.runtime import cores, devices

SKETCHES = Path("data/sketches/test.npy")
SHOWN = {
    "sketches": SKETCHES, "references": Path("data/references/cross.npy"), "masks": Path("data/masks/test.npy"),
    "reference_masks": Path("data/masks/cross.npy"),
}  # fmt: skip


def measured(p: params.Params, weights: Path, count: int, seed: int) -> dict[str, float]:
    """dB by style."""
    device = devices.pick()
    loaded = load.trained(weights, device, p.training.channels_last)
    size, ids = loaded.setup.size, manifest.ids(Path(paths.MANIFEST), "test")
    takes = loaded.method.takes(loaded.colour.options)
    stored = stage.given({name: path for name, path in SHOWN.items() if path.exists()}, ids, size)
    first = list(range(min(count, len(ids))))
    given = {name: images[first] for name, images in stored.items() if name in takes}
    truth = at_size(Path(paths.TRUE), size, ids)[first]
    sheets, mine = manifest.images(SKETCHES, ids)[first], [ids[i] for i in first]
    found = {}
    for style in styles.STYLES:
        lines = resize.to_unit(resize.area(styles.drawn(sheets, mine, style, seed), size))
        answers = chunks.colour(
            chunks.bound(loaded.method, loaded.model), given | {"sketch": lines}, mine, loaded.colour,
            chunk=p.colorize.chunk, seed=p.colorize.seed, device=device, threads=cores.granted(),
            precision=p.training.precision, channels_last=p.training.channels_last,
        )  # fmt: skip
        found[style] = float(psnr(answers, truth).mean())
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--weights", type=Path, nargs="+", required=True)
    arguments.add_argument("--faces", type=int, default=64)
    arguments.add_argument("--seed", type=int, default=0, help="of gaps and grain")
    asked = arguments.parse_args()
    parameters = params.load()
    columns = [measured(parameters, weights, asked.faces, asked.seed) for weights in asked.weights]
    rows = [[style, *(column[style] for column in columns)] for style in styles.STYLES]
    others = [np.mean([value for style, value in column.items() if style != "xdog"]) for column in columns]
    rows.append(["mean of the others, less xdog", *(m - c["xdog"] for m, c in zip(others, columns, strict=True))])
    print(tabulate(rows, ["style", *map(str, asked.weights)], tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    with in_one_line("styles.py"):
        main()
