"""Which sampler suits which weights: mean same-reference PSNR of the test set, per sampler and number of steps.

    python benchmarks/samplers.py models/ssimbad/pretrain/seed-0.safetensors [--steps 1 2 4 8 16]

Needs a finished run (`make demo`) in the current directory.
"""

import argparse
from pathlib import Path

from tabulate import tabulate
from torch import Tensor, nn

from ssimbad.colorize import chunks, load
from ssimbad.errors import in_one_line
from ssimbad.faces import manifest
from ssimbad.methods import registry
from ssimbad.metrics.psnr import psnr
from ssimbad.pairing import resize
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.tree import Params
from ssimbad.runtime import devices


class TestFaces:
    """The test set of the current directory with its warped references."""

    def __init__(self, p: Params) -> None:
        self._p, self._ids = p, manifest.ids(Path("data/faces/manifest.csv"), "test")
        self._given = {"sketch": self._stored("sketches/test.npy"), "reference": self._stored("references/same.npy")}
        if Path("data/masks").is_dir():
            masks = {"mask": "masks/test.npy", "reference_mask": "masks/same.npy"}
            self._given |= {name: (self._stored(file) + 1) / 2 for name, file in masks.items()}
        self._targets = resize.area(manifest.images(Path("data/faces/test.npy"), self._ids), p.data.size)

    def _stored(self, name: str) -> Tensor:
        return resize.to_unit(resize.area(manifest.images(Path("data") / name, self._ids), self._p.data.size))

    def psnr(self, model: nn.Module, kind: str, colour: Colour) -> float:
        """Mean PSNR (dB) of the faces as this model of this kind colours them."""
        method = registry.get(kind)
        images = chunks.colour(
            chunks.bound(method, model), {name: self._given[name] for name in method.inputs}, self._ids, colour,
            chunk=self._p.colorize.chunk, seed=self._p.colorize.seed, device=devices.pick(),
            precision=self._p.training.precision, channels_last=self._p.training.channels_last,
        )  # fmt: skip
        return float(psnr(images, self._targets).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    arguments = parser.parse_args()
    p = params.load()
    faces, rows = TestFaces(p), []
    for weights in arguments.weights:
        loaded = load.trained(weights, devices.pick(), p.training.channels_last)
        for name, cost in loaded.method.samplers.items():
            for steps in arguments.steps:
                colour = Colour(sampler=Sampler(name=name, steps=steps), options=loaded.colour.options)
                value = faces.psnr(loaded.model, loaded.setup.kind, colour)
                rows.append((weights, name, steps, cost.of(steps), value))
    print(tabulate(rows, headers=["weights", "sampler", "steps", "NFE", "PSNR (dB)"], floatfmt=".2f"))


if __name__ == "__main__":
    with in_one_line("samplers.py"):
        main()
