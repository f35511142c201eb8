"""Reading the test set back: stored arrays at training size, and coloured images, paired by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import manifest
from ssimbad.pairing import resize


def at_size(path: Path, size: int, ids: list[str]) -> np.ndarray:
    """(N, size, size, 3) uint8 of a stored test array, by the same area resizing as in training.

    Raises:
        UserError: the array does not hold one image per test id.
    """
    return resize.area(manifest.images(path, ids), size)


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
