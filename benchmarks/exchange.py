"""Training images per second of two processes against one on a CPU (Gloo), by the way in which gradients are exchanged.

    python benchmarks/exchange.py [--rounds 5] [--steps 4] [--processes 2]

The demo's network on random faces, denoising, with the same global batch of 16; each process computes with one core.
A round measures every way in turn, one process alone among them, so that what else the machine does meets all alike;
the median over the rounds counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import distributed, multiprocessing

from ssimbad.methods import edm, registry
from ssimbad.methods.contract import Losses, Plan, Setup
from ssimbad.params import tree as params
from ssimbad.runtime.distributed import ALONE, ProcessGroup
from ssimbad.training import loop
from ssimbad.training.exchange import Exchange
from ssimbad.training.feed import BatchRng, Feed, Shard
from ssimbad.training.parallel import DataParallel, data_parallel

CPU = torch.device("cpu")
BATCH = 16
ALONE_FIRST = "one process"
WAYS = ("after", "overlapped", "bf16")


def made() -> tuple[loop.TrainState, Feed]:
    """A training of the demo's network, and random faces for it."""
    p = params.load(Path("presets/demo.yaml"))
    method = p.methods["ssimbad"]
    shared = {"network": p.network, "noise": p.noise, "schedule.saturation": p.schedule.saturation}
    phi = {"form": "rational", "c": 0.2}
    torch.manual_seed(0)
    model = registry.built(Setup(method.kind, method.config, p.data.size, shared, {"phi": phi}))
    faces = np.random.default_rng(0).integers(0, 256, (64, p.data.native_size, p.data.native_size, 3), dtype=np.uint8)
    feed = Feed(faces, faces[..., 0], p.data.size, p.references, 0, CPU, True)
    model = model.to(memory_format=torch.channels_last)
    plan = Plan("denoising", edm.Denoising())
    return loop.TrainState(model, edm.METHOD.parties(model, plan, None), method.pretrain, p.training), feed


def speed(state: loop.TrainState, feed: Feed, parallel: DataParallel, steps: int) -> float:
    """Images per second over so many steps."""
    plan = Plan("denoising", edm.Denoising())

    def work(shard: Shard) -> Iterator[Losses]:
        yield edm.training_step(state.model, feed.batch(0, BATCH, shard), plan, BatchRng(0, BATCH, shard, CPU))

    started = time.perf_counter()
    for _ in range(steps):
        state.advance(lambda player: parallel.gradients(player.network, work))
    return steps * BATCH / (time.perf_counter() - started)


def measured(rank: int, world_size: int, folder: Path, rounds: int, steps: int) -> None:
    """Let the first process write a line per round and way: name, images per second."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    group = ProcessGroup(rank, world_size, rank, CPU)
    trainings = {name: made() for name in (ALONE_FIRST, *WAYS)}  # one for each: an exchange hooks into its parameters
    exchanges = {way: Exchange(trainings[way][0].model, group, way == "bf16") for way in WAYS}
    lines = []
    for number in range(rounds + 1):
        for name in (ALONE_FIRST, *WAYS):
            distributed.barrier()  # the others wait here while the first computes alone
            if name == ALONE_FIRST and rank > 0:
                continue
            state, feed = trainings[name]
            more = (group, 1, {state.model: exchanges[name]}, name == "after") if name in WAYS else (ALONE,)
            with data_parallel(1, *more) as parallel:
                rate = speed(state, feed, parallel, steps)
            if number:  # after a first round to warm up
                lines.append(f"{name},{rate}\n")
    distributed.barrier()
    if rank == 0:
        (folder / "rates.csv").write_text("".join(lines))
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        how = (a.processes, Path(folder), a.rounds, a.steps)
        multiprocessing.spawn(measured, args=how, nprocs=a.processes)
        lines = [line.split(",") for line in (Path(folder) / "rates.csv").read_text().splitlines()]
    rates = {name: statistics.median(float(r) for found, r in lines if found == name) for name in (ALONE_FIRST, *WAYS)}
    rows = [
        (name if name == ALONE_FIRST else f"{a.processes} processes, {name}", rate, rate / rates[ALONE_FIRST])
        for name, rate in rates.items()
    ]
    print(tabulate(rows, headers=["exchange", "images/s", "ratio"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
