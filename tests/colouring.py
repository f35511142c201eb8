"""What tests of colouring share: small weights, a sketch in the forms in which sketches come, and a reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts


def write_weights(folder: Path) -> Path:
    from ssimbad.methods import registry
    from ssimbad.training import checkpoints

    from .small import build, setup

    path = folder / "seed-0.safetensors"
    checkpoints.write_weights(path, build().state_dict())
    made = {
        "setup": registry.described(setup()),
        "stage": "pretrain",
        "parameters": 1,
        "colour": {"sampler": {"name": "euler", "steps": 2}},
    }
    artifacts.write_json(path.with_suffix(".json"), made)
    return path


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """A sketch of 40×25 with one black line, in the forms in which sketches come, and a reference."""
    lines = np.full((40, 25), 255, np.uint8)
    lines[10:13, 3:20] = 0
    folder = tmp_path / "sketches"
    folder.mkdir()
    Image.fromarray(lines).save(folder / "grey.png")
    Image.fromarray(255 - lines).save(folder / "negative.png")
    alpha = np.zeros((40, 25, 4), np.uint8)
    alpha[..., 3] = 255 - lines
    Image.fromarray(alpha).save(folder / "alpha.png")
    white = alpha.copy()
    white[..., :3] = 255
    Image.fromarray(white).save(folder / "white-on-nothing.png")
    Image.fromarray((lines // 2 + 100).astype(np.uint8)).save(folder / "pencil.png")
    reference = tmp_path / "reference.jpg"
    Image.fromarray(np.full((30, 60, 3), (200, 40, 90), np.uint8)).save(reference)
    return folder, reference
