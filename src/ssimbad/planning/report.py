"""`ssimbad plan`: what a run of the active parameters will cost, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from tabulate import tabulate

from ssimbad.errors import ParameterError, first_line, there
from ssimbad.methods import registry
from ssimbad.pairing import settings
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.methods import Method, Train, lender
from ssimbad.params.tree import Params
from ssimbad.pipeline import rows
from ssimbad.pipeline.paths import Wildcards
from ssimbad.planning import disk, flops, rates
from ssimbad.planning.flops import Work
from ssimbad.planning.rates import Rates

PACKAGES = "packages: several GB; 6.4 GB once installed (requirements.lock, Linux on x86-64, CUDA build of PyTorch)"


T = TypeVar("T")
_ONCE = Colour(sampler=Sampler(name="euler", steps=1))
"""One network call."""


@dataclass(frozen=True)
class Task:
    """One line of the table of work: `runs` instances of `images` images each, `operations` per image."""

    stage: str
    kind: str  # train, refine or sample: which rate applies
    runs: int
    images: int
    calls: int
    operations: int
    same_network: bool
    """Whether it is the network that benchmarks/gpu.py measures."""
    piece: int = 1
    """Images that one device, or one core of a CPU, takes at a time."""
    shared: bool = True
    """Whether several devices take part."""

    @property
    def total(self) -> int:
        return self.runs * self.images * self.operations

    def longest(self, workers: int) -> float:
        """Operations of all runs if each worker had as many as the one with the most; pieces are filled up."""
        pieces = -(-self.images // self.piece)
        return self.runs * -(-pieces // workers) * self.piece * workers * self.operations


@dataclass(frozen=True)
class Reference:
    """The network that benchmarks/gpu.py measures, in the size of these parameters; operations per image."""

    train: int  # one step of denoising
    call: int
    parameters: int


def show(p: Params, device: str | None, images_per_second: float | None, count: int = 1) -> None:
    """Print disk, work with the hours of so many devices, and downloads.

    Raises:
        ParameterError: see `rates.find`; or a number of devices below one.
    """
    if count < 1:
        raise ParameterError(f"--devices {count}: expected 1 or more")
    speed = rates.find(p, device, images_per_second)
    print("counting operations: a minute or two at paper scale", file=sys.stderr, flush=True)
    lacking: list[str] = []
    work, reference = counted(p, lacking), reference_of(p)
    planned = list(tasks(p, work, reference, lacking))
    print(f"Plan of params.yaml (preset {p.preset}); estimates, nothing has been run.\n")
    print(_disk(disk.lines(p, work)))
    print(_work(planned, speed, reference, count))
    if lacking:
        print(f"Not counted, and missing above: {', '.join(lacking)}.\n")
    print(_downloads(p))


def counted(p: Params, lacking: list[str]) -> dict[tuple[str, str], Work]:
    """{(method, slot): the work of its training}, of those whose networks can run without data; names of the others
    are added to `lacking`."""
    every = [(name, slot) for name, method in p.methods.items() for slot in method.trainings]
    found = {at: _tried(" ".join(at), lacking, partial(flops.training, p, *at)) for at in every}
    return {at: work for at, work in found.items() if work}


def _tried(what: str, lacking: list[str], count: Callable[[], T]) -> T | None:
    """What was counted, or one name more that is lacking."""
    try:
        return count()
    except Exception as error:  # whatever a new method may do to tensors without data
        lacking.append(f"{what} ({type(error).__name__}: {first_line(error)})")
        return None


def reference_of(p: Params) -> Reference:
    """The network of these parameters, trained for denoising and called once."""
    train = Train(objective="denoising", images=1, batch=1, learning_rate=1.0, warmup_images=0)
    block = Method.model_validate({"kind": "edm", "label": "reference", "pretrain": train.model_dump()})
    alone = p.model_copy(update={"methods": {"reference": block}})
    work = flops.training(alone, "reference", "pretrain")
    return Reference(work.train, flops.colouring(alone, "reference", _ONCE, "pretrain"), work.parameters)


def tasks(p: Params, work: dict[tuple[str, str], Work], reference: Reference, lacking: list[str]) -> Iterator[Task]:
    """What runs on a GPU; of what cannot be counted the names are added to `lacking`."""
    seeds = len(p.seeds)
    for (name, slot), w in work.items():
        train, same = p.methods[name].trainings[slot], w.parameters == reference.parameters
        row = f"{name} {slot}"
        kind = "refine" if w.chain > 1 else "train"
        yield Task(f"{row}: train", kind, seeds, train.images, w.chain, w.train, same)
        if train.validation and train.validation.colour:
            judged = -(-train.images // train.validation.every) * p.data.val
            yield from _sampling(
                p, f"{row}: validate", name, slot, train.validation.colour, (seeds, judged), same, lacking
            )
    for w in [w for w in rows.listed(p) if w["seed"] == p.seeds[0]]:
        yield from _of_row(p, w, work.get((lender(p.methods, w["method"]), w["stage"])), reference, lacking)
    for w in rows.reversed_(p):
        if trained := work.get((w["method"], w["stage"])):
            yield from _of_reverse(p, w, trained.parameters == reference.parameters, lacking)


def _of_row(p: Params, w: Wildcards, trained: Work | None, reference: Reference, lacking: list[str]) -> Iterator[Task]:
    if trained is None:
        return
    name, stage, seeds = w["method"], w["stage"], len(p.seeds)
    colour, row = p.methods[name].colour[stage], f"{name} {stage}"
    same = trained.parameters == reference.parameters
    shown = len(settings.coloured(rows.takes(p, w), rows.has(p)))
    colouring = _sampling(p, f"{row}: colorize", name, stage, colour, (seeds * shown, p.data.test), same, lacking)
    yield from (replace(task, piece=p.colorize.chunk) for task in colouring)
    if p.report.nfe and w in rows.curves(p):
        asked, kind = p.report.nfe, p.methods[name].kind
        own = [s.name for s in asked.samplers if s.name in rows.kind(p, w).samplers]
        costs = [registry.cost(kind, sampler, colour.options) for sampler in own]
        each = sum(cost.of(steps) for cost in costs for calls in asked.calls if (steps := cost.most_steps(calls)))
        yield from _several(p, f"{row}: nfe-figure", w, asked.images, each, same, lacking)
    if p.report.spread and w in rows.swept(p):
        asked, one = p.report.spread, colour.by.model_copy(update={"steps": 1})
        each = registry.nfe(p.methods[name].kind, colour.model_copy(update={"sampler": one}))
        each += (asked.samples - 1) * registry.nfe(p.methods[name].kind, colour)
        yield from _several(p, f"{row}: spread", w, asked.images, each, same, lacking)


def _of_reverse(p: Params, w: Wildcards, same: bool, lacking: list[str]) -> Iterator[Task]:
    """Two variances: of samples and those that are watched, and of faces on both ways back; all by as many steps."""
    asked, row = there(p.report.reverse), f"{w['method']} {w['stage']}: reverse"
    options, back = rows.kind(p, w).ColourOptions(), min(asked.images, p.data.test)
    for what, steps, runs, images in (
        ("samples", asked.steps, 2, asked.samples + asked.trajectories),
        ("faces back from the last timestep", asked.steps, 2 * len(asked.start), back),
        *((f"faces back from {start:g} T", asked.steps_from(start), 2, back) for start in asked.start),
    ):
        colour = Colour(sampler=Sampler(name="ancestral", steps=steps), options=options)
        found = _sampling(p, f"{row}, {what}", w["method"], w["stage"], colour, (runs, images), same, lacking)
        yield from (replace(task, shared=False) for task in found)


def _sampling(
    p: Params, what: str, name: str, stage: str, colour: Colour, runs: tuple[int, int], same: bool, lacking: list[str]
) -> Iterator[Task]:
    calls = registry.nfe(p.methods[name].kind, colour)
    if operations := _tried(what, lacking, lambda: flops.colouring(p, name, colour, stage)):
        yield Task(what, "sample", *runs, calls, operations * colour.samples, same)


def _several(
    p: Params, what: str, w: Wildcards, images: int, calls: int, same: bool, lacking: list[str]
) -> Iterator[Task]:
    """So many network calls, whatever the sampler: each as one step of the row's own."""
    block = p.methods[w["method"]]
    colour = block.colour[w["stage"]]
    single = colour.model_copy(update={"sampler": colour.by.model_copy(update={"steps": 1})})
    if operations := _tried(what, lacking, lambda: flops.colouring(p, w["method"], single, w["stage"])):
        operations = operations * calls // registry.nfe(block.kind, single)
        images = min(images, p.data.test)
        yield Task(what, "sample", len(p.seeds), images, calls, operations, same, shared=False)


