"""The stage table: what each stage reads, writes and depends on, and in how many instances it exists.

dvc.yaml is generated from it, the content records are checked against it, and a test holds the Snakemake rules equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ssimbad.methods import registry
from ssimbad.methods.contract import PHI, Method
from ssimbad.pairing import settings
from ssimbad.params.base import SLOTS
from ssimbad.params.methods import needs
from ssimbad.params.tree import Params

Files = dict[str, str | list[str]]
Wildcards = dict[str, Any]

COMMAND = "ssimbad stage"
EMBEDDED = "data/raw/embedded.zip"
ANSWERS = "data/raw/cross_true.zip"
MANIFEST = "data/faces/manifest.csv"
TRUE = "data/references/cross_true.npy"
PHI_STAR = "reports/schedule/phi_star.json"


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


def trained(p: Params, slot: str | None = None) -> list[Wildcards]:
    """(method, stage, seed) of every training that the parameters ask for, or of those of one slot."""
    return [
        {"method": name, "stage": stage, "seed": seed}
        for name, method in p.methods.items()
        for stage in method.trainings
        if slot in (None, stage)
        for seed in p.seeds
    ]


def rows(p: Params) -> list[Wildcards]:
    """(method, stage, seed) of every row of the tables: whatever colours, with weights of its own or borrowed ones."""
    return [
        {"method": name, "stage": stage, "seed": seed}
        for name, method in p.methods.items()
        for stage in SLOTS
        if stage in method.colour
        for seed in p.seeds
    ]


def kind(p: Params, w: Wildcards) -> Method:
    """What the method of an instance can do."""
    return registry.get(p.methods[w["method"]].kind)


def has_answers(p: Params) -> bool:
    """Whether the true answer to a cross reference is known, as of rendered faces."""
    return p.data.source == "embedded"


def coloured_rows(p: Params) -> list[Wildcards]:
    """Every archive of answers: rows in each setting in which something else is shown."""
    return [{**w, "setting": s} for w in rows(p) for s in settings.coloured(kind(p, w).inputs, has_answers(p))]


def judged_rows(p: Params, chosen: list[Wildcards] | None = None) -> list[Wildcards]:
    """Every evaluation: rows, or the chosen ones of them, in each of their settings."""
    of = rows(p) if chosen is None else chosen
    return [{**w, "setting": s.name} for w in of for s in settings.judged(kind(p, w).inputs, has_answers(p))]


def source(p: Params) -> str:
    """Where the raw faces lie."""
    return EMBEDDED if p.data.source == "embedded" else str(p.data.path)


def model(training: str, seed: int, ending: str = "safetensors") -> str:
    """Of the training `<method>/<stage>`."""
    return f"models/{training}/seed-{seed}.{ending}"


def made(w: Wildcards, ending: str = "safetensors") -> str:
    """What a training makes."""
    return model(f"{w['method']}/{w['stage']}", w["seed"], ending)


def weights(p: Params, w: Wildcards, ending: str = "safetensors") -> str:
    """Of the weights with which a row colours, its own or borrowed."""
    return model(p.methods[w["method"]].weights or f"{w['method']}/{w['stage']}", w["seed"], ending)


def coloured(w: Wildcards) -> str:
    """The answers of a row, by the setting in which they are made or judged."""
    archive = settings.SETTINGS[w["setting"]].archive if w["setting"] in settings.SETTINGS else w["setting"]
    return f"outputs/{w['method']}/{w['stage']}/seed-{w['seed']}/{archive}.zip"


def metrics(w: Wildcards, ending: str) -> str:
    return f"reports/metrics/{w['method']}/{w['stage']}/seed-{w['seed']}/{w['setting']}.{ending}"


def nfe_values(w: Wildcards) -> str:
    return f"reports/nfe/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def spread_values(w: Wildcards) -> str:
    return f"reports/spread/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def swept(p: Params) -> list[Wildcards]:
    """Rows that colour by a sampler on a sketch, each with one sample: of these the spread is told."""

    def single(w: Wildcards) -> bool:
        return p.methods[w["method"]].colour[w["stage"]].samples == 1

    return [w for w in rows(p) if kind(p, w).samplers and "sketch" in kind(p, w).inputs and single(w)]


def curves(p: Params) -> list[Wildcards]:
    """Of `swept`, those whose samplers are compared: rows that differ in their samplers alone are one."""
    found: dict[str, Wildcards] = {}
    for w in swept(p):
        found.setdefault(f"{weights(p, w)} {p.methods[w['method']].colour[w['stage']].options}", w)
    return list(found.values())


def pictured(p: Params) -> list[str]:
    """Archives of which there is a grid of pictures: those that show a sketch always, since they show the data too."""
    made = {w["setting"] for w in coloured_rows(p)}
    return [s for s in settings.PICTURED if s in made or settings.ARCHIVES[s].reference]


def how(w: Wildcards) -> str:
    """The parameters by which a row colours."""
    return f"methods.{w['method']}.colour.{w['stage']}"


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
    trainings = [train for method in p.methods.values() for train in method.trainings.values()]
    return sorted({f for train in trainings if (f := registry.features(train))} if p.weights.enabled else ())


def _feature_weights(p: Params) -> dict[str, str]:
    return {n: feature_file(n) for n in ("inception", "alexnet")} if p.weights.enabled else {}


def _labels(p: Params) -> list[str]:
    return [f"methods.{name}.label" for name in p.methods]


def _rows(p: Params) -> list[str]:
    """What tables say of their rows."""
    return [f"methods.{name}.{key}" for name in p.methods for key in ("label", "weights", "colour")]


def _training_inputs(p: Params, w: Wildcards, slot: str) -> Files:
    method, train = p.methods[w["method"]], p.methods[w["method"]].trainings[slot]
    takes = registry.get(method.kind).inputs
    splits = ["train", *(["val"] if train.validation else [])]
    files: Files = {split: f"data/faces/{split}.npy" for split in splits} | {"manifest": MANIFEST}
    if "sketch" in takes:
        files |= {f"{split}_sketches": f"data/sketches/{split}.npy" for split in splits}
    for name, what in needs(p.methods, w["method"], slot).items():
        if what == PHI:
            files["phi_star"] = PHI_STAR
        else:
            files[name] = model(what, w["seed"])
            files |= {} if name == "start" else {f"{name}_made": model(what, w["seed"], "json")}
    if p.weights.enabled and (features := registry.features(train)):
        files[features] = feature_file(features)
    return files


def _training_params(p: Params, w: Wildcards, slot: str) -> tuple[str, ...]:
    """What a training reads: of its own block, of what all trainings share, and of what its kind says that it reads."""
    method, kind = f"methods.{w['method']}", registry.get(p.methods[w["method"]].kind)
    references = ("references",) if "reference" in kind.inputs else ("references.seed",)
    return (
        "data.size", "training", *references, *kind.reads,
        f"{method}.kind", f"{method}.config", f"{method}.{slot}",
    )  # fmt: skip


def _training(slot: str) -> Stage:
    """The stage that trains one slot of every method that has it."""
    return Stage(
        name=slot,
        run="ssimbad.training.stage:run",
        each=lambda p: [{"method": w["method"], "seed": w["seed"]} for w in trained(p, slot)],
        inputs=lambda p, w: _training_inputs(p, w, slot),
        outputs=lambda p, w: {
            name: made({**w, "stage": slot}, ending)
            for name, ending in (("weights", "safetensors"), ("made", "json"), ("curve", "csv"))
        },
        params=lambda p, w: _training_params(p, w, slot),
        expensive=True,
        batch=lambda p, w: p.methods[w["method"]].trainings[slot].batch,
    )


def _colouring_params(w: Wildcards) -> tuple[str, ...]:
    return ("colorize", "data.size", "training.precision", "training.channels_last", how(w))


def _shown(p: Params, w: Wildcards) -> Files:
    """What a row is given in the setting of an archive."""
    takes, setting = kind(p, w).inputs, settings.ARCHIVES[w["setting"]]
    files: Files = {"sketches": "data/sketches/test.npy"} if "sketch" in takes else {}
    if "reference" in takes and setting.reference:
        files["references"] = f"data/references/{setting.reference}.npy"
    return files


def _judged_by(p: Params, w: Wildcards) -> Files:
    """What the answers of a setting are judged against."""
    return {"test": "data/faces/test.npy"} | (
        {"true": TRUE} if settings.SETTINGS[w["setting"]].target == "true" else {}
    )


def _evaluations(p: Params, chosen: list[Wildcards] | None = None) -> Files:
    found = judged_rows(p, chosen)
    return {"summaries": [metrics(w, "json") for w in found], "images": [metrics(w, "csv") for w in found]}


def _sampled_inputs(p: Params, w: Wildcards) -> Files:
    """Of the stages that colour the test set in other ways than the row does."""
    return {
        "weights": weights(p, w), "made": weights(p, w, "json"), **_shown(p, {**w, "setting": "same"}),
        "test": "data/faces/test.npy", "manifest": MANIFEST,
    }  # fmt: skip


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
    *map(_training, SLOTS),
    Stage(
        name="colorize",
        run="ssimbad.colorize.stage:run",
        each=coloured_rows,
        inputs=lambda p, w: {
            "weights": weights(p, w),
            "made": weights(p, w, "json"),
            **_shown(p, w),
            "manifest": MANIFEST,
        },
        outputs=lambda p, w: {"images": coloured(w)},
        params=lambda p, w: _colouring_params(w),
        expensive=True,
    ),
    Stage(
        name="evaluate",
        run="ssimbad.metrics.evaluate:run",
        each=judged_rows,
        inputs=lambda p, w: {
            "images": coloured(w),
            **_judged_by(p, w),
            "manifest": MANIFEST,
            **(_shown(p, w) if settings.SETTINGS[w["setting"]].sets else {}),
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
            **_evaluations(p),
            "baselines": "reports/metrics/baselines.json",
            "r2": "reports/tables/r2.csv",
            "made": [made(t, "json") for t in trained(p)],
        },
        outputs=lambda p, w: {
            **_table("main", "reference_use", "differences"),
            "r2_md": "reports/tables/r2.md",
            "r2_tex": "reports/tables/r2.tex",
        },
        params=lambda p, w: ("evaluation", "preset", "seeds", "schedule.confidence", *_rows(p)),
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
            "images": [coloured(w) for w in coloured_rows(p) if w["setting"] in settings.PICTURED],
            "curves": [made(t, "csv") for t in trained(p)],
        },
        outputs=lambda p, w: _figure(*(f"qualitative_{s}" for s in pictured(p)), "training_curves"),
        params=lambda p, w: ("report.grid_images", "data.size", "data.source", "preset", *_labels(p)),
    ),
    Stage(
        name="ladder",
        run="ssimbad.reporting.ladder:run",
        each=lambda p: [{}] if p.report.ladder else [],
        inputs=lambda p, w: _evaluations(p, rungs(p)),
        outputs=lambda p, w: _table("ladder"),
        params=lambda p, w: (
            "evaluation", "preset", "report.ladder",
            *(f"methods.{m}.{key}" for m in p.report.ladder for key in ("label", "kind", "config", "pretrain.images")),
        ),
    ),
    Stage(
        name="compute",
        run="ssimbad.reporting.compute:run",
        inputs=lambda p, w: _evaluations(p),
        outputs=lambda p, w: _table("compute"),
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
        outputs=lambda p, w: _figure("chain_steps"),
        params=lambda p, w: ("report.chain_steps", "preset", "data.size", *_labels(p)),
    ),
    Stage(
        name="nfe",
        run="ssimbad.colorize.nfe:run",
        each=lambda p: curves(p) if p.report.nfe else [],
        inputs=_sampled_inputs,
        outputs=lambda p, w: {"values": nfe_values(w)},
        params=lambda p, w: (
            "colorize", "data.size", "training.precision", "training.channels_last", f"{how(w)}.options",
            "evaluation", "report.nfe",
        ),
        expensive=True,
    ),
    Stage(
        name="nfe_figure",
        run="ssimbad.reporting.nfe:run",
        each=lambda p: [{}] if p.report.nfe and curves(p) else [],
        inputs=lambda p, w: {"values": [nfe_values(t) for t in curves(p)]},
        outputs=lambda p, w: {**_table("nfe"), **_figure("nfe")},
        params=lambda p, w: ("report.nfe", "data.size", "preset", *_labels(p)),
    ),
    Stage(
        name="spread",
        run="ssimbad.colorize.spread:run",
        each=lambda p: swept(p) if p.report.spread else [],
        inputs=lambda p, w: {**_sampled_inputs(p, w), "images": coloured({**w, "setting": "same"})},
        outputs=lambda p, w: {"values": spread_values(w)},
        params=lambda p, w: (
            *_colouring_params(w), "evaluation", "report.spread",
        ),
        expensive=True,
    ),
    Stage(
        name="spread_table",
        run="ssimbad.reporting.spread:run",
        each=lambda p: [{}] if p.report.spread and swept(p) else [],
        inputs=lambda p, w: {"values": [spread_values(t) for t in swept(p)]},
        outputs=lambda p, w: _table("spread"),
        params=lambda p, w: ("evaluation", "report.spread", "data.size", "preset", *_labels(p)),
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
