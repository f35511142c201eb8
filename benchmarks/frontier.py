"""What each lever of the refined row gives for the minutes that it takes.

    python benchmarks/frontier.py [--png docs/images/frontier.png]

Needs a finished run of `make frontier` in the current directory. Minutes: wall time of a row's training and of the
pretraining that it started from, as their machine took them.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import pandas as pd
from tabulate import tabulate

from ssimbad.errors import UserError, in_one_line
from ssimbad.params import tree as params
from ssimbad.params.tree import Params
from ssimbad.reporting import cost
from ssimbad.reporting.compute import trainings
from ssimbad.reporting.style import PALETTE, save, styled

SETTINGS = {"same": "same reference", "cross-true": "cross, true answer"}


@dataclass(frozen=True)
class Point:
    """A row: its label, minutes of training, network calls back and forth, and PSNR in dB by setting."""

    label: str
    minutes: float
    passes: int
    psnr: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, help="draw it there, too")
    arguments = parser.parse_args()
    points = sorted(read(params.load()), key=lambda point: point.psnr["same"])
    lines = [(p.label, p.passes, p.minutes, p.psnr["same"], p.psnr["cross-true"]) for p in points]
    columns = ["row", "passes", "minutes", *(f"PSNR (dB), {words}" for words in SETTINGS.values())]
    print(tabulate(lines, columns, floatfmt=("", "", ".1f", ".2f", ".2f"), intfmt=",", tablefmt="github"))
    if arguments.png:
        draw(points, arguments.png)


def read(p: Params) -> Iterator[Point]:
    """The rows whose last training the run has made, mean of its seeds."""
    table = Path("reports/tables/compute.csv")
    if p.preset != "demo-frontier" or not table.is_file():
        raise UserError(f"{table}: not of the preset demo-frontier, or missing; run make frontier first")
    try:
        frame = pd.read_csv(table, usecols=["method", "stage", "setting", "metric", "value"])
    except ValueError as error:
        raise UserError(f"{table}: {error}; run make frontier again") from None
    if lost := set(frame["method"]) ^ set(p.methods):
        raise UserError(f"{table}: its rows are not those of params.yaml ({min(lost)}); run make frontier again")
    frame = frame[frame["metric"] == "psnr"].set_index(["method", "stage", "setting"])["value"]
    for name, stage in dict.fromkeys(key[:2] for key in frame.index):
        spent = trainings(p.methods, name, stage)
        minutes = sum(seconds(p, *one) for one in spent) / 60
        passes = sum(p.methods[one[0]].trainings[one[1]].images * chain(p, *one) for one in spent)
        psnr = {setting: float(frame[name, stage, setting]) for setting in SETTINGS}
        yield Point(p.methods[name].label, minutes, passes, psnr)


def chain(p: Params, name: str, stage: str) -> int:
    """Network calls per image of a training."""
    sampler = getattr(p.methods[name].trainings[stage].options, "sampler", None)
    return sampler.steps if sampler else 1


def seconds(p: Params, name: str, stage: str) -> float:
    """Wall time of a training, mean of its seeds. UserError: it has not been measured."""
    files = [Path(f"work/cost/{stage}-{name}-seed-{seed}.json") for seed in p.seeds]
    measured = [cost.read(file).seconds for file in files]
    if None in measured:
        raise UserError(f"{files[measured.index(None)]}: says no seconds")
    return fmean(s for s in measured if s is not None)


def draw(points: list[Point], png: Path) -> None:
    """dB against minutes, a panel per setting."""
    with styled():
        fig, axes = plt.subplots(1, len(SETTINGS), figsize=(9.5, 5), layout="constrained")
        for axis, (setting, words) in zip(axes, SETTINGS.items(), strict=True):
            for k, p in enumerate(points):
                marker = "os^Dv"[k // len(PALETTE)]
                axis.plot(p.minutes, p.psnr[setting], marker, color=PALETTE[k % len(PALETTE)], label=p.label)
            axis.set(title=words, xlabel="minutes of training, two cores", ylabel="PSNR (dB)")
            axis.set_xlim(0, 1.05 * max(p.minutes for p in points))
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        fig.suptitle(
            "What a lever of the refined row gives for its minutes (demo scale, 64×64, 64 test faces)", fontsize=10
        )
        save(fig, png)


if __name__ == "__main__":
    with in_one_line("frontier.py"):
        main()
