"""Does every row learn: same-reference PSNR of each row, of its untrained network, and of two rows without a method.

    python benchmarks/learning.py

Needs a finished run (`make demo-all`) in the current directory. The untrained network is drawn anew by the seed 0, and
colours as the row does.
"""

import json
from pathlib import Path

import torch
from samplers import TestFaces
from tabulate import tabulate

from ssimbad.colorize import load
from ssimbad.errors import in_one_line
from ssimbad.methods import registry
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, rows
from ssimbad.runtime import devices


def main() -> None:
    p = params.load()
    faces, lines = TestFaces(p), []
    known: dict[str, float] = {}  # rows of one setup that colour alike have the same untrained network
    memory = torch.channels_last if p.training.channels_last else torch.contiguous_format
    for row in rows.listed(p):
        method, stage, seed = row["method"], row["stage"], row["seed"]
        summary = Path(paths.metrics({**row, "setting": "same"}, "json"))
        if not summary.is_file():  # not judged with a reference
            continue
        made = json.loads(Path(paths.weights(p, row, "json")).read_text())
        setup, colour = registry.setup_from(made["setup"]), p.methods[method].colour[stage]
        key = json.dumps([made["setup"], colour.model_dump(mode="json")])
        if key not in known:
            torch.manual_seed(0)
            fresh = registry.built(setup).to(devices.pick(), memory_format=memory).eval()
            load.fill(fresh, setup)
            known[key] = faces.psnr(fresh, setup.kind, colour)
        untrained = known[key]
        found = json.loads(summary.read_text())["metrics"]["psnr"]["value"]
        lines.append((method, stage, seed, untrained, found, found - untrained))
    print(
        tabulate(lines, ["method", "stage", "seed", "untrained", "trained", "gain"], floatfmt=".2f", tablefmt="github")
    )
    baselines = json.loads(Path("reports/metrics/baselines.json").read_text())["rows"]
    scores = {name: values["same"]["psnr"]["value"] for name, values in baselines.items() if "same" in values}
    print("\n".join(f"{name}: {score:.2f}" for name, score in scores.items() if score is not None))


if __name__ == "__main__":
    with in_one_line("learning.py"):
        main()
