"""Bytes that a run will leave on disk, by arithmetic on the parameters; what cannot be known beforehand says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.faces.sources import registry as sources
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths, rows
from ssimbad.planning.flops import Work

FLOAT = 4  # bytes; weights, averages and moments are float32
STATES = 3  # two are kept, and a third is written before the oldest goes
PNG_ROW = 1.001  # a PNG of noise is no smaller than its bytes; deflate adds less than this

PINNED = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": 23_885_392,
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02": 61_100_840,
    "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44": 143_667_240,
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0": 138_357_544,
    "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6": 151_277_313,
}
"""float32 numbers in the files that the presets pin, by their sha256: pytorch-fid's Inception, AlexNet, VGG-19, VGG-16,
CLIP's ViT-B/32 with its text tower."""


@dataclass(frozen=True)
class Line:
    """`bytes` None: not known beforehand; `most`: an upper bound, as for PNGs that nobody has drawn yet."""

    what: str
    bytes: int | None
    note: str = ""
    most: bool = False
    passing: bool = False
    """Only while its stage runs; not in the total."""


def lines(p: Params, work: dict[tuple[str, str], Work]) -> list[Line]:
    """Outputs, kept results and states. `work` is {(method, stage): …}."""
    data, seeds = p.data, len(p.seeds)
    pixels = data.native_size**2
    counts = (data.train, data.val, data.test)
    whole = data.train is None
    faces = count_images(p) if whole else sum(c or 0 for c in counts)
    note = "" if not whole else "data.train: null takes all images that are left"
    if whole and faces is not None:
        note = f"all {faces:,} images of the source, those in quarantine included"
    styled = len(p.sketches.styles) * (data.train or faces or 0) if rows.styled(p) else 0
    archives = len(rows.coloured_rows(p))
    weights = sum(w.parameters for w in work.values()) * FLOAT * seeds
    images = round(archives * data.test * PNG_ROW * data.size * (3 * data.size + 1))
    references = (3 + rows.has_answers(p)) * data.test * 3 * pixels
    references += (data.train or 0) * 3 * pixels if rows.companions(p) else 0
    further = weights * (p.training.keep - 1)
    states = {key: STATES * _state(p, key, w) for key, w in work.items()}
    return [
        _raw(p),
        Line("data/weights", downloads(p)[0], "feature networks") if p.weights.enabled else Line("data/weights", 0),
        Line("data/faces", faces and 3 * pixels * faces, note, most=whole and faces is not None),
        Line("data/sketches", faces and pixels * (faces + styled), note, most=whole and faces is not None),
        *_shards(p, faces, whole),
        Line("data/references", references),
        *([Line("data/masks", faces and pixels * (faces + 3 * data.test), note)] if rows.masked(p) else []),
        Line("models", weights, f"{len(work)} trainings × {seeds} seeds"),
        Line("outputs", images, f"{archives} archives of {data.test} PNGs", most=True),
        Line("work: kept results", weights + images, "models and outputs once more, by fingerprint", most=True),
        *([Line("work: next best weights", further, "training.keep; no outputs", most=True)] if further else []),
        Line(
            "work: states", max(states.values(), default=0), "of the largest training; gone when it ends", passing=True
        ),
        Line(
            "work: states, all at once", seeds * sum(states.values()), "if all trainings run side by side", passing=True
        ),
    ]


def _shards(p: Params, faces: int | None, whole: bool) -> list[Line]:
    """Whatever the splits take, shards hold every picture of the source, and the given sketches of sources that may
    have some."""
    if not rows.shards(p):
        return []
    pixels = p.data.native_size**2
    there = faces if whole or rows.has_answers(p) else count_images(p)
    each, given = 3 * pixels, "" if rows.has_answers(p) else ", with a sketch each"
    note = f"every usable picture of the source once more{given}"
    return [
        Line("data/faces/shards", there and (each + (pixels if given else 0)) * there, note, most=True),
        Line("data/sketches/shards", faces and pixels * faces, "every drawn sketch once more", most=True),
    ]


def _state(p: Params, key: tuple[str, str], work: Work) -> int:
    """Weights and two moments of all players, the averaged model, and the best ones where validation chooses."""
    chosen = p.training.keep if p.methods[key[0]].trainings[key[1]].validation else 0
    return FLOAT * (3 * work.trained + (1 + chosen) * work.parameters)


def count_images(p: Params) -> int | None:
    """How many images the source has, by their names; None where it is not there yet, or not as it should be."""
    config, path = sources.config(p.data.source, p.data.path), Path(paths.source(p))
    try:
        with sources.of(config).opened(config, path, p.data.max_pixels) as source:
            found = len(source.listing.pictures)
    except UserError:
        return None
    return found * p.data.crop_most if p.data.crop == "face" else found


def _raw(p: Params) -> Line:
    path = Path(paths.source(p))
    if rows.fetched(p):
        there = path.stat().st_size if path.is_file() else None
        return Line("data/raw", there, "as fetched" if there else "known when it is fetched")
    if not rows.has_answers(p):
        return Line("your own images", None, f"{path}: yours, read and never written")
    if path.is_file():
        return Line("data/raw", path.stat().st_size, "as rendered")
    return Line("data/raw", None, "PNGs of rendered faces: known when they are rendered")


def downloads(p: Params) -> tuple[int | None, list[tuple[str, int | None, str]]]:
    """Bytes of all feature networks that are downloaded, and [(name, bytes, from where)]."""
    if not p.weights.enabled:
        return 0, []
    found = []
    for name in rows.features(p):
        entry = getattr(p.weights, name)
        numbers = PINNED.get(entry.sha256)
        size = 0 if entry.path else numbers and FLOAT * numbers
        found.append((name, size, entry.path or entry.url))
    sizes = [size for _, size, _ in found]
    return None if None in sizes else sum(filter(None, sizes)), found
