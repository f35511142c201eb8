"""Stages of tables and figures, and what is computed for them alone."""

from __future__ import annotations

from ssimbad.pairing import settings
from ssimbad.pipeline import inputs, paths, rows
from ssimbad.pipeline.stages.contract import Stage

STAGES = (
    Stage(
        name="tables",
        run="ssimbad.reporting.tables:run",
        inputs=lambda p, w: {
            **inputs.evaluations(p),
            "baselines": "reports/metrics/baselines.json",
            "r2": "reports/tables/r2.csv",
            "made": [paths.made(t, "json") for t in rows.trained(p)],
        },
        outputs=lambda p, w: {
            **paths.table("main", "reference_use", "differences"),
            "r2_md": "reports/tables/r2.md",
            "r2_tex": "reports/tables/r2.tex",
        },
        params=lambda p, w: ("evaluation", "preset", "seeds", "schedule.confidence", *inputs.said_of_rows(p)),
    ),
    Stage(
        name="measures",
        run="ssimbad.reporting.measures:run",
        each=lambda p: [{}] if rows.measured(p) else [],
        inputs=lambda p, w: {"made": [paths.made(t, "json") for t in rows.measured(p)]},
        outputs=lambda p, w: paths.table("measures"),
        params=lambda p, w: ("data.size", "data.val", "preset", "evaluation.confidence", *inputs.labels(p)),
    ),
    Stage(
        name="figures",
        run="ssimbad.reporting.figures:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "sketches": "data/sketches/test.npy",
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            **inputs.embedded(p, {"true": paths.TRUE}),
            **inputs.scenes(p, {"scene": "data/references/scene.npy"}),
            "manifest": paths.MANIFEST,
            "pairing": "data/references/pairing.csv",
            "images": [paths.coloured(w) for w in rows.coloured_rows(p) if w["setting"] in settings.PICTURED],
            "curves": [paths.made(t, "csv") for t in rows.trained(p)],
        },
        outputs=lambda p, w: paths.figure(*(f"qualitative_{s}" for s in rows.pictured(p)), "training_curves"),
        params=lambda p, w: ("report.grid_images", "data.size", "data.source", "preset", *inputs.labels(p)),
    ),
    Stage(
        name="modes",
        run="ssimbad.reporting.modes:run",
        each=lambda p: [{}] if p.report.modes else [],
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "sketches": "data/sketches/test.npy",
            **{s: f"data/references/{s}.npy" for s in dict.fromkeys(w["setting"] for w in rows.moded(p))},
            **inputs.embedded(p, {"true": paths.TRUE}),
            "manifest": paths.MANIFEST,
            "images": [paths.coloured(w) for w in rows.moded(p)],
        },
        outputs=lambda p, w: paths.figure("modes"),
        params=lambda p, w: ("report.modes", "data.size", "preset", *inputs.labels(p)),
    ),
    Stage(
        name="ladder",
        run="ssimbad.reporting.ladder:run",
        each=lambda p: [{}] if p.report.ladder else [],
        inputs=lambda p, w: inputs.evaluations(p, rows.rungs(p)),
        outputs=lambda p, w: paths.table("ladder"),
        params=lambda p, w: (
            "evaluation", "preset", "report.ladder",
            *(f"methods.{m}.{key}" for m in p.report.ladder for key in ("label", "kind", "config", "pretrain.images")),
        ),
    ),
    Stage(
        name="sweep",
        run="ssimbad.reporting.sweep:run",
        each=lambda p: [{}] if p.report.sweep else [],
        inputs=lambda p, w: inputs.evaluations(p, rows.points(p)),
        outputs=lambda p, w: paths.table("sweep"),
        params=lambda p, w: ("evaluation", "preset", "report.sweep", *(f"methods.{m}" for m in p.report.sweep)),
    ),
    Stage(
        name="compute",
        run="ssimbad.reporting.compute:run",
        inputs=lambda p, w: inputs.evaluations(p),
        outputs=lambda p, w: paths.table("compute"),
        params=lambda p, w: (
            "evaluation.confidence", "preset", "methods", "network", "noise", "schedule.saturation", "data.size",
            *(f"references.{key}" for key in ("low", "high", "shift", "decimals", "rotation")),
        ),
    ),
    Stage(
        name="chain_steps",
        run="ssimbad.reporting.chain_steps:run",
        each=lambda p: [{}] if p.report.chain_steps else [],
        inputs=lambda p, w: {"compute": "reports/tables/compute.csv"},
        outputs=lambda p, w: paths.figure("chain_steps"),
        params=lambda p, w: ("report.chain_steps", "preset", "data.size", *inputs.labels(p)),
    ),
    Stage(
        name="nfe",
        run="ssimbad.colorize.nfe:run",
        each=lambda p: rows.curves(p) if p.report.nfe else [],
        inputs=inputs.sampled_inputs,
        outputs=lambda p, w: {"values": paths.nfe_values(w)},
        params=lambda p, w: (
            "colorize", "data.size", "training.precision", "training.channels_last", f"{rows.how(w)}.options",
            "evaluation", "report.nfe",
        ),
        expensive=True,
    ),
    Stage(
        name="nfe_figure",
        run="ssimbad.reporting.nfe:run",
        each=lambda p: [{}] if p.report.nfe and rows.curves(p) else [],
        inputs=lambda p, w: {"values": [paths.nfe_values(t) for t in rows.curves(p)]},
        outputs=lambda p, w: {**paths.table("nfe"), **paths.figure("nfe")},
        params=lambda p, w: ("report.nfe", "data.size", "preset", *inputs.labels(p)),
    ),
    Stage(
        name="spread",
        run="ssimbad.colorize.spread:run",
        each=lambda p: rows.swept(p) if p.report.spread else [],
        inputs=lambda p, w: {**inputs.sampled_inputs(p, w), "images": paths.coloured({**w, "setting": "same"})},
        outputs=lambda p, w: {"values": paths.spread_values(w)},
        params=lambda p, w: (
            *inputs.colouring_params(w), "evaluation", "report.spread",
        ),
        expensive=True,
    ),
    Stage(
        name="spread_table",
        run="ssimbad.reporting.spread:run",
        each=lambda p: [{}] if p.report.spread and rows.swept(p) else [],
        inputs=lambda p, w: {"values": [paths.spread_values(t) for t in rows.swept(p)]},
        outputs=lambda p, w: paths.table("spread"),
        params=lambda p, w: ("evaluation", "report.spread", "data.size", "preset", *inputs.labels(p)),
    ),
    Stage(
        name="reverse",
        run="ssimbad.colorize.reverse:run",
        each=rows.reversed_,
        inputs=lambda p, w: {
            **{key: paths.made(w, ending) for key, ending in (("weights", "safetensors"), ("made", "json"))},
            "test": "data/faces/test.npy",
            "manifest": paths.MANIFEST,
        },
        outputs=lambda p, w: {"pictures": paths.reverse(w, "zip"), "values": paths.reverse(w, "csv")},
        params=lambda p, w: (
            "colorize", "data.size", "training.precision", "training.channels_last", "evaluation", "report.reverse",
        ),
        expensive=True,
    ),
    Stage(
        name="reverse_figures",
        run="ssimbad.reporting.reverse:run",
        each=lambda p: [{}] if rows.reversed_(p) else [],
        inputs=lambda p, w: {
            key: paths.reverse(rows.reversed_(p)[0], ending) for key, ending in (("pictures", "zip"), ("values", "csv"))
        },
        outputs=lambda p, w: {
            **paths.table("reverse"),
            **paths.figure(*(f"reverse_{name}" for name in ("samples_beta", "samples_posterior", "trajectories_beta",
                                                            "trajectories_posterior", "recover_whole",
                                                            "recover_matched"))),
        },
        params=lambda p, w: ("report.reverse", "data.size", "preset", *inputs.labels(p)),
    ),
)  # fmt: skip
