"""Stage face_features: what networks see in the test faces, once for all sets that are compared with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssimbad import artifacts
from ssimbad.faces import manifest
from ssimbad.features import registry
from ssimbad.metrics import measure
from ssimbad.metrics.test_set import at_size
from ssimbad.runtime.job import Job

if TYPE_CHECKING:
    from ssimbad.params.tree import Params


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Describe the test faces, at training size, by every network named in `outputs`.

    Inputs: test (.npy), manifest (.csv), and the weights files of those networks, by their names.
    Outputs: of each network (N, D) float64 .npy, by its `described`, in manifest order.

    Raises:
        UserError: a file holds something else.
    """
    ids = manifest.ids(inputs["manifest"], "test")
    faces = at_size(inputs["test"], params.data.size, ids)
    networks, _ = measure.load_networks(inputs, outputs, job.threads)
    for name, path in outputs.items():
        found = registry.module(name).described(faces, *networks[name])
        artifacts.write_array(path, found)
        job.say(f"{job.name}: {len(ids)} faces by {name}, {found.shape[1]} features each -> {path}")


def stored(inputs: Mapping[str, Path], faces: int) -> dict[str, np.ndarray]:
    """What a stage was given of them as `<network>_faces`, by network: (faces, D) float64.

    Raises:
        UserError: they are of other faces.
    """
    ending = "_faces"
    files = {name.removesuffix(ending): path for name, path in inputs.items() if name.endswith(ending)}
    return {name: manifest.images(path, range(faces)) for name, path in files.items()}
