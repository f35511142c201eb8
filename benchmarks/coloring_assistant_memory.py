"""Memory of the Coloring Assistant's finetuning: one batch, an optimiser step after every n of S steps of the sampler.

    python benchmarks/coloring_assistant_memory.py [--every 1 5 25] [--steps 25 50] [--base 16] [--size 64] [--batch 4]

For each n and S in a process of its own: what the graph holds for the backward pass at its peak, counted tensor by
tensor, and the process's peak resident size above what it had before the batch. Linux, one thread.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any


class Saved:
    """Bytes that the graph holds for the backward pass: `live` and, since the beginning, at most (`peak`).

    Each storage counts once, however many operations save it; parameters do not count. As a context manager around
    the forward passes; what is saved is let go with the graph.
    """

    def __init__(self, parameters: Any) -> None:
        import torch

        self._outside = {p.untyped_storage().data_ptr() for p in parameters}
        self._held: Counter[int] = Counter()
        self.live = self.peak = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(self, t), lambda held: held.tensor)

    def __enter__(self) -> "Saved":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def change(self, storage: Any, by: int) -> None:
        place = storage.data_ptr()
        if place in self._outside:
            return
        before, self._held[place] = self._held[place] > 0, self._held[place] + by
        self.live += ((self._held[place] > 0) - before) * storage.nbytes()
        self.peak = max(self.peak, self.live)


class _Held:
    """A saved tensor, as long as the graph wants it."""

    def __init__(self, saved: Saved, tensor: Any) -> None:
        self.saved, self.tensor = saved, tensor.detach()  # with its own graph it would keep itself alive
        saved.change(self.tensor.untyped_storage(), +1)

    def __del__(self) -> None:
        self.saved.change(self.tensor.untyped_storage(), -1)


def walked(base: int, size: int, batch: int, steps: int, every: int) -> Saved:
    """One batch of the finetuning with its optimiser steps: what its graph held."""
    import torch

    from ssimbad.methods import coloring_assistant as ca
    from ssimbad.methods.contract import Batch, Plan, Setup
    from ssimbad.params.base import Sampler
    from ssimbad.training.feed import BatchRng, Shard

    torch.manual_seed(0)
    model = ca.build(Setup("coloring_assistant", ca.Config(base=base), size))
    image = torch.rand(batch, 3, size, size) * 2 - 1
    given = Batch(target=image, sketch=image[:, :1], reference=image.flip(3))
    plan = Plan("reference", ca.Reference(every_n=every, sampler=Sampler(name="ddim", steps=steps)))
    [player] = ca.METHOD.parties(model, plan, None)
    optimiser, saved = torch.optim.AdamW(model.parameters(), lr=1e-5), Saved(model.parameters())
    with saved:
        for losses in player.losses(given, BatchRng(0, batch, Shard(), torch.device("cpu"))):
            optimiser.zero_grad()
            losses.loss.backward()
            optimiser.step()
    return saved


def _measured(arguments: argparse.Namespace) -> dict[str, float]:
    """MiB of the graph and of the process, and seconds."""
    import time

    import torch

    torch.set_num_threads(1)
    size = (arguments.base, arguments.size, arguments.batch)
    walked(4, 16, 1, steps=1, every=1)  # what is loaded once
    before, started = _resident("VmRSS"), time.perf_counter()
    saved = walked(*size, arguments.steps[0], arguments.every[0])
    seconds = time.perf_counter() - started
    return {"graph": saved.peak / 2**20, "resident": _resident("VmHWM") - before, "seconds": seconds}


def _resident(name: str) -> float:
    """MiB of this process, by Linux."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, nargs="+", default=[1, 5, 25])
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(_measured(arguments)))
        return
    same = [f"--{name}={getattr(arguments, name)}" for name in ("base", "size", "batch")]
    print(f"| n | S | graph, MiB | resident, MiB | seconds |\n|{'---|' * 5}")
    for steps in arguments.steps:
        for every in arguments.every:
            own = ["--alone", f"--every={every}", f"--steps={steps}", *same]
            done = subprocess.run([sys.executable, __file__, *own], check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            print(f"| {every} | {steps} | {' | '.join(f'{v:.1f}' for v in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