def hours(task: Task, speed: Rates, reference: Reference, count: int = 1) -> float | None:
    """Hours of `count` devices, by the operations per second of the measurement that is most like the task.

    What several devices exchange is not counted.
    """
    count = count if task.shared else 1
    if speed.told:
        return task.longest(count) / (count * there(speed.train) * reference.train) / 3600
    if not task.same_network:
        return None
    measured = {
        "train": speed.train and speed.train * reference.train,
        # With checkpointing each call of the chain runs forward once more.
        "refine": speed.refine and speed.refine[0] * speed.refine[1] * (reference.train + reference.call),
        "sample": speed.sample and speed.sample[0] * speed.sample[1] * reference.call,
    }[task.kind]
    return task.longest(count * speed.lanes) / (count * measured) / 3600 if measured else None


def size(count: int | None) -> str:
    """Bytes in decimal units, as disks are sold."""
    if count is None:
        return "unknown"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _disk(lines: list[disk.Line]) -> str:
    rows = [(line.what, ("≤ " if line.most else "") + size(line.bytes), line.note) for line in lines]
    kept = [line for line in lines if not line.passing]
    total = sum(line.bytes or 0 for line in kept)
    unknown = any(line.bytes is None for line in kept)
    most = any(line.most for line in kept)
    bound = "about " if unknown or not most else "≤ "
    rows.append(("total", bound + size(total) + (" and what is unknown" if unknown else ""), "without states"))
    note = "DVC's cache holds the outputs once more where the file system cannot share blocks (reflink)."
    return f"{tabulate(rows, ['disk', 'size', ''], disable_numparse=True)}\n{note}\n"


