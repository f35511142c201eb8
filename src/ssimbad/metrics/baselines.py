"""Stage baselines: what no method at all scores, by the metrics of the stage evaluate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.metrics import face_features, measure, registry
from ssimbad.metrics.contract import Given
from ssimbad.metrics.evaluate import lines
from ssimbad.metrics.measure import Entry
from ssimbad.metrics.test_set import at_size
from ssimbad.pairing import resize
from ssimbad.pairing.settings import SETTINGS, Setting
from ssimbad.runtime.job import Job

if TYPE_CHECKING:
    from ssimbad.params.tree import Params

CHUNK = 256
ITSELF = "the target itself"


class Baselines(TypedDict):
    """The summary: of `n` images of side `size`, by row and setting what was measured."""

    n: int
    size: int
    rows: dict[str, dict[str, dict[str, Entry]]]


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Score answers that no method gave, each in the settings where it is one.

    `reference`: the bare warped reference. `mean_color`: one flat image of the training set's mean colour.
    `ground_truth`: the sketch's own face, the target of the published protocol. `true_answer` (embedded data, cross):
    the sketch's shape in the reference's colours. What would compare an image with itself is a dash.

    Inputs: test, same, cross, train, sketches (.npy), true (.npy, embedded data only), scene (.npy, before scenes
    only), true_masks (.npy, where there are any), manifest (.csv), and, where enabled, weights files of feature
    networks, by their names, and what they see in the test faces, `<network>_faces` (.npy).
    Output: summary, {n, size, rows: {row: {setting: {metric: …}}}}.

    Raises:
        UserError: an array does not hold one image per test id.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    size = params.data.size
    networks, absent = measure.load_networks(inputs, registry.networks(), job.threads)
    described = face_features.stored(inputs, len(ids))
    names = [name for name in ("test", "same", "cross", "true", "scene") if name in inputs]
    images: dict[str | None, np.ndarray] = {name: at_size(inputs[name], size, ids) for name in names}
    masks = resize.area(manifest.images(inputs["true_masks"], ids), size) if "true_masks" in inputs else None
    color = mean_color(artifacts.read_array(inputs["train"]))
    images["mean_color"] = np.broadcast_to(color, (len(ids), size, size, 3)).copy()
    drawn = lines(inputs["sketches"], ids, params.sketches)
    rows: dict[str, dict[str, dict[str, Entry]]] = {}
    for row, setting, answers in _answers(names):
        itself = {}
        if answers == setting.target:
            itself |= {"targets": ITSELF, "faces": "the faces themselves"}
        if answers == setting.reference:
            itself["references"] = "the reference itself"
        target = None if "targets" in itself else images[setting.target]
        found = Given(
            images[answers],
            target,
            target,
            None if "references" in itself else images[setting.reference],
            drawn,
            networks,
            absent | itself,
            params.evaluation.seed,
            described=described if setting.target == "test" and target is not None else {},
            masks=masks,
        )
        # as the stage evaluate measures there
        chosen = [metric for metric in registry.metrics() if setting.sets or "targets" in metric.needs]
        rows.setdefault(row, {})[setting.name] = measure.every(chosen, found, params.evaluation, job.threads)[1]
    artifacts.write_json(outputs["summary"], {"n": len(ids), "size": size, "rows": rows})
    job.say(f"baselines: {len(ids)} images as {len(rows)} rows -> {outputs['summary']}")


def _answers(stored: Collection[str]) -> Iterator[tuple[str, Setting, str]]:
    """(row, setting, answers) of what is stored, in settings that show a reference and have a target."""
    for setting in SETTINGS.values():
        if setting.listed and setting.reference and setting.reference in stored and setting.target in stored:
            yield "reference", setting, setting.reference
            yield "mean_color", setting, "mean_color"
    yield "ground_truth", SETTINGS["same"], "test"
    yield "ground_truth", SETTINGS["cross"], "test"
    if "true" in stored:
        yield "true_answer", SETTINGS["cross"], "true"


def mean_color(images: np.ndarray) -> np.ndarray:
    """(3,) uint8: mean over all pixels of (N, H, W, 3) uint8 images, rounded half up; summed in integers."""
    total = sum(images[i : i + CHUNK].sum(axis=(0, 1, 2), dtype=np.int64) for i in range(0, len(images), CHUNK))
    count = images.shape[0] * images.shape[1] * images.shape[2]
    return ((2 * total + count) // (2 * count)).astype(np.uint8)
