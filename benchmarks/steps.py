"""What a row's network paints at each of its steps, against the truth: PSNR of the denoised images along the chain.

    python benchmarks/steps.py [--images 32]

Needs a run (`make demo-all`) in the current directory, of which it takes the rows whose weights are there; it colours
from the faces' own references. The first number of a row is what its network makes of pure noise, or of whatever else
it starts from; last comes its answer.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from ssimbad import artifacts
from ssimbad.colorize import chunks, load, stage
from ssimbad.errors import in_one_line
from ssimbad.faces import manifest
from ssimbad.metrics.baselines import mean_color
from ssimbad.metrics.psnr import psnr
from ssimbad.metrics.test_set import at_size
from ssimbad.pairing import resize
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, rows, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    p, count = params.load(), parser.parse_args().images
    ids = manifest.ids(Path(paths.MANIFEST), "test")
    truth = at_size(Path("data/faces/test.npy"), p.data.size, ids)[:count]
    flat = np.broadcast_to(mean_color(artifacts.read_array(Path("data/faces/train.npy"))), truth.shape)
    lines = [("mean colour", f"{psnr(flat, truth).mean():.1f}")]
    sampled = [{**w, "setting": "same"} for w in rows.sampled(p)]
    for instance in [i for i in table.instances(p) if i.stage.name == "colorize"]:
        if instance.wildcards in sampled and Path(instance.inputs["weights"]).exists():
            made = along(p, instance, ids, len(truth))
            lines.append((instance.key, " ".join(f"{psnr(images, truth).mean():.1f}" for images in made)))
    print(tabulate(lines, ["row", "PSNR of what is denoised, call by call, and of the answer, dB"], tablefmt="github"))


def along(p: params.Params, instance: table.Instance, ids: list[str], count: int) -> list[np.ndarray]:
    """(count, S, S, 3) uint8 of each watched call and of the answer."""
    method, of = (instance.wildcards[name] for name in ("method", "stage"))
    loaded = load.trained(Path(instance.inputs["weights"]), torch.device("cpu"), p.training.channels_last)
    inputs = {name: Path(path) for name, path in instance.inputs.items() if isinstance(path, str)}
    given = {name: images[list(range(count))] for name, images in stage.given(inputs, ids, p.data.size).items()}
    seen = []
    answer = chunks.colour(
        chunks.bound(loaded.method, loaded.model), given, ids[:count], p.methods[method].colour[of],
        chunk=count, seed=p.colorize.seed, device=torch.device("cpu"), precision="fp32",
        channels_last=p.training.channels_last, watch=lambda _, x: seen.append(resize.to_bytes(x.clamp(-1, 1))),
    )  # fmt: skip
    return [*seen, answer]


if __name__ == "__main__":
    with in_one_line("steps.py"):
        main()
