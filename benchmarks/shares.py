"""Training images per second on a CPU: shares of a batch in threads of their own, against one share on all cores.

    python benchmarks/shares.py [--steps 6]

The demo's network, on random faces, denoising and refinement through 8 Euler steps; the best of several steps counts.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from tabulate import tabulate

from ssimbad.errors import in_one_line
from ssimbad.methods import chain, edm, registry
from ssimbad.methods.contract import Losses, Plan, Setup
from ssimbad.params import tree as params
from ssimbad.params.base import Sampler
from ssimbad.training import loop
from ssimbad.training.feed import BatchRng, Feed, Shard
from ssimbad.training.parallel import data_parallel

CPU = torch.device("cpu")
PHI = {"form": "rational", "c": 0.2}


def speed(run: loop.TrainState, feed: Feed, plan: Plan, batch: int, shares: int, threads: int, steps: int) -> float:
    """Images per second of the fastest step."""

    def work(shard: Shard) -> Iterator[Losses]:
        yield edm.training_step(run.model, feed.batch(0, batch, shard), plan, BatchRng(0, batch, shard, CPU))

    best = float("inf")
    with data_parallel(shares) as parallel:
        torch.set_num_threads(threads)
        for _ in range(steps):
            started = time.perf_counter()
            run.advance(lambda player: parallel.gradients(player.network, work))
            best = min(best, time.perf_counter() - started)
    return batch / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    p = params.load(params.Path("presets/demo.yaml"))
    method = p.methods["ssimbad"]
    shared = {"network": p.network, "noise": p.noise, "schedule.saturation": p.schedule.saturation}
    model = registry.built(Setup(method.kind, method.config, p.data.size, shared, {"phi": PHI}))
    faces = np.random.default_rng(0).integers(0, 256, (64, p.data.native_size, p.data.native_size, 3), dtype=np.uint8)
    feed = Feed(faces, faces[..., 0], p.data.size, p.references, 0, CPU, True)
    model = model.to(memory_format=torch.channels_last)
    denoising = Plan("denoising", edm.Denoising())
    refinement = Plan("trajectory", chain.Trajectory(save_memory=False, sampler=Sampler(name="euler", steps=8)))
    run = loop.TrainState(model, edm.METHOD.parties(model, denoising, None), method.pretrain, p.training)
    rows = []
    for name, plan, batch in (
        ("denoising", denoising, 8),
        ("denoising", denoising, 16),
        ("refinement", refinement, 8),
    ):
        steps = arguments.steps if plan is denoising else max(2, arguments.steps // 2)
        two, one = (speed(run, feed, plan, batch, *how, steps) for how in ((2, 1), (1, 2)))
        rows.append((name, batch, two, one, two / one))
    print(
        tabulate(
            rows, headers=["objective", "batch", "2 shares × 1 thread", "1 share × 2 threads", "ratio"], floatfmt=".2f"
        )
    )


if __name__ == "__main__":
    with in_one_line("shares.py"):
        main()
