"""The paper's network at 256² on one device: speed of training, memory of refinement, speed of sampling.

    python benchmarks/gpu.py                       # table on the screen, JSON in reports/benchmarks/<device>.json
    python benchmarks/gpu.py --device cpu          # all granted cores, an image each, in chains of two steps: minutes
    python benchmarks/gpu.py --device cpu --smoke  # every path at a tiny size, to see that it runs; no benchmark

Needs nothing but this repository (`PYTHONPATH=src`), torch, numpy, pydantic, PyYAML and tabulate, so that it also runs
on a machine without the project's lock. What does not fit the device's memory is a row that says so. The faces are
random; the batches are made as in training, warps included. `ssimbad plan` reads the JSON.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssimbad.methods import chain, edm, registry
from ssimbad.methods.contract import Batch, Plan, Setup
from ssimbad.params import tree as params
from ssimbad.params.base import Colour, Network, Sampler
from ssimbad.params.tree import Params
from ssimbad.runtime import cores, devices
from ssimbad.training.feed import Ahead, BatchRng, Feed, Shard

PHI = {"form": "rational", "c": 0.3}
TINY = Network(base=8, multipliers=[1, 2], blocks=1, heads=2, embedding=8, groups=4)
DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class Mode:
    """How a step computes. fp32 is torch's default: convolutions may use TF32, matrix products do not.

    compiled, prefetch: as `training.compile` and `training.prefetch` have it.
    """

    name: str
    bf16: bool = True
    channels_last: bool = False
    compiled: bool = False
    prefetch: bool = False


EAGER, BF16 = Mode("fp32", bf16=False), Mode("bf16")
BEST_EAGER = Mode("bf16, channels-last", channels_last=True)  # as presets/paper.yaml trains
MODES = (
    EAGER,
    # each lever alone,
    BF16,
    Mode("fp32, channels-last", bf16=False, channels_last=True),
    Mode("fp32, compiled", bf16=False, compiled=True),
    Mode("fp32, prefetch", bf16=False, prefetch=True),
    # and together
    BEST_EAGER,
    Mode("bf16, channels-last, prefetch", channels_last=True, prefetch=True),
    Mode("bf16, channels-last, compiled, prefetch", channels_last=True, compiled=True, prefetch=True),
)


@dataclass(frozen=True)
class Scale:
    """What is measured: network, side of the images in pixels, batches, sampling steps, least seconds per row."""

    network: Network
    size: int
    train_batches: tuple[int, ...]
    refine_batches: tuple[int, ...]
    refine_steps: tuple[int, ...]
    sample_batches: tuple[int, ...]
    sample_steps: int
    seconds: float
    burst: int = 1
    """Steps of training between two looks at the clock, for which the device must have ended all."""
    backend: str = "inductor"
    modes: tuple[Mode, ...] = MODES
    chained: Mode = BEST_EAGER
    """In which refinement and sampling are measured."""


def scale(p: Params, smoke: bool, device: str = "cuda") -> Scale:
    if smoke:
        return Scale(TINY, 16, (2,), (2,), (2, 3), (1, 2), 2, 0.0, backend="eager")
    if device == "cpu":
        # What a chain takes grows in a straight line with its steps, and a call takes seconds.
        best = BF16 if devices.precision("auto", torch.device("cpu")) == "bf16" else EAGER
        modes = tuple(dict.fromkeys((EAGER, best)))
        return Scale(p.network, p.data.size, (1,), (1,), (2,), (1,), 2, 0.0, modes=modes, chained=best)
    return Scale(p.network, p.data.size, (32, 64), (1, 8, 32), (10, 50), (1, 64), 50, 10.0, burst=8)


@dataclass(frozen=True)
class Row:
    """One line of the table. `outcome` is "ok", "does not fit" or the first line of another failure."""

    kind: str  # train, refine or sample
    mode: str
    batch: int
    steps: int | None = None
    checkpointing: bool | None = None
    images_per_second: float | None = None
    peak_bytes: int | None = None  # of the device's allocator; None on a CPU
    outcome: str = "ok"


class Bench:
    """The paper's network on one device, built anew for every row.

    `lanes`: as many of a row's work run side by side, each with a network of its own, as the pipeline's threads do on
    a CPU; one on a GPU.
    """

    def __init__(self, p: Params, how: Scale, device: torch.device, lanes: int = 1) -> None:
        self.p, self.how, self.device, self.lanes = p, how, device, lanes
        shape = (2 * max(how.train_batches), how.size, how.size, 3)
        self.faces = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def model(self, mode: Mode) -> nn.Module:
        method = self.p.methods["ssimbad"]
        config = method.config.model_copy(update={"phi": PHI})
        p = self.p
        shared = {"network": self.how.network, "noise": p.noise, "schedule.saturation": p.schedule.saturation}
        setup = Setup(method.kind, config, self.how.size, shared)
        memory = torch.channels_last if mode.channels_last else torch.contiguous_format
        model = registry.built(setup).to(self.device, memory_format=memory)
        return devices.compiled(model, self.how.backend) if mode.compiled else model

    def feed(self, mode: Mode) -> Feed:
        return Feed(
            self.faces, self.faces[..., 0], self.how.size, self.p.references, 0, self.device, mode.channels_last
        )

    def step(self, mode: Mode, batch: int, plan: Plan) -> Callable[[], None]:
        """A burst of whole steps of training: batch, loss, gradient, clipping, AdamW, EMA."""
        model, feed, common = self.model(mode), self.feed(mode), self.p.training
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=common.weight_decay, fused=True)
        own = list(model.state_dict().values())
        ema = [value.detach().clone() for value in own]
        seen = itertools.count(0, batch)
        # Its one thread ends with this process.
        source = Ahead(feed, sys.maxsize, ThreadPoolExecutor(1, cores.one)) if mode.prefetch else feed

        def once(now: int) -> torch.Tensor:
            draws = BatchRng(now, batch, Shard(), self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mode.bf16):
                losses = edm.training_step(model, source.batch(now, batch, Shard()), plan, draws)
            optimiser.zero_grad(set_to_none=True)
            losses.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), common.clip)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(ema, own, 0.001)
            return losses.loss.detach()

        def run() -> None:
            losses = [once(next(seen)) for _ in range(self.how.burst)]
            if not torch.stack(losses).isfinite().all():
                raise RuntimeError("the loss is not finite")

        return run

    def sampling(self, mode: Mode, batch: int, steps: int) -> Callable[[], None]:
        model, feed = self.model(mode).eval(), self.feed(mode)
        given: Batch = feed.batch(0, batch, Shard())
        noise, colour = torch.randn_like(given.target), Colour(sampler=Sampler(name="euler", steps=steps))

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=mode.bf16):
                edm.colorize(model, given, lambda *shape: noise, colour, None)

        return run


def rows(bench: Bench) -> Iterator[Row]:
    """Every measurement, one after the other."""
    how = bench.how
    for mode, batch in itertools.product(how.modes, how.train_batches):
        plan = Plan("denoising", edm.Denoising())
        yield measured(
            bench,
            Row("train", mode.name, batch),
            lambda mode=mode, batch=batch, plan=plan: bench.step(mode, batch, plan),
            how.burst,
        )
    for batch, steps, saved in itertools.product(how.refine_batches, how.refine_steps, (False, True)):
        plan = Plan("trajectory", chain.Trajectory(save_memory=saved, sampler=Sampler(name="euler", steps=steps)))
        yield measured(
            bench,
            Row("refine", how.chained.name, batch, steps, saved),
            lambda batch=batch, plan=plan: bench.step(how.chained, batch, plan),
            how.burst,
        )
    for batch in how.sample_batches:
        yield measured(
            bench,
            Row("sample", how.chained.name, batch, how.sample_steps),
            lambda batch=batch: bench.sampling(how.chained, batch, how.sample_steps),
        )


def measured(bench: Bench, row: Row, prepare: Callable[[], Callable[[], None]], burst: int = 1) -> Row:
    """The row with its numbers, or with the reason why there are none; `burst`: batches per call."""
    device = bench.device
    try:
        with cores.alone(), ThreadPoolExecutor(bench.lanes, initializer=cores.one) as pool:
            beside = [prepare() for _ in range(bench.lanes)]
            work = beside[0] if bench.lanes == 1 else lambda: list(pool.map(lambda one: one(), beside))
            seconds, peak = _timed(work, device, bench.how.seconds)
        return Row(
            **{**asdict(row), "images_per_second": bench.lanes * burst * row.batch / seconds, "peak_bytes": peak}
        )
    except torch.OutOfMemoryError:
        return Row(**{**asdict(row), "outcome": DOES_NOT_FIT})
    except Exception as error:  # a compiler that is not there must not cost the other rows
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Row(**{**asdict(row), "outcome": f"failed: {first}"})
    finally:
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _timed(work: Callable[[], None], device: torch.device, least: float) -> tuple[float, int | None]:
    """Median seconds of a call over at least three calls and `least` seconds, after two to warm up; peak memory."""
    cuda = device.type == "cuda"
    for _ in range(2):
        work()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        started = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times), torch.cuda.max_memory_allocated(device) if cuda else None


def report(bench: Bench, found: list[Row], smoke: bool) -> dict[str, Any]:
    """What goes into the JSON: the device, the software, the network, and the rows."""
    cuda = bench.device.type == "cuda"
    return {
        "device": devices.hardware(bench.device),
        "lanes": bench.lanes,
        "memory_bytes": torch.cuda.get_device_properties(bench.device).total_memory if cuda else None,
        "smoke": smoke,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "network": bench.how.network.model_dump(mode="json"),
        "size": bench.how.size,
        "rows": [asdict(row) for row in found],
    }


def slug(device: str) -> str:
    """`NVIDIA H100 80GB HBM3` → `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def table(made: dict[str, Any]) -> str:
    from tabulate import tabulate

    def line(row: dict[str, Any]) -> tuple[Any, ...]:
        ok, peak = row["outcome"] == "ok", row["peak_bytes"]
        saved = {None: "", True: "yes", False: "no"}[row["checkpointing"]]
        speed = f"{row['images_per_second']:.2f}" if ok else row["outcome"]
        return (
            row["kind"],
            row["mode"],
            row["batch"],
            row["steps"] or "",
            saved,
            speed,
            f"{peak / 2**30:.1f}" if peak else "—",
        )

    headers = ["what", "mode", "batch", "steps", "checkpointing", "images/s", "peak GiB"]
    body = tabulate([line(r) for r in made["rows"]], headers, tablefmt="github", disable_numparse=True)
    title = f"{made['device']}, {made['size']}², torch {made['torch']}" + (" (smoke: not a benchmark)" * made["smoke"])
    return f"{title}\n\n{body}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, … or cpu")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder of the JSON")
    parser.add_argument("--preset", type=Path, default=Path("presets/paper.yaml"))
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py: no CUDA device here; measure a processor with --device cpu (dry run: --smoke)",
            file=sys.stderr,
        )
        return 2
    p = params.load(given.preset)
    lanes = cores.granted() if device.type == "cpu" and not given.smoke else 1
    bench = Bench(p, scale(p, given.smoke, device.type), device, lanes)
    found = []
    for row in rows(bench):
        found.append(row)
        print(
            f"{row.kind} {row.mode}, batch {row.batch}: {row.images_per_second or row.outcome}",
            file=sys.stderr,
            flush=True,
        )
    made = report(bench, found, given.smoke)
    target = given.out / f"{slug(made['device'])}{'-smoke' * given.smoke}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{table(made)}\n\n-> {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