def _work(found: list[Task], speed: Rates, reference: Reference, count: int) -> str:
    rows, known, lacking = [], 0.0, False
    for task in found:
        needed = hours(task, speed, reference, count)
        known, lacking = known + (needed or 0), lacking or needed is None
        rows.append(
            (
                *(task.stage, task.runs, f"{task.images:,}", task.calls, f"{task.operations / 1e12:.4g}"),
                *(f"{task.total / 1e15:,.4g}", "unknown" if needed is None else f"{needed:,.3g}"),
            )
        )
    total = f"{sum(t.total for t in found) / 1e15:,.4g}"
    sum_of_hours = ("unknown" if not known else f"at least {known:,.3g}") if lacking else f"{known:,.3g}"
    rows.append(("total", "", "", "", "", total, sum_of_hours))
    headers = ["work", "runs", "images each", "calls", "TFLOP/image", "PFLOP in all", "hours"]
    body = tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 6))
    note = "Feature networks (losses, evaluate) and the stages on CPUs are not counted"
    note += "." if count == 1 else f", nor what {count} devices exchange."
    return f"{body}\nHours of {'one device' if count == 1 else f'{count} devices'}: {speed.source}. {note}\n"


def _downloads(p: Params) -> str:
    total, found = disk.downloads(p)
    rows = [(f"data/weights: {name}", size(count) if count else "none", where) for name, count, where in found]
    rows = rows or [("data/weights", "none", "weights.enabled: false")]
    if len(rows) > 1:
        rows.append(("feature networks in all", size(total), ""))
    return f"{tabulate(rows, ['downloads', 'size', ''], disable_numparse=True)}\n{PACKAGES}"
