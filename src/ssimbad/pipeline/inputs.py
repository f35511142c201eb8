"""What instances of stages read: files and parameters, as far as methods and settings decide which."""

from __future__ import annotations

from typing import TypeVar

from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.methods.contract import MASKS, PHI
from ssimbad.pairing import settings
from ssimbad.params.methods import needs
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths, rows
from ssimbad.pipeline.paths import Wildcards

Files = dict[str, str | list[str]]


LOOKED = (
    "data.source", "data.path", "data.native_size", "data.max_pixels", "data.crop", "data.crop_factor",
    "data.crop_least", "data.crop_most",
)  # fmt: skip
"""Parameters by which pictures of a source are looked at."""

T = TypeVar("T")


def embedded(p: Params, files: dict[str, T]) -> dict[str, T]:
    return files if rows.has_answers(p) else {}


def given(p: Params) -> dict[str, str]:
    """Sketches that came with the faces; rendered ones bring none."""
    return {} if rows.has_answers(p) else {f"given_{s}": f"data/faces/given_{s}.npy" for s in ("train", "val", "test")}


def source(p: Params) -> Files:
    """Of the faces: one folder or archive, and what else it reads."""
    config = sources.config(p.data.source, p.data.path)
    beside = sources.of(config).beside(config)
    return {"raw": paths.source(p), **({"beside": beside} if beside else {})}


def face_shard(p: Params, w: Wildcards) -> dict[str, str]:
    """What one shard of the source's pictures is read into."""
    files = {"seen": paths.shard("faces", w, "{}.json"), "faces": paths.shard("faces", w)}
    return files | ({"given": paths.shard("faces", w, "given_{}.npy")} if given(p) else {})


def face_shards(p: Params) -> Files:
    """What the shards have read, where there are any."""
    names = [face_shard(p, w) for w in rows.shards(p)]
    return {f"shard_{key}": [files[key] for files in names] for key in (names[0] if names else ())}


def sketch_shards(p: Params) -> Files:
    """What the shards have drawn, where there are any."""
    found = [paths.shard("sketches", w) for w in rows.shards(p)]
    return {"shards": found} if found else {}


def scenes(p: Params, files: dict[str, T]) -> dict[str, T]:
    return files if rows.scenes(p) else {}


def true_masks(p: Params) -> dict[str, str]:
    return {"true_masks": "data/masks/test.npy"} if rows.masked(p) else {}


def feature_weights(p: Params) -> dict[str, str]:
    """Of the networks that metrics look through."""
    return {name: paths.feature_file(name) for name in rows.metric_features(p)}


def face_features(p: Params) -> dict[str, str]:
    """What networks see in the test faces."""
    return {f"{name}_faces": paths.face_features(name) for name in rows.set_features(p)}


def labels(p: Params) -> list[str]:
    return [f"methods.{name}.label" for name in p.methods]


def said_of_rows(p: Params) -> list[str]:
    """What tables say of their rows."""
    return [f"methods.{name}.{key}" for name in p.methods for key in ("label", "weights", "colour")]


def training_inputs(p: Params, w: Wildcards, slot: str) -> Files:
    method, train = p.methods[w["method"]], p.methods[w["method"]].trainings[slot]
    takes = registry.get(method.kind).inputs
    splits = ["train", *(["val"] if train.validation else [])]
    files: Files = {split: f"data/faces/{split}.npy" for split in splits} | {"manifest": paths.MANIFEST}
    if "sketch" in takes:
        files |= {f"{split}_sketches": f"data/sketches/{split}.npy" for split in splits}
        files |= {"train_sketches": paths.STYLED} if rows.styled(p) else {}
    if "reference" in takes and rows.companions(p):
        files["companions"] = paths.COMPANIONS
    if MASKS.keys() & set(takes):
        files |= {f"{split}_masks": f"data/masks/{split}.npy" for split in splits}
    for name, what in needs(p.methods, w["method"], slot).items():
        if what == PHI:
            files["phi_star"] = paths.PHI_STAR
        else:
            files[name] = paths.model(what, w["seed"])
            files |= {} if name == "start" else {f"{name}_made": paths.model(what, w["seed"], "json")}
    if p.weights.enabled and (features := registry.features(train)):
        files[features] = paths.feature_file(features)
    found = parts(p, f"{w['method']}/{slot}", w["seed"]).get("parts", [])
    nested = [file for file in found if file not in files.values()]
    return files | ({"parts": nested} if nested else {})


def training_params(p: Params, w: Wildcards, slot: str) -> tuple[str, ...]:
    """What a training reads: of its own block, of what all trainings share, and of what its kind says that it reads."""
    method, kind = f"methods.{w['method']}", registry.get(p.methods[w["method"]].kind)
    references = ("references",) if "reference" in kind.inputs else ("references.seed",)
    return (
        "data.size", "training", *references, *kind.reads,
        f"{method}.kind", f"{method}.config", f"{method}.{slot}",
    )  # fmt: skip


def colouring_params(w: Wildcards) -> tuple[str, ...]:
    return ("colorize", "data.size", "training.precision", "training.channels_last", rows.how(w))


def restored(p: Params, w: Wildcards) -> Files:
    """The faces themselves, for a row that degrades and restores them."""
    return {"faces": "data/faces/test.npy"} if "face" in rows.kind(p, w).inputs else {}


def shown(p: Params, w: Wildcards) -> Files:
    """What a row is given in the setting of an archive."""
    takes, setting = rows.takes(p, w), settings.ARCHIVES[w["setting"]]
    files: Files = {"sketches": "data/sketches/test.npy"} if "sketch" in takes else {}
    if "reference" in takes and setting.reference:
        files["references"] = f"data/references/{setting.reference}.npy"
    if "mask" in takes:
        files["masks"] = "data/masks/test.npy"
    if "reference_mask" in takes and setting.reference:
        files["reference_masks"] = f"data/masks/{setting.reference}.npy"
    return files


def seen(p: Params, w: Wildcards) -> Files:
    """The pictures among what a row is given."""
    return {name: file for name, file in shown(p, w).items() if name in ("sketches", "references")}


def judged_by(p: Params, w: Wildcards) -> Files:
    """What the answers of a setting are judged against."""
    return {"test": "data/faces/test.npy"} | (
        {"true": paths.TRUE} if settings.SETTINGS[w["setting"]].target == "true" else {}
    )


def evaluations(p: Params, chosen: list[Wildcards] | None = None) -> Files:
    found = rows.judged_rows(p, chosen)
    return {"summaries": [paths.metrics(w, "json") for w in found], "images": [paths.metrics(w, "csv") for w in found]}


def parts(p: Params, training: str, seed: int) -> Files:
    """Finished parts that a model is put together with, where it has any."""
    found = [paths.model(part, seed) for part in rows.parts(p, training)]
    return {"parts": found} if found else {}


def weights(p: Params, w: Wildcards) -> Files:
    """With what a row colours."""
    files: Files = {"weights": paths.weights(p, w), "made": paths.weights(p, w, "json")}
    return files | parts(p, paths.owner(p, w), w["seed"])


def sampled_inputs(p: Params, w: Wildcards) -> Files:
    """Of the stages that colour the test set in other ways than the row does."""
    return {
        **weights(p, w), **shown(p, {**w, "setting": "same"}),
        "test": "data/faces/test.npy", "manifest": paths.MANIFEST,
    }  # fmt: skip
