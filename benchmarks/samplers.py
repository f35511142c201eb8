"""Which sampler suits which weights: mean same-reference PSNR of the test set, per sampler and number of steps.

    python benchmarks/samplers.py models/ssimbad/pretrain/seed-0.safetensors [--steps 1 2 4 8 16]

Needs a finished run (`make demo`) in the current directory.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from tabulate import tabulate

from ssimbad import devices, params
from ssimbad.colorize import chunks, load
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics.psnr import psnr
from ssimbad.pairing import resize
from ssimbad.params import Sampler
from ssimbad.samplers import SAMPLERS, nfe


def stored(name: str, ids: list[str], size: int) -> torch.Tensor:
    return resize.to_unit(resize.area(manifest.images(Path("data") / name, ids), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    arguments = parser.parse_args()
    p, device = params.load(), devices.pick()
    size = p.data.size
    ids = manifest.ids(Path("data/faces/manifest.csv"), "test")
    sketches, references = (stored(name, ids, size) for name in ("sketches/test.npy", "references/same.npy"))
    targets = resize.area(manifest.images(Path("data/faces/test.npy"), ids), size)
    rows = []
    for weights in arguments.weights:
        model, made = load.trained(weights, device, channels_last=True)
        colorize = partial(registry.module(made["setup"]["kind"]).colorize, model)
        for name in SAMPLERS:
            for steps in arguments.steps:
                images = chunks.colour(
                    colorize, sketches, references, ids, Sampler(name=name, steps=steps), chunk=p.colorize.chunk,
                    seed=p.colorize.seed, device=device, precision=p.training.precision, channels_last=True,
                )  # fmt: skip
                rows.append((weights, name, steps, nfe(name, steps), psnr(images, targets).mean()))
    print(tabulate(rows, headers=["weights", "sampler", "steps", "NFE", "PSNR (dB)"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
