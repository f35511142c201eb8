"""Cosine similarity of CLIP's embeddings of answer and target (Radford et al. 2021), of images and not of texts."""

from __future__ import annotations

import numpy as np

from ssimbad.errors import there
from ssimbad.metrics.contract import Given, Metric
from ssimbad.metrics.lpips import distances


def _similarity(given: Given) -> np.ndarray:
    return 1 - distances(given.images, there(given.targets), *given.networks["clip"])


METRIC = Metric(
    id="clip_image", label="CLIP, image", decimals=4, better="↑", function=_similarity, needs=("targets", "clip"),
    place=120,
)  # fmt: skip
