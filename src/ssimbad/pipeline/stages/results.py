"""Stages that colour the test set and judge the answers."""

from __future__ import annotations

from ssimbad.pairing import settings
from ssimbad.pipeline import inputs, paths, rows
from ssimbad.pipeline.stages.contract import Stage

STAGES = (
    Stage(
        name="colorize",
        run="ssimbad.colorize.stage:run",
        each=rows.coloured_rows,
        inputs=lambda p, w: {
            **inputs.weights(p, w),
            **inputs.shown(p, w),
            **inputs.restored(p, w),
            "manifest": paths.MANIFEST,
        },
        outputs=lambda p, w: {"images": paths.coloured(w)},
        params=lambda p, w: inputs.colouring_params(w),
        expensive=True,
    ),
    Stage(
        name="face_features",
        run="ssimbad.metrics.face_features:run",
        each=lambda p: [{}] if rows.set_features(p) else [],
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "manifest": paths.MANIFEST,
            **{name: paths.feature_file(name) for name in rows.set_features(p)},
        },
        outputs=lambda p, w: {name: paths.face_features(name) for name in rows.set_features(p)},
        params=lambda p, w: ("data.size",),
        expensive=True,
    ),
    Stage(
        name="evaluate",
        run="ssimbad.metrics.evaluate:run",
        each=rows.judged_rows,
        inputs=lambda p, w: {
            "images": paths.coloured(w),
            **inputs.judged_by(p, w),
            "manifest": paths.MANIFEST,
            **(inputs.seen(p, w) if settings.SETTINGS[w["setting"]].sets else {}),
            **inputs.embedded(p, inputs.true_masks(p)),
            **inputs.feature_weights(p),
            **(inputs.face_features(p) if settings.SETTINGS[w["setting"]].sets else {}),
        },
        outputs=lambda p, w: {"images": paths.metrics(w, "csv"), "summary": paths.metrics(w, "json")},
        params=lambda p, w: ("evaluation", "data.size", "sketches", "weights.enabled"),
    ),
    Stage(
        name="baselines",
        run="ssimbad.metrics.baselines:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "train": "data/faces/train.npy",
            "manifest": paths.MANIFEST,
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            "sketches": "data/sketches/test.npy",
            **inputs.embedded(p, {"true": paths.TRUE, **inputs.true_masks(p)}),
            **inputs.scenes(p, {"scene": "data/references/scene.npy"}),
            **inputs.feature_weights(p),
            **inputs.face_features(p),
        },
        outputs=lambda p, w: {"summary": "reports/metrics/baselines.json"},
        params=lambda p, w: ("evaluation", "data.size", "sketches"),
    ),
)  # fmt: skip
