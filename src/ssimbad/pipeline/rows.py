"""Which trainings, rows and evaluations the parameters ask for: everything that is derived from blocks of methods."""

from __future__ import annotations

from ssimbad.errors import ParameterError
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.methods.contract import MASKS, PHI, Method
from ssimbad.metrics import registry as metrics
from ssimbad.pairing import settings
from ssimbad.params.methods import needs
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths
from ssimbad.pipeline.paths import Wildcards


def trained(p: Params, slot: str | None = None) -> list[Wildcards]:
    """(method, stage, seed) of every training that the parameters ask for, or of those of one slot."""
    return [
        {"method": name, "stage": stage, "seed": seed}
        for name, method in p.methods.items()
        for stage in method.trainings
        if slot in (None, stage)
        for seed in p.seeds
    ]


def listed(p: Params) -> list[Wildcards]:
    """(method, stage, seed) of every row of the tables: whatever colours, with weights of its own or borrowed ones."""
    return [
        {"method": name, "stage": stage, "seed": seed}
        for name, method in p.methods.items()
        for stage in registry.slots()
        if stage in method.colour
        for seed in p.seeds
    ]


def named(p: Params, row: str) -> list[Wildcards]:
    """Of `listed`, those of the row `<method>/<stage>`, one for each seed. Raises ParameterError: there is none."""
    if found := [w for w in listed(p) if f"{w['method']}/{w['stage']}" == row]:
        return found
    known = ", ".join(dict.fromkeys(f"{w['method']}/{w['stage']}" for w in listed(p)))
    raise ParameterError(f"{row}: no row of params.yaml; there are {known}")


def parts(p: Params, training: str) -> list[str]:
    """The trainings `<method>/<stage>` whose finished weights are parts of a training's model, and of these parts."""
    method, _, slot = training.partition("/")
    own = [what for name, what in needs(p.methods, method, slot).items() if name != "start" and what != PHI]
    return list(dict.fromkeys([*own, *(below for part in own for below in parts(p, part))]))


def kind(p: Params, w: Wildcards) -> Method:
    """What the method of an instance can do."""
    return registry.get(p.methods[w["method"]].kind)


def takes(p: Params, w: Wildcards) -> tuple[str, ...]:
    """What a row is given."""
    return kind(p, w).takes(p.methods[w["method"]].colour[w["stage"]].options)


def masked(p: Params) -> bool:
    """Whether a method takes a mask, so that there are any."""
    return any(MASKS.keys() & set(registry.get(method.kind).inputs) for method in p.methods.values())


def has_answers(p: Params) -> bool:
    """Whether the true answer to a cross reference is known, as of rendered faces."""
    return sources.of(p.data.source).answers


def scenes(p: Params) -> bool:
    """Whether faces stand before scenes, which are references too."""
    return has_answers(p) and p.embedded.background == "scene"


def styled(p: Params) -> bool:
    """Whether trainings see sketches of several styles, or of another one than is judged."""
    return p.sketches.styles != ["xdog"]


def companions(p: Params) -> bool:
    """Whether trainings see references that show another face."""
    return p.references.companions > 0


def has(p: Params) -> set[str]:
    """What the data have besides faces: see `Setting.asks`."""
    return {what for what, there in (("answers", has_answers(p)), ("scenes", scenes(p))) if there}


def fetched(p: Params) -> bool:
    """Whether the source comes from elsewhere."""
    config = sources.config(p.data.source, p.data.path)
    return sources.of(config).fetched(config)


def shards(p: Params) -> list[Wildcards]:
    """The jobs among which reading and drawing faces are dealt out; none where a single one does it."""
    return [{"shard": i} for i in range(p.data.shards)] if p.data.shards > 1 else []


def coloured_rows(p: Params) -> list[Wildcards]:
    """Every archive of answers: rows in each setting in which something else is shown."""
    return [{**w, "setting": s} for w in listed(p) for s in settings.coloured(takes(p, w), has(p))]


