"""A shared machine: how much of its own quiet speed each kind of work keeps beside one and beside two busy processes.

    python benchmarks/shared_machine.py            # about four minutes
    python benchmarks/shared_machine.py --before   # twice that: also with OpenMP sharing each operation among the cores
    python benchmarks/shared_machine.py --smoke    # every path at a tiny size, to see that it runs; no benchmark

Two cores, the demo's network and batches, random faces. Quiet and disturbed alternate, so that whatever else the
machine does falls on all alike; the median of the rounds counts. The competitors are endless loops of the same
priority: beside one of them the fair share of two threads on two cores is two thirds, beside two it is half.
"""

from __future__ import annotations

import os

# As in every command, and read when NumPy and torch are imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tabulate import tabulate

from ssimbad.colorize import chunks
from ssimbad.features.alexnet import LPIPS
from ssimbad.methods import chain, edm, registry
from ssimbad.methods.contract import Losses, Plan, Setup
from ssimbad.metrics import lpips, measure, ms_ssim, psnr
from ssimbad.metrics.contract import Given
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Network, Sampler
from ssimbad.params.tree import Params
from ssimbad.runtime import cores
from ssimbad.training import loop
from ssimbad.training.feed import BatchRng, Feed, Shard
from ssimbad.training.parallel import data_parallel

CPU = torch.device("cpu")
CORES = 2
PHI = {"form": "rational", "c": 0.2}
TINY = Network(base=8, multipliers=[1, 2], blocks=1, heads=2, embedding=8, groups=4)
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
COMPETITORS = {"quiet": 0, "beside one": 1, "beside two": 2}
NOW, BEFORE = "one core per thread", "OpenMP among the cores"

Work = Callable[[], int]
"""One piece of work of a second or so; returns its images."""


class Bench:
    """The work of a row of the table, done in one of the two ways."""

    def __init__(self, p: Params, smoke: bool) -> None:
        self.p, self.size = p, 16 if smoke else p.data.size
        self.method = p.methods["ssimbad"]
        self.faces = np.random.default_rng(0).integers(0, 256, (64, 2 * self.size, 2 * self.size, 3), dtype=np.uint8)
        self.network = TINY if smoke else p.network
        self.groups = 2 if smoke else 8  # chunks to colour

    def model(self) -> torch.nn.Module:
        p = self.p
        shared = {"network": self.network, "noise": p.noise, "schedule.saturation": p.schedule.saturation}
        setup = Setup(self.method.kind, self.method.config, self.size, shared, {"phi": PHI})
        return registry.built(setup).to(memory_format=torch.channels_last)

    def training(self, plan: Plan, way: str, stack: ExitStack) -> Work:
        """Steps of batch 8 in two shares; in the old way the main thread's operations use both cores."""
        model, batch = self.model(), self.method.pretrain.batch
        run = loop.TrainState(model, edm.METHOD.parties(model, plan, None), self.method.pretrain, self.p.training)
        feed = Feed(self.faces, self.faces[..., 0], self.size, self.p.references, 0, CPU, True)
        parallel = stack.enter_context(data_parallel(CORES))

        def share(shard: Shard) -> Iterator[Losses]:
            draws = BatchRng(run.seen, batch, shard, CPU)
            yield edm.training_step(model, feed.batch(run.seen, batch, shard), plan, draws)

        def step() -> int:
            torch.set_num_threads(1 if way == NOW else CORES)
            run.advance(lambda player: parallel.gradients(player.network, share))
            return batch

        return step

    def colouring(self, way: str) -> Work:
        """Chunks of the demo's size by two Euler steps: dealt to two threads, or one after the other on both cores."""
        model, count = self.model().eval(), self.groups * self.p.colorize.chunk
        draws = torch.Generator().manual_seed(0)
        sketches, references = (torch.rand(count, c, self.size, self.size, generator=draws) * 2 - 1 for c in (1, 3))
        given = {"sketch": sketches, "reference": references}
        colour = partial(
            chunks.colour, chunks.bound(edm.METHOD, model), given, [str(i) for i in range(count)],
            Colour(sampler=Sampler(name="euler", steps=2)), chunk=self.p.colorize.chunk, seed=0, device=CPU,
            precision="fp32", channels_last=True,
        )  # fmt: skip

        def work() -> int:
            with _shared(way):
                colour(threads=CORES if way == NOW else 1)
            return count

        return work

    def evaluation(self, way: str) -> Work:
        """PSNR, MS-SSIM and LPIPS with random weights, whose speed is that of the true ones."""
        network = LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        copies = (network,) * (CORES if way == NOW else 1)
        images = self.faces[:, : max(self.size, 32), : max(self.size, 32)]

        def work() -> int:
            with _shared(way):
                given = Given(images, images[::-1], networks={"alexnet": copies})
                measure.per_image([psnr.METRIC, ms_ssim.METRIC, lpips.METRIC], given)
            return len(images)

        return work

    def works(self, way: str, stack: ExitStack) -> dict[str, Work]:
        denoising = Plan("denoising", edm.Denoising())
        through = Sampler(name="euler", steps=8)
        refinement = Plan("trajectory", chain.Trajectory(save_memory=False, sampler=through))
        return {
            "training": self.training(denoising, way, stack),
            "refinement, 8 steps": self.training(refinement, way, stack),
            "colouring": self.colouring(way),
            "evaluation": self.evaluation(way),
        }


