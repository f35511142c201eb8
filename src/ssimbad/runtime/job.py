"""What a stage function knows of the run it is part of."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from ssimbad import artifacts
from ssimbad.errors import legible
from ssimbad.runtime.distributed import ALONE, ProcessGroup
from ssimbad.tracking.spool import Spool

COST = Path("work/cost")
_LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {elapsed} gone, {remaining} left{postfix}"


@dataclass(frozen=True)
class Job:
    """One stage instance at work.

    `scratch` is a folder of its own that survives kills and is no output; `threads` is the number of cores granted;
    `group` are the processes that share a training, of which only the leader speaks; `confirm()` is to be called before
    something is saved in `scratch`: it raises UserError when an input was touched since the stage began; `costs` is the
    folder in which costs are noted.
    """

    stage: str
    scratch: Path
    threads: int = 1
    method: str = ""
    of: str = ""
    seed: int | None = None
    setting: str = ""
    shard: int | None = None
    log: Spool | None = None
    group: ProcessGroup = ALONE
    confirm: Callable[[], None] = lambda: None
    costs: Path = COST

    @property
    def name(self) -> str:
        """For example `colorize-ssimbad-finetune-seed-0-cross`; `raw` alone for a stage without instances."""
        seed = None if self.seed is None else f"seed-{self.seed}"
        shard = None if self.shard is None else str(self.shard)
        return "-".join(filter(None, (self.stage, self.method, self.of, seed, self.setting, shard)))

    def block(self, count: int, shards: int) -> slice:
        """The part that is this shard's of `count` things in a row, of which `shards` jobs have as many each."""
        if self.shard is None:
            raise ValueError(f"{self.name}: no shard")
        return slice(count * self.shard // shards, count * (self.shard + 1) // shards)

    def say(self, text: str) -> None:
        """One line in the log."""
        if self.group.is_leader:
            _write(sys.stdout, text)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values for the logbook; they are no outputs."""
        if self.log:
            self.log.metrics(step, values)

    def tags(self, **values: object) -> None:
        if self.log:
            self.log.tags(**values)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """(H, W, 3) uint8 for the logbook, kept in `scratch`; it is no output, and a full disk costs the picture."""
        if self.log:
            path = self.scratch / "pictures" / f"{name}-{step:012d}.png"
            self.log.picture(path, artifacts.png_bytes(image))

    def note_cost(self, **facts: object) -> None:
        """Times and devices, for the cost table: kept outside the outputs, which hold nothing of the kind."""
        whose = {
            "fingerprint": self.scratch.name,
            "method": self.method,
            "stage": self.of or self.stage,
            "seed": self.seed,
            "setting": self.setting,
        }
        artifacts.write_json(self.costs / f"{self.name}.json", {**whose, **facts})

    @contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator[tqdm]:
        """Done of total, rate and time left: a bar on a terminal, a line every ten seconds in a log file."""
        terminal = sys.stderr.isatty()
        with tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            desc=self.name,
            mininterval=0.2 if terminal else 10,
            maxinterval=0.5 if terminal else 10,
            dynamic_ncols=terminal,
            bar_format=None if terminal else _LINE,
            file=sys.stderr if terminal else _LineEnds(),
            leave=True,
            disable=not self.group.is_leader,
        ) as bar:
            yield bar


class _LineEnds:
    """stderr for log files: each redraw of the bar becomes a line of its own."""

    def write(self, text: str) -> None:
        if text := text.replace("\r", "").strip():
            _write(sys.stderr, text)

    def flush(self) -> None:
        pass


def _write(stream: TextIO, text: str) -> None:
    # SLURM's SIGTERM also ends the `tee` that reads this: a training must live on until its state is saved.
    try:
        print(legible(text), file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