def judged_rows(p: Params, chosen: list[Wildcards] | None = None) -> list[Wildcards]:
    """Every evaluation: rows, or the chosen ones of them, in each of their settings."""
    of = listed(p) if chosen is None else chosen
    return [{**w, "setting": s.name} for w in of for s in settings.judged(takes(p, w), has(p))]


def sampled(p: Params) -> list[Wildcards]:
    """Rows that colour by a sampler on a sketch, each with one sample."""

    def single(w: Wildcards) -> bool:
        return p.methods[w["method"]].colour[w["stage"]].samples == 1

    return [w for w in listed(p) if kind(p, w).samplers and "sketch" in takes(p, w) and single(w)]


def swept(p: Params) -> list[Wildcards]:
    """Of `sampled`, those whose answers depend on noise: of these the spread is told."""
    return [w for w in sampled(p) if kind(p, w).by_noise]


def curves(p: Params) -> list[Wildcards]:
    """Of `sampled`, those that have samplers which are compared: rows that differ in their samplers alone are one."""
    asked = {solver.name for solver in p.report.nfe.samplers} if p.report.nfe else set()
    found: dict[str, Wildcards] = {}
    for w in [w for w in sampled(p) if asked & set(kind(p, w).samplers)]:
        found.setdefault(f"{paths.weights(p, w)} {p.methods[w['method']].colour[w['stage']].options}", w)
    return list(found.values())


def reversed_(p: Params) -> list[Wildcards]:
    """The training whose reverse process is looked at, by its first seed."""
    if p.report.reverse is None:
        return []
    method, _, stage = p.report.reverse.weights.partition("/")
    return [{"method": method, "stage": stage, "seed": p.seeds[0]}]


def pictured(p: Params) -> list[str]:
    """Archives of which there is a grid of pictures: those that show a sketch always, since they show the data too."""
    made = {w["setting"] for w in coloured_rows(p)}
    always = {s.archive for s in settings.SETTINGS.values() if s.reference and s.asks <= has(p)}
    return [s for s in settings.PICTURED if s in made | always]


def moded(p: Params) -> list[Wildcards]:
    """Archives of the rows whose weights are shown in all their modes, by their first seed, of kinds of references."""
    asked = p.report.modes
    return [
        w
        for w in coloured_rows(p)
        if asked and paths.owner(p, w) == asked.weights and w["seed"] == p.seeds[0]
        if w["setting"] in settings.PICTURED and settings.ARCHIVES[w["setting"]].reference
    ]


def measured(p: Params) -> list[Wildcards]:
    """Trainings that say something of themselves besides their curve, over the validation faces."""
    return [w for w in trained(p) if kind(p, w).measures and p.methods[w["method"]].trainings[w["stage"]].validation]


def how(w: Wildcards) -> str:
    """The parameters by which a row colours."""
    return f"methods.{w['method']}.colour.{w['stage']}"


def rungs(p: Params) -> list[Wildcards]:
    """Rows of the ladder."""
    return [{"method": m, "stage": "pretrain", "seed": seed} for m in p.report.ladder for seed in p.seeds]


def points(p: Params) -> list[Wildcards]:
    """Rows of the sweep's methods."""
    return [w for w in listed(p) if w["method"] in p.report.sweep]


def metric_features(p: Params) -> list[str]:
    """Feature networks that metrics look through, as far as the parameters name files of them."""
    return [name for name in metrics.networks() if getattr(p.weights, name)] if p.weights.enabled else []


def set_features(p: Params) -> list[str]:
    """Of these, those by which sets are compared with the test faces."""
    return [name for name in metric_features(p) if name in metrics.set_networks()]


def features(p: Params) -> list[str]:
    """All feature networks that these parameters ask for."""
    return list(dict.fromkeys([*metric_features(p), *loss_features(p)]))


def loss_features(p: Params) -> list[str]:
    """Feature networks that the training losses look through."""
    trainings = [train for method in p.methods.values() for train in method.trainings.values()]
    return sorted({f for train in trainings if (f := registry.features(train))} if p.weights.enabled else ())
