"""Stage evaluate: one archive of colourised images against its targets, paired by id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.metrics import measure
from ssimbad.metrics.test_set import at_size, by_id
from ssimbad.pairing.settings import SETTINGS
from ssimbad.runtime.job import Job


def run(params: Any, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Measure one method's images in one setting.

    The target is the sketch's own face (settings same, cross: the published protocol) or the rendering of the
    sketch's shape with the reference's palette (cross-true, and cross-other, whose images were made with
    somebody else's reference). FID and KID belong to the published protocol alone.

    Inputs: images (zip), test (.npy), manifest (.csv), true (.npy, for cross-true and cross-other), and
    inception, alexnet where enabled.
    Outputs: images (CSV: id and one column per metric), summary (JSON).

    Raises:
        UserError: the archive's ids are not the manifest's test ids, or an image has another size.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    setting = SETTINGS[job.setting]
    targets = at_size(inputs[setting.target or "test"], params.data.size, ids)
    images = by_id(inputs["images"], ids, params.data.size)
    networks = measure.load_networks(inputs, job.threads)
    values = measure.per_image(images, targets, networks)
    metrics = measure.summarise(values, params.data.size, networks, params.evaluation)
    if setting.sets:
        metrics |= measure.distribution(images, targets, networks, params.evaluation.seed)
    write_values(outputs["images"], ids, values)
    summary = {"method": job.method, "stage": job.of, "seed": job.seed, "setting": job.setting}
    artifacts.write_json(outputs["summary"], summary | {"n": len(ids), "size": params.data.size, "metrics": metrics})
    job.metrics(0, {name: m["value"] for name, m in metrics.items() if m["value"] is not None})
    job.say(f"{job.name}: {len(ids)} images, PSNR {metrics['psnr']['value']:.2f} dB -> {outputs['summary']}")


def write_values(path: Path, ids: list[str], values: dict[str, np.ndarray]) -> None:
    """CSV with column id and one column per metric."""
    import pandas as pd

    frame = pd.DataFrame({"id": ids} | values)
    artifacts.write_text(path, frame.to_csv(index=False, float_format=f"%.{measure.DIGITS}f", lineterminator="\n"))
