"""Stages from raw images to faces, sketches, references and masks."""

from __future__ import annotations

from ssimbad.faces.sources import registry as sources
from ssimbad.pipeline import inputs, paths, rows
from ssimbad.pipeline.stages.contract import Stage

STAGES = (
    Stage(
        name="raw",
        run="ssimbad.faces.raw:run",
        each=lambda p: [{}] if rows.has_answers(p) else [],
        inputs=lambda p, w: {},
        outputs=lambda p, w: {
            "zip": paths.EMBEDDED, "shapes": paths.SHAPES, **inputs.scenes(p, {"landscapes": paths.LANDSCAPES}),
        },
        params=lambda p, w: ("embedded", "data.train", "data.val", "data.test", "data.seed"),
    ),
    Stage(
        name="fetch",
        run="ssimbad.faces.fetch:run",
        each=lambda p: [{}] if rows.fetched(p) else [],
        inputs=lambda p, w: {"copy": path} if (path := sources.own_path(p.data.source)) else {},
        outputs=lambda p, w: {"zip": paths.FETCHED},
        params=lambda p, w: ("data.source", "data.max_pixels"),
        fetched=True,
    ),
    Stage(
        name="weights",
        run="ssimbad.features.stage:run",
        each=lambda p: [{}] if p.weights.enabled else [],
        inputs=lambda p, w: {},
        outputs=lambda p, w: {name: paths.feature_file(name) for name in rows.features(p)},
        params=lambda p, w: ("weights",),
        fetched=True,
    ),
    Stage(
        name="face_shard",
        run="ssimbad.faces.shards:run",
        each=rows.shards,
        inputs=lambda p, w: inputs.source(p),
        outputs=inputs.face_shard,
        params=lambda p, w: (*inputs.LOOKED, "data.shards"),
    ),
    Stage(
        name="faces",
        run="ssimbad.faces.stage:run",
        inputs=lambda p, w: {
            **inputs.source(p),
            **inputs.face_shards(p),
            **({"test_list": p.data.test_list} if p.data.test_list else {}),
        },
        outputs=lambda p, w: {
            **paths.splits("faces"),
            **inputs.given(p),
            "manifest": paths.MANIFEST,
            "quarantine": "data/faces/quarantine.csv",
        },
        params=lambda p, w: (
            *inputs.LOOKED, "data.test_list", "data.train", "data.val", "data.test", "data.seed", "data.drawings",
            "data.splits", "data.identity",
        ),
    ),
    Stage(
        name="sketch_shard",
        run="ssimbad.pairing.stage_sketches:run_shard",
        each=rows.shards,
        inputs=lambda p, w: {**paths.splits("faces"), "manifest": paths.MANIFEST},
        outputs=lambda p, w: {"sketches": paths.shard("sketches", w)},
        params=lambda p, w: ("sketches", "data.shards"),
    ),
    Stage(
        name="sketches",
        run="ssimbad.pairing.stage_sketches:run",
        inputs=lambda p, w: {
            **paths.splits("faces"),
            "manifest": paths.MANIFEST,
            **inputs.given(p),
            **inputs.sketch_shards(p),
        },
        outputs=lambda p, w: {
            **paths.splits("sketches"), **({"styles": paths.STYLED} if rows.styled(p) else {}),
        },
        params=lambda p, w: ("sketches",),
    ),
    Stage(
        name="references",
        run="ssimbad.pairing.stage_references:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "manifest": paths.MANIFEST,
            **inputs.embedded(p, {"shapes": paths.SHAPES}),
            **inputs.scenes(p, {"landscapes": paths.LANDSCAPES}),
            **({"pairs": p.references.pairs} if p.references.pairs else {}),
        },
        outputs=lambda p, w: {
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            "other": "data/references/other.npy",
            "pairing": "data/references/pairing.csv",
            **inputs.embedded(p, {"true": paths.TRUE}),
            **({"companions": paths.COMPANIONS} if rows.companions(p) else {}),
            **inputs.scenes(p, {"scene": "data/references/scene.npy"}),
        },
        params=lambda p, w: (
            "references", "data.native_size", "data.source", "data.max_pixels", "embedded.style", "embedded.size",
            "embedded.background",
        ),
    ),
    Stage(
        name="data_sheet",
        run="ssimbad.reporting.data_sheet:run",
        inputs=lambda p, w: {
            "train": "data/faces/train.npy",
            "test": "data/faces/test.npy",
            "train_sketches": "data/sketches/train.npy",
            "test_sketches": "data/sketches/test.npy",
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            "manifest": paths.MANIFEST,
            "pairing": "data/references/pairing.csv",
        },
        outputs=lambda p, w: {"sheet": "reports/figures/data_sheet.png"},
        params=lambda p, w: ("report.grid_images", "data.size"),
    ),
    Stage(
        name="masks",
        run="ssimbad.pairing.stage_masks:run",
        each=lambda p: [{}] if rows.masked(p) else [],
        inputs=lambda p, w: {
            **paths.splits("faces"),
            "manifest": paths.MANIFEST,
            "pairing": "data/references/pairing.csv",
            **({"shapes": paths.SHAPES} if rows.has_answers(p) else inputs.source(p)),
            **({"network": p.masks.network} if p.masks.network else {}),
        },
        outputs=lambda p, w: {
            **paths.splits("masks"), **{name: f"data/masks/{name}.npy" for name in ("same", "cross", "other")},
            **inputs.scenes(p, {"scene": "data/masks/scene.npy"}),
        },
        params=lambda p, w: (
            "references", "embedded.style", "embedded.size", "embedded.background", "data.native_size", "data.source",
            "data.max_pixels", "data.crop",
        ),
    ),
)  # fmt: skip