@contextmanager
def _shared(way: str) -> Iterator[None]:
    """In the old way each operation is shared among the cores."""
    torch.set_num_threads(1 if way == NOW else CORES)
    with mock.patch.object(cores, "one", cores.one if way == NOW else lambda: None):
        yield


@contextmanager
def competitors(count: int) -> Iterator[None]:
    """So many busy processes; they end with this one, however it ends."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]) for _ in range(count)]
    try:
        time.sleep(0.3 if count else 0)  # Python starts
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def rate(work: Work, seconds: float) -> float:
    """Images per second."""
    images, started = 0, time.perf_counter()
    while (gone := time.perf_counter() - started) < seconds or not images:
        images += work()
    return images / gone


def measured(works: dict[tuple[str, str], Work], rounds: int, seconds: float) -> dict[tuple[str, str, str], float]:
    """(work, way, company) → images per second, the median of the rounds."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name in dict.fromkeys(name for name, _ in works):
            for company, count in COMPETITORS.items():
                with competitors(count):
                    for way in [way for n, way in works if n == name]:
                        found.setdefault((name, way, company), []).append(rate(works[name, way], seconds))
    return {key: statistics.median(rates) for key, rates in found.items()}


def table(found: dict[tuple[str, str, str], float]) -> str:
    """Rates in images per second, and the share of the quiet rate that is kept."""
    rows = []
    for name, way in dict.fromkeys((name, way) for name, way, _ in found):
        quiet, one, two = (found[name, way, company] for company in COMPETITORS)
        rows.append((name, way, quiet, one, two, f"{one / quiet:.0%}", f"{two / quiet:.0%}"))
    headers = ["work, images per second", "way", *COMPETITORS, "kept beside one", "kept beside two"]
    return tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--before", action="store_true", help="also the way in which OpenMP shares each operation")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; measures nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 1, 0.0
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    bench = Bench(params.load(Path(__file__).parents[1] / "presets/demo.yaml"), arguments.smoke)
    with ExitStack() as stack:
        ways = (NOW, BEFORE) if arguments.before else (NOW,)
        works = {(name, way): work for way in ways for name, work in bench.works(way, stack).items()}
        found = measured(works, arguments.rounds, arguments.seconds)
    print(table(found))
    if arguments.smoke:
        print("smoke run at a tiny size: not a benchmark")


if __name__ == "__main__":
    main()
