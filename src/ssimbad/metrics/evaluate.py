"""Stage evaluate: one archive of colourised images against its targets, paired by id (SPEC §5)."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.job import Job
from ssimbad.metrics import measure
from ssimbad.pairing import resize


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
    torch.set_num_threads(job.threads)
    ids = test_ids(inputs["manifest"])
    answers = job.setting in ("cross-true", "cross-other")
    path = inputs["true" if answers else "test"]
    targets = at_size(path, params.data.size, ids)
    images = by_id(inputs["images"], ids, params.data.size)
    networks = measure.load_networks(inputs)
    values = measure.per_image(images, targets, networks)
    metrics = measure.summarise(values, params.data.size, networks, params.evaluation)
    if not answers:
        metrics |= measure.distribution(images, targets, networks, params.evaluation.seed)
    write_values(outputs["images"], ids, values)
    summary = {"method": job.method, "stage": job.of, "seed": job.seed, "setting": job.setting}
    artifacts.write_json(
        outputs["summary"], summary | {"n": len(ids), "size": params.data.size, "metrics": metrics}
    )
    job.say(f"{job.name}: {len(ids)} images, PSNR {metrics['psnr']['value']:.2f} dB -> {outputs['summary']}")


def test_ids(manifest: Path) -> list[str]:
    """Ids of the test split, in the order of the arrays.

    Raises:
        UserError: no such file, or it lists no test face.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            ids = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    except FileNotFoundError:
        raise UserError(f"{manifest}: not there; run the stage faces") from None
    except KeyError as error:
        raise UserError(
            f"{manifest}: column {error} is missing; delete it and run the stage faces again"
        ) from None
    if not ids:
        raise UserError(f"{manifest}: lists no test face; set data.test and run the stage faces again")
    return ids


def at_size(path: Path, size: int, ids: list[str]) -> np.ndarray:
    """(N, size, size, 3) uint8 of a stored test array, by the same area resizing as in training.

    Raises:
        UserError: the array does not hold one image per test id.
    """
    array = artifacts.read_array(path)
    if len(array) != len(ids):
        raise UserError(
            f"{path}: {len(array)} images for {len(ids)} test ids; run the stage that makes it again"
        )
    return resize.area(array, size)


def by_id(path: Path, ids: list[str], size: int) -> np.ndarray:
    """(N, size, size, 3) uint8: the images of an archive of `<id>.png` in the order of `ids`.

    Raises:
        UserError: ids are missing or unknown, or an image has another size.
    """
    images = artifacts.read_png_zip(path)
    for problem, names in (
        ("no image for test ids", [i for i in ids if i not in images]),
        ("images of no test id", sorted(images.keys() - set(ids))),
    ):
        if names:
            raise UserError(f"{path}: {problem} {_listed(names)}; run the stage colorize again")
    wrong = [i for i in ids if images[i].shape != (size, size, 3)]
    if wrong:
        raise UserError(f"{path}: not {size}×{size} pixels: {_listed(wrong)}; run the stage colorize again")
    return np.stack([images[i] for i in ids])


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def write_values(path: Path, ids: list[str], values: dict[str, np.ndarray]) -> None:
    """CSV with column id and one column per metric."""
    frame = pd.DataFrame({"id": ids} | values)
    artifacts.write_text(
        path, frame.to_csv(index=False, float_format=f"%.{measure.DIGITS}f", lineterminator="\n")
    )
