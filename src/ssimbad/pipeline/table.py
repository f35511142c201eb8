"""The stage table: what each stage reads, writes and depends on, and in how many instances it exists.

dvc.yaml is generated from it, the content records are checked against it, and a test holds the Snakemake rules equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ssimbad.methods import registry
from ssimbad.pairing import settings
from ssimbad.params.tree import Params
from ssimbad.pipeline import inputs, paths, rows
from ssimbad.pipeline.inputs import Files
from ssimbad.pipeline.paths import Wildcards

COMMAND = "ssimbad stage"


@dataclass(frozen=True)
class Stage:
    """One row. `inputs` and `outputs` are functions of the parameters and of one instance's wildcards."""

    name: str
    run: str
    inputs: Callable[[Params, Wildcards], Files]
    outputs: Callable[[Params, Wildcards], dict[str, str]]
    params: Callable[[Params, Wildcards], tuple[str, ...]]
    each: Callable[[Params], list[Wildcards]] = lambda p: [{}]
    expensive: bool = False
    """Expensive stages depend on their version (workflow/versions.yaml) instead of on their code, and their finished
    results are kept by fingerprint."""
    batch: Callable[[Params, Wildcards], int] | None = None
    """Images of one step, which all devices of the job share; None: one process does the stage."""
    fetched: bool = False
    """Its outputs come from elsewhere and are accepted by their digests; nothing is computed."""


@dataclass(frozen=True)
class Instance:
    """One stage with its wildcards filled in. All paths are relative to the repository root."""

    stage: Stage
    wildcards: Wildcards
    inputs: Files
    outputs: dict[str, str]
    params: tuple[str, ...]
    upstream: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """`ssimbad-finetune-seed-0-cross`, or empty for a stage without instances."""
        seeded = {**self.wildcards, "seed": f"seed-{self.wildcards.get('seed')}"}
        return "-".join(str(seeded[k]) for k in self.wildcards)

    @property
    def name(self) -> str:
        """One name in the records, the logs, DVC and the logbook: `colorize-ssimbad-finetune-seed-0-cross`."""
        return "-".join(filter(None, (self.stage.name, self.key)))

    @property
    def command(self) -> str:
        return " ".join([COMMAND, self.stage.name, *(f"{k}={v}" for k, v in self.wildcards.items())])

    @property
    def record(self) -> str:
        return f"records/{self.name}.json"

    @property
    def marker(self) -> str:
        return f".state/{self.name}.ok"

    @property
    def files(self) -> list[str]:
        """All inputs, flat."""
        return [p for v in self.inputs.values() for p in ([v] if isinstance(v, str) else v)]


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


STAGES: tuple[Stage, ...] = (
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
        inputs=lambda p, w: {"copy": p.data.source.path} if getattr(p.data.source, "path", None) else {},
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


def instances(p: Params) -> list[Instance]:
    """Every stage instance of these parameters, upstream before downstream."""
    found = [Instance(s, w, s.inputs(p, w), s.outputs(p, w), s.params(p, w)) for s in STAGES for w in s.each(p)]
    makers = {file: i.name for i in found for file in i.outputs.values()}
    upstream = {i.name: tuple(sorted({makers[f] for f in i.files if f in makers})) for i in found}
    # A training may start from one of any slot, so that the order of the stages alone would not do.
    placed: dict[str, Instance] = {}

    def place(instance: Instance) -> None:
        if instance.name not in placed:
            for name in upstream[instance.name]:
                place(by_name[name])
            placed[instance.name] = replace(instance, upstream=upstream[instance.name])

    by_name = {i.name: i for i in found}
    for instance in found:
        place(instance)
    return list(placed.values())


def by_stage(found: list[Instance]) -> Iterator[tuple[str, list[Instance]]]:
    """Instances grouped by stage, in the table's order."""
    for stage in STAGES:
        group = [i for i in found if i.stage.name == stage.name]
        if group:
            yield stage.name, group
