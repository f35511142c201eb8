"""The stage table: what each stage reads, writes and depends on, and in how many instances it exists.

dvc.yaml is generated from it, the content records are checked against it, and a test holds the Snakemake rules equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ssimbad.methods import registry
from ssimbad.params.tree import Params

Files = dict[str, str | list[str]]
Wildcards = dict[str, Any]

COMMAND = "ssimbad stage"
EMBEDDED = "data/raw/embedded.zip"
ANSWERS = "data/raw/cross_true.zip"
MANIFEST = "data/faces/manifest.csv"
TRUE = "data/references/cross_true.npy"
PHI_STAR = "reports/schedule/phi_star.json"

# What `colorize` is given as reference for each evaluated setting.
SHOWN = {"same": "same", "cross": "cross", "cross-true": "cross", "cross-other": "other"}


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


def trained(p: Params) -> list[Wildcards]:
    """(method, stage, seed) of every row that the parameters ask for."""
    return [
        {"method": name, "stage": stage, "seed": seed}
        for name, method in p.methods.items()
        for stage in ("pretrain", "finetune")
        if getattr(method, stage)
        for seed in p.seeds
    ]


def shown(p: Params) -> list[str]:
    """Reference settings in which the test set is coloured."""
    return ["same", "cross", "other"] if p.data.source == "embedded" else ["same", "cross"]


def judged(p: Params) -> list[str]:
    """Settings in which the coloured test set is evaluated."""
    return list(SHOWN) if p.data.source == "embedded" else ["same", "cross"]


def source(p: Params) -> str:
    """Where the raw faces lie."""
    return EMBEDDED if p.data.source == "embedded" else str(p.data.path)


def model(w: Wildcards, ending: str = "safetensors") -> str:
    return f"models/{w['method']}/{w['stage']}/seed-{w['seed']}.{ending}"


def coloured(w: Wildcards) -> str:
    return f"outputs/{w['method']}/{w['stage']}/seed-{w['seed']}/{SHOWN.get(w['setting'], w['setting'])}.zip"


def metrics(w: Wildcards, ending: str) -> str:
    return f"reports/metrics/{w['method']}/{w['stage']}/seed-{w['seed']}/{w['setting']}.{ending}"


def nfe_values(w: Wildcards) -> str:
    return f"reports/nfe/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def spread_values(w: Wildcards) -> str:
    return f"reports/spread/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def sampled(p: Params) -> list[Wildcards]:
    """Rows that colour by a sampler."""
    return [w for w in trained(p) if registry.module(p.methods[w["method"]].kind).SAMPLED]


def rungs(p: Params) -> list[Wildcards]:
    """Rows of the ladder."""
    return [{"method": m, "stage": "pretrain", "seed": seed} for m in p.report.ladder for seed in p.seeds]


def _split(folder: str) -> dict[str, str]:
    return {name: f"data/{folder}/{name}.npy" for name in ("train", "val", "test")}


def _embedded(p: Params, files: Files) -> Files:
    return files if p.data.source == "embedded" else {}


def _figure(*names: str) -> dict[str, str]:
    return {f"{n}_{kind}": f"reports/figures/{n}.{kind}" for n in names for kind in ("png", "pdf")}


def _table(*names: str) -> dict[str, str]:
    return {
        key: f"reports/tables/{n}.{kind}"
        for n in names
        for key, kind in ((n, "csv"), (f"{n}_md", "md"), (f"{n}_tex", "tex"))
    }


def feature_file(name: str) -> str:
    return f"data/weights/{name}.pth"


def loss_features(p: Params) -> list[str]:
    """Feature networks that the training losses look through."""
    stages = [(m, s) for m in p.methods.values() for s in ("pretrain", "finetune")]
    return sorted({f for m, s in stages if (f := registry.features(m, s))} if p.weights.enabled else ())


def _feature_weights(p: Params) -> dict[str, str]:
    return {n: feature_file(n) for n in ("inception", "alexnet")} if p.weights.enabled else {}


def _labels(p: Params) -> list[str]:
    return [f"methods.{name}.label" for name in p.methods]


def _needs_phi(p: Params, method: str) -> bool:
    return p.methods[method].config.get("phi") == "selected"


def _training_inputs(p: Params, w: Wildcards, stage: str) -> Files:
    method = p.methods[w["method"]]
    train = getattr(method, stage)
    faces = {**_split("faces")}
    sketches = {f"{k}_sketches": v for k, v in _split("sketches").items()}
    files: Files = {
        "train": faces["train"],
        "train_sketches": sketches["train_sketches"],
        "manifest": MANIFEST,
    }
    if train.validate_images:
        files |= {"val": faces["val"], "val_sketches": sketches["val_sketches"]}
    if _needs_phi(p, w["method"]):
        files["phi_star"] = PHI_STAR
    if train.start:
        files["start"] = model({"method": train.start, "stage": "pretrain", "seed": w["seed"]})
    if p.weights.enabled and (features := registry.features(method, stage)):
        files[features] = feature_file(features)
    return files


def _training_outputs(w: Wildcards, stage: str) -> dict[str, str]:
    row = {**w, "stage": stage}
    return {"weights": model(row), "made": model(row, "json"), "curve": model(row, "csv")}


def _training_params(w: Wildcards, stage: str) -> tuple[str, ...]:
    method = f"methods.{w['method']}"
    return (
        "data.size", "noise", "network", "training", "schedule.saturation", "references",
        f"{method}.kind", f"{method}.config", f"{method}.{stage}",
    )  # fmt: skip


def _training_each(p: Params, stage: str) -> list[Wildcards]:
    return [{"method": w["method"], "seed": w["seed"]} for w in trained(p) if w["stage"] == stage]


STAGES: tuple[Stage, ...] = (
    Stage(
        name="raw",
        run="ssimbad.faces.raw:run",
        each=lambda p: [{}] if p.data.source == "embedded" else [],
        inputs=lambda p, w: {},
        outputs=lambda p, w: {"zip": EMBEDDED, "shapes": "data/raw/embedded.json", "answers": ANSWERS},
        params=lambda p, w: ("embedded", "data.train", "data.val", "data.test", "data.seed", "references.seed"),
    ),
    Stage(
        name="weights",
        run="ssimbad.features.stage:run",
        each=lambda p: [{}] if p.weights.enabled else [],
        inputs=lambda p, w: {},
        outputs=lambda p, w: _feature_weights(p) | {n: feature_file(n) for n in loss_features(p)},
        params=lambda p, w: ("weights",),
        fetched=True,
    ),
    Stage(
        name="faces",
        run="ssimbad.faces.stage:run",
        inputs=lambda p, w: {"raw": source(p), **({"test_list": p.data.test_list} if p.data.test_list else {})},
        outputs=lambda p, w: {
            **_split("faces"),
            "manifest": MANIFEST,
            "quarantine": "data/faces/quarantine.csv",
        },
        params=lambda p, w: (
            "data.source", "data.path", "data.test_list", "data.native_size", "data.train", "data.val", "data.test",
            "data.seed", "data.max_pixels",
        ),
    ),
    Stage(
        name="sketches",
        run="ssimbad.pairing.stage_sketches:run",
        inputs=lambda p, w: {
            **_split("faces"),
            "manifest": MANIFEST,
            **({"raw": source(p)} if p.data.source == "folder" else {}),
        },
        outputs=lambda p, w: _split("sketches"),
        params=lambda p, w: ("sketches", "data.native_size", "data.source", "data.max_pixels"),
    ),
    Stage(
        name="references",
        run="ssimbad.pairing.stage_references:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "manifest": MANIFEST,
            **_embedded(p, {"answers": ANSWERS}),
        },
        outputs=lambda p, w: {
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            "other": "data/references/other.npy",
            "pairing": "data/references/pairing.csv",
            **_embedded(p, {"true": TRUE}),
        },
        params=lambda p, w: ("references", "data.native_size", "data.source", "data.max_pixels"),
    ),
    Stage(
        name="ssim_curves",
        run="ssimbad.schedule.stages:run_curves",
        inputs=lambda p, w: {"train": "data/faces/train.npy", "manifest": MANIFEST},
        outputs=lambda p, w: {"curves": "reports/schedule/ssim_curves.csv"},
        params=lambda p, w: ("schedule", "noise"),
    ),
    Stage(
        name="select_phi",
        run="ssimbad.schedule.stages:run_select",
        inputs=lambda p, w: {
            "curves": "reports/schedule/ssim_curves.csv",
            "train": "data/faces/train.npy",
            "manifest": MANIFEST,
        },
        outputs=lambda p, w: {
            "phi_star": PHI_STAR,
            "r2": "reports/tables/r2.csv",
            **_figure("ssim_degradation", "noisy_grid", "r2"),
        },
        params=lambda p, w: ("schedule", "noise"),
    ),
    Stage(
        name="pretrain",
        run="ssimbad.training.stage:run",
        each=lambda p: _training_each(p, "pretrain"),
        inputs=lambda p, w: _training_inputs(p, w, "pretrain"),
        outputs=lambda p, w: _training_outputs(w, "pretrain"),
        params=lambda p, w: _training_params(w, "pretrain"),
        expensive=True,
        batch=lambda p, w: p.methods[w["method"]].pretrain.batch,
    ),
    Stage(
        name="finetune",
        run="ssimbad.training.stage:run",
        each=lambda p: _training_each(p, "finetune"),
        inputs=lambda p, w: _training_inputs(p, w, "finetune"),
        outputs=lambda p, w: _training_outputs(w, "finetune"),
        params=lambda p, w: _training_params(w, "finetune"),
        expensive=True,
        batch=lambda p, w: p.methods[w["method"]].finetune.batch,
    ),
    Stage(
        name="colorize",
        run="ssimbad.colorize.stage:run",
        each=lambda p: [{**w, "setting": s} for w in trained(p) for s in shown(p)],
        inputs=lambda p, w: {
            "weights": model(w),
            "made": model(w, "json"),
            "sketches": "data/sketches/test.npy",
            "references": f"data/references/{w['setting']}.npy",
            "manifest": MANIFEST,
        },
        outputs=lambda p, w: {"images": coloured(w)},
        params=lambda p, w: (
            "colorize", "data.size", "training.precision", "training.channels_last",
            f"methods.{w['method']}.{w['stage']}.sampler",
        ),
        expensive=True,
    ),
    Stage(
        name="evaluate",
        run="ssimbad.metrics.evaluate:run",
        each=lambda p: [{**w, "setting": s} for w in trained(p) for s in judged(p)],
        inputs=lambda p, w: {
            "images": coloured(w),
            "test": "data/faces/test.npy",
            "manifest": MANIFEST,
            **(
                {"true": TRUE}
                if w["setting"] in ("cross-true", "cross-other")
                else {"sketches": "data/sketches/test.npy", "references": f"data/references/{SHOWN[w['setting']]}.npy"}
            ),
            **_feature_weights(p),
        },
        outputs=lambda p, w: {"images": metrics(w, "csv"), "summary": metrics(w, "json")},
        params=lambda p, w: ("evaluation", "data.size", "sketches", "weights.enabled"),
    ),
    Stage(
        name="baselines",
        run="ssimbad.metrics.baselines:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "train": "data/faces/train.npy",
            "manifest": MANIFEST,
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            "sketches": "data/sketches/test.npy",
            **_embedded(p, {"true": TRUE}),
            **_feature_weights(p),
        },
        outputs=lambda p, w: {"summary": "reports/metrics/baselines.json"},
        params=lambda p, w: ("evaluation", "data.size", "sketches"),
    ),
    Stage(
        name="tables",
        run="ssimbad.reporting.tables:run",
        inputs=lambda p, w: {
            "summaries": [metrics({**t, "setting": s}, "json") for t in trained(p) for s in judged(p)],
            "images": [metrics({**t, "setting": s}, "csv") for t in trained(p) for s in judged(p)],
            "baselines": "reports/metrics/baselines.json",
            "r2": "reports/tables/r2.csv",
            "made": [model(t, "json") for t in trained(p)],
        },
        outputs=lambda p, w: {
            **_table("main", "reference_use", "differences"),
            "r2_md": "reports/tables/r2.md",
            "r2_tex": "reports/tables/r2.tex",
        },
        params=lambda p, w: ("evaluation", "preset", "seeds", "schedule.confidence", *_labels(p)),
    ),
    Stage(
        name="figures",
        run="ssimbad.reporting.figures:run",
        inputs=lambda p, w: {
            "test": "data/faces/test.npy",
            "sketches": "data/sketches/test.npy",
            "same": "data/references/same.npy",
            "cross": "data/references/cross.npy",
            **_embedded(p, {"true": TRUE}),
            "manifest": MANIFEST,
            "pairing": "data/references/pairing.csv",
            "images": [coloured({**t, "setting": s}) for t in trained(p) for s in ("same", "cross")],
            "curves": [model(t, "csv") for t in trained(p)],
        },
        outputs=lambda p, w: _figure("qualitative_same", "qualitative_cross", "training_curves"),
        params=lambda p, w: ("report.grid_images", "data.size", "data.source", "preset", *_labels(p)),
    ),
    Stage(
        name="ladder",
        run="ssimbad.reporting.ladder:run",
        each=lambda p: [{}] if p.report.ladder else [],
        inputs=lambda p, w: {
            "summaries": [metrics({**t, "setting": s}, "json") for t in rungs(p) for s in judged(p)],
            "images": [metrics({**t, "setting": s}, "csv") for t in rungs(p) for s in judged(p)],
        },
        outputs=lambda p, w: _table("ladder"),
        params=lambda p, w: (
            "evaluation", "preset", "report.ladder",
            *(f"methods.{m}.{key}" for m in p.report.ladder for key in ("label", "kind", "config", "pretrain.images")),
        ),
    ),
    Stage(
        name="compute",
        run="ssimbad.reporting.compute:run",
        inputs=lambda p, w: {
            "summaries": [metrics({**t, "setting": s}, "json") for t in trained(p) for s in judged(p)],
            "images": [metrics({**t, "setting": s}, "csv") for t in trained(p) for s in judged(p)],
        },
        outputs=lambda p, w: _table("compute"),
        params=lambda p, w: (
            "evaluation.confidence", "preset", "methods", "network", "noise", "schedule.saturation", "data.size",
            *(f"references.{key}" for key in ("low", "high", "shift", "decimals")),
        ),
    ),
    Stage(
        name="chain_steps",
        run="ssimbad.reporting.chain_steps:run",
        each=lambda p: [{}] if p.report.chain_steps else [],
        inputs=lambda p, w: {"compute": "reports/tables/compute.csv"},
        outputs=lambda p, w: _figure("chain_steps"),
        params=lambda p, w: ("report.chain_steps", "preset", "data.size", *_labels(p)),
    ),
    Stage(
        name="nfe",
        run="ssimbad.colorize.nfe:run",
        each=lambda p: sampled(p) if p.report.nfe else [],
        inputs=lambda p, w: {
            "weights": model(w),
            "made": model(w, "json"),
            "sketches": "data/sketches/test.npy",
            "references": "data/references/same.npy",
            "test": "data/faces/test.npy",
            "manifest": MANIFEST,
        },
        outputs=lambda p, w: {"values": nfe_values(w)},
        params=lambda p, w: (
            "colorize", "data.size", "evaluation", "training.precision", "training.channels_last", "report.nfe",
        ),
        expensive=True,
    ),
    Stage(
        name="nfe_figure",
        run="ssimbad.reporting.nfe:run",
        each=lambda p: [{}] if p.report.nfe else [],
        inputs=lambda p, w: {"values": [nfe_values(t) for t in sampled(p)]},
        outputs=lambda p, w: {**_table("nfe"), **_figure("nfe")},
        params=lambda p, w: ("report.nfe", "data.size", "preset", *_labels(p)),
    ),
    Stage(
        name="spread",
        run="ssimbad.colorize.spread:run",
        each=lambda p: sampled(p) if p.report.spread else [],
        inputs=lambda p, w: {
            "weights": model(w),
            "made": model(w, "json"),
            "images": coloured({**w, "setting": "same"}),
            "sketches": "data/sketches/test.npy",
            "references": "data/references/same.npy",
            "test": "data/faces/test.npy",
            "manifest": MANIFEST,
        },
        outputs=lambda p, w: {"values": spread_values(w)},
        params=lambda p, w: (
            "colorize", "data.size", "evaluation", "training.precision", "training.channels_last", "report.spread",
            f"methods.{w['method']}.{w['stage']}.sampler",
        ),
        expensive=True,
    ),
    Stage(
        name="spread_table",
        run="ssimbad.reporting.spread:run",
        each=lambda p: [{}] if p.report.spread else [],
        inputs=lambda p, w: {"values": [spread_values(t) for t in sampled(p)]},
        outputs=lambda p, w: _table("spread"),
        params=lambda p, w: ("evaluation", "report.spread", "data.size", "preset", *_labels(p)),
    ),
)  # fmt: skip


def instances(p: Params) -> list[Instance]:
    """Every stage instance of these parameters, upstream before downstream."""
    made: dict[str, str] = {}
    found = []
    for stage in STAGES:
        for w in stage.each(p):
            instance = Instance(stage, w, stage.inputs(p, w), stage.outputs(p, w), stage.params(p, w))
            upstream = sorted({made[f] for f in instance.files if f in made})
            found.append(replace(instance, upstream=tuple(upstream)))
            made |= dict.fromkeys(instance.outputs.values(), instance.name)
    return found


def by_stage(found: list[Instance]) -> Iterator[tuple[str, list[Instance]]]:
    """Instances grouped by stage, in the table's order."""
    for stage in STAGES:
        group = [i for i in found if i.stage.name == stage.name]
        if group:
            yield stage.name, group
