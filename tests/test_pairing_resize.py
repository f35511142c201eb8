"""Area resizing and the conversion between bytes and [-1, 1]."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch

from ssimbad import artifacts
from ssimbad.pairing import resize


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(("shape", "size"), [((2, 6, 6, 3), 2), ((3, 8, 8), 4), ((1, 10, 10, 3), 1), ((2, 4, 4, 3), 4)])
def test_area_is_the_block_mean_rounded_half_up(shape, size):
    images = _random(*shape)
    k = shape[1] // size
    resized = resize.area(images, size)
    assert resized.shape == (shape[0], size, size, *shape[3:])
    assert resized.dtype == np.uint8
    for index in np.ndindex(resized.shape):
        n, i, j, *c = index
        block = images[(n, slice(i * k, i * k + k), slice(j * k, j * k + k), *c)]
        assert resized[index] == floor(Fraction(int(block.sum()), k * k) + Fraction(1, 2))


def test_a_half_goes_up():
    assert resize.area(np.array([[[0, 1], [0, 1]]], np.uint8), 1).item() == 1
    assert resize.area(np.array([[[2, 3], [2, 3]]], np.uint8), 1).item() == 3
    assert resize.area(np.full((1, 64, 64, 3), 255, np.uint8), 1).min() == 255


def test_memory_mapped_chunks_give_the_same(tmp_path, monkeypatch):
    images = _random(7, 8, 8, 3)
    artifacts.write_array(tmp_path / "a.npy", images)
    whole = resize.area(images, 4)
    monkeypatch.setattr(resize, "CHUNK_BYTES", 400)
    np.testing.assert_array_equal(resize.area(artifacts.read_array(tmp_path / "a.npy"), 4), whole)


@pytest.mark.parametrize("images", [np.zeros((1, 6, 6)), np.zeros((1, 6, 7), np.uint8), np.zeros((1, 6, 6), np.uint8)])
def test_area_refuses_what_it_cannot_do(images):
    with pytest.raises(ValueError, match="area resizing"):
        resize.area(images, 4)


def test_bytes_survive_the_round_trip():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    unit = resize.to_unit(every)
    assert unit.shape == (1, 1, 16, 16)
    assert unit.dtype == torch.float32
    assert (unit.min(), unit.max()) == (-1, 1)
    np.testing.assert_array_equal(resize.to_bytes(unit), every)
    colour = _random(2, 5, 5, 3)
    unit = resize.to_unit(colour)
    assert unit.shape == (2, 3, 5, 5)
    assert unit[1, 2, 3, 4].item() == pytest.approx(colour[1, 3, 4, 2] / 127.5 - 1)
    np.testing.assert_array_equal(resize.to_bytes(unit), colour)


def test_to_bytes_clamps():
    np.testing.assert_array_equal(resize.to_bytes(torch.tensor([[[[-7.0, 7.0]]]])), [[[0, 255]]])
