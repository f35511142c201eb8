"""Stage baselines: what no method at all scores, by the metrics of the stage evaluate."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.metrics import measure
from ssimbad.metrics.test_set import at_size
from ssimbad.runtime.job import Job

CHUNK = 256


def run(params: Any, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Score the bare warped reference, and one flat image of the training set's mean colour.

    Inputs: test, same, cross, train (.npy), true (.npy, embedded data only), manifest (.csv), and inception,
    alexnet where enabled. Output: summary, {n, size, rows: {reference, mean_color: {setting: {metric: …}}}}.

    Raises:
        UserError: an array does not hold one image per test id.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    size = params.data.size
    networks = measure.load_networks(inputs, job.threads)
    color = mean_color(artifacts.read_array(inputs["train"]))
    flat = np.broadcast_to(color, (len(ids), size, size, 3)).copy()
    rows: dict[str, dict[str, Any]] = {"reference": {}, "mean_color": {}}
    for setting, reference, target in _settings(inputs):
        targets = at_size(inputs[target], size, ids)
        for row, images in (("reference", at_size(inputs[reference], size, ids)), ("mean_color", flat)):
            values = measure.per_image(images, targets, networks)
            metrics = measure.summarise(values, size, networks, params.evaluation)
            if setting != "cross-true":
                metrics |= measure.distribution(images, targets, networks, params.evaluation.seed)
            rows[row][setting] = metrics
    artifacts.write_json(outputs["summary"], {"n": len(ids), "size": size, "rows": rows})
    job.say(f"baselines: {len(ids)} images in {len(rows['reference'])} settings -> {outputs['summary']}")


def _settings(inputs: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """(setting, input with the references, input with the targets)."""
    yield "same", "same", "test"
    yield "cross", "cross", "test"
    if "true" in inputs:
        yield "cross-true", "cross", "true"


def mean_color(images: np.ndarray) -> np.ndarray:
    """(3,) uint8: mean over all pixels of (N, H, W, 3) uint8 images, rounded half up; summed in integers."""
    total = sum(images[i : i + CHUNK].sum(axis=(0, 1, 2), dtype=np.int64) for i in range(0, len(images), CHUNK))
    count = images.shape[0] * images.shape[1] * images.shape[2]
    return ((2 * total + count) // (2 * count)).astype(np.uint8)
