"""Stage evaluate: one archive of colourised images against its targets, paired by id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.metrics import face_features, measure, registry
from ssimbad.metrics.contract import Given, Lines
from ssimbad.metrics.test_set import at_size, by_id
from ssimbad.pairing import resize, xdog
from ssimbad.pairing.settings import SETTINGS
from ssimbad.runtime.job import Job

if TYPE_CHECKING:
    from ssimbad.params.blocks import Sketches
    from ssimbad.params.tree import Params


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Measure one method's images in one setting.

    The target is the sketch's own face (settings same, cross: the published protocol) or the rendering of the
    sketch's shape with the reference's palette (cross-true, and cross-other, whose images were made with
    somebody else's reference). What is not measured against a target belongs to the published protocol alone: the set
    against the set of test faces, the lines against the sketches, the colours against the reference shown.

    Inputs: images (zip), test (.npy), manifest (.csv), true (.npy, for cross-true and cross-other), sketches and
    references (.npy, for same and cross), true_masks (.npy, where there are any), and, where enabled, the weights
    files of feature networks, by their names, and what they see in the test faces, `<network>_faces` (.npy).
    Outputs: images (CSV: id and one column per metric), summary (JSON).

    Raises:
        UserError: the archive's ids are not the manifest's test ids, or an image has another size.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    setting, size = SETTINGS[job.setting], params.data.size
    images = by_id(inputs["images"], ids, size)
    networks, absent = measure.load_networks(inputs, registry.networks(), job.threads)
    stored = {name: at_size(inputs[name], size, ids) for name in ("test", "true", "references") if name in inputs}
    given = Given(
        images,
        stored[setting.target] if setting.target else None,
        stored["test"] if setting.sets else None,
        stored.get("references"),
        lines(inputs["sketches"], ids, params.sketches) if "sketches" in inputs else None,
        networks,
        absent,
        params.evaluation.seed,
        described=face_features.stored(inputs, len(ids)),
        masks=resize.area(manifest.images(inputs["true_masks"], ids), size) if "true_masks" in inputs else None,
    )
    # Sets, lines and colours shown belong to the settings whose sets are compared: the others are controls of a target.
    chosen = [metric for metric in registry.metrics() if setting.sets or "targets" in metric.needs]
    values, metrics = measure.every(chosen, given, params.evaluation, job.threads)
    write_values(outputs["images"], ids, values)
    summary = {"method": job.method, "stage": job.of, "seed": job.seed, "setting": job.setting}
    artifacts.write_json(outputs["summary"], summary | {"n": len(ids), "size": size, "metrics": metrics})
    job.metrics(0, {name: m["value"] for name, m in metrics.items() if m["value"] is not None})
    first = next((m for m in chosen if m.id in metrics and metrics[m.id]["value"] is not None), None)
    told = f", {first.label} {first.shown(metrics[first.id]['value'])}" if first else ""
    job.say(f"{job.name}: {len(ids)} images{told} -> {outputs['summary']}")


def lines(path: Path, ids: list[str], sketches: Sketches) -> Lines:
    """The test set's sketches, and how they were drawn by the parameters `sketches`.

    Raises:
        UserError: the array does not hold one image per test id.
    """
    return Lines(manifest.images(path, ids), xdog.draw_sigma(ids, sketches.seed, sketches), sketches)


def write_values(path: Path, ids: list[str], values: dict[str, np.ndarray]) -> None:
    """CSV with column id and one column per metric."""
    columns = [[f"{value:.{measure.DIGITS}f}" if value == value else None for value in of] for of in values.values()]
    artifacts.write_csv(path, ["id", *values], zip(ids, *columns, strict=True))
