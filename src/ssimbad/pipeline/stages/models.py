"""Stages of the schedule, and the trainings."""

from __future__ import annotations

from ssimbad.methods import registry
from ssimbad.pipeline import inputs, paths, rows
from ssimbad.pipeline.stages.contract import Stage


def _training(slot: str) -> Stage:
    """The stage that trains one slot of every method that has it."""
    return Stage(
        name=slot,
        run="ssimbad.training.stage:run",
        each=lambda p: [{"method": w["method"], "seed": w["seed"]} for w in rows.trained(p, slot)],
        inputs=lambda p, w: inputs.training_inputs(p, w, slot),
        outputs=lambda p, w: {
            name: paths.made({**w, "stage": slot}, ending)
            for name, ending in (("weights", "safetensors"), ("made", "json"), ("curve", "csv"))
        },
        params=lambda p, w: inputs.training_params(p, w, slot),
        expensive=True,
        batch=lambda p, w: p.methods[w["method"]].trainings[slot].batch,
    )


STAGES = (
    Stage(
        name="ssim_curves",
        run="ssimbad.schedule.stages:run_curves",
        inputs=lambda p, w: {"train": "data/faces/train.npy", "manifest": paths.MANIFEST},
        outputs=lambda p, w: {"curves": "reports/schedule/ssim_curves.csv"},
        params=lambda p, w: ("schedule", "noise"),
    ),
    Stage(
        name="select_phi",
        run="ssimbad.schedule.stages:run_select",
        inputs=lambda p, w: {
            "curves": "reports/schedule/ssim_curves.csv",
            "train": "data/faces/train.npy",
            "manifest": paths.MANIFEST,
        },
        outputs=lambda p, w: {
            "phi_star": paths.PHI_STAR,
            "r2": "reports/tables/r2.csv",
            **paths.figure("ssim_degradation", "noisy_grid", "r2"),
        },
        params=lambda p, w: ("schedule", "noise"),
    ),
    *map(_training, registry.slots()),
)  # fmt: skip
