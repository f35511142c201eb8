"""XDoG against a literal evaluation of its published formula."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from ssimbad.pairing import xdog
from ssimbad.params.blocks import Sketches

XDOG = Sketches(sigmas=[0.3, 0.4, 0.5], k=3.5, p=10.0, epsilon=0.01, phi=1.0e9, seed=0)


def _literal(image: np.ndarray, sigma: float, config: xdog.XDoGConfig) -> np.ndarray:
    """Pixel by pixel, with the Gaussian as a plain two-dimensional sum over a mirrored picture."""
    height, width, _ = image.shape
    grey = [[round(float(r * 0.299 + g * 0.587 + b * 0.114)) / 255 for r, g, b in row] for row in image.tolist()]

    def mirrored(i: int, n: int) -> int:
        i = abs(i) % (2 * n - 2)
        return min(i, 2 * n - 2 - i)

    def gauss(y: int, x: int, s: float) -> float:
        reach = range(-int(4 * s + 0.5), int(4 * s + 0.5) + 1)
        total = weights = 0.0
        for i in reach:
            for j in reach:
                w = math.exp(-(i * i + j * j) / (2 * s * s))
                total += w * grey[mirrored(y + i, height)][mirrored(x + j, width)]
                weights += w
        return total / weights

    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            s = (1 + config.p) * gauss(y, x, sigma) - config.p * gauss(y, x, config.k * sigma)
            u = grey[y][x] * s
            t = 1.0 if u >= config.epsilon else 1 + math.tanh(config.phi * (u - config.epsilon))
            out[y, x] = np.rint(255 * t)
    return out


def _faces(count: int, side: int) -> np.ndarray:
    picture = data.astronaut()
    return np.stack([picture[4 * i : 4 * i + side, 180 : 180 + side] for i in range(count)])


@pytest.mark.parametrize("sigma", XDOG.sigmas)
def test_equals_the_literal_evaluation(sigma):
    image = data.astronaut()[100:137, 210:235]  # smaller than a block, larger than a block, not square
    drawn = xdog.sketch(image[None], np.array([sigma]), XDOG)[0]
    np.testing.assert_array_equal(drawn, _literal(image, sigma, XDOG))
    assert 0 < (drawn == 0).mean() < 1


def test_soft_flank_too():
    soft = XDOG.model_copy(update={"epsilon": 0.2, "phi": 8.0})
    image = data.astronaut()[100:120, 210:230]
    drawn = xdog.sketch(image[None], np.array([0.4]), soft)[0]
    np.testing.assert_array_equal(drawn, _literal(image, 0.4, soft))
    assert len(np.unique(drawn)) > 10


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0])
def test_whole_picture_equals_scipy_gaussians(sigma):
    image = _faces(1, 200)[0]
    grey = xdog.grey(image)
    narrow, wide = (gaussian_filter(grey, s, mode="mirror") for s in (sigma, XDOG.k * sigma))
    expected = np.where(grey * (11 * narrow - 10 * wide) >= XDOG.epsilon, 255, 0)
    drawn = xdog.sketch(image[None], np.array([sigma]), XDOG)[0]
    assert (drawn != expected).mean() == 0


def test_practically_binary_and_white_on_flat_colour():
    drawn = xdog.sketch(_faces(3, 128), np.array([0.3, 0.4, 0.5]), XDOG)
    assert np.isin(drawn, [0, 255]).mean() > 0.9999
    assert {0, 255} <= set(np.unique(drawn))
    assert xdog.sketch(np.full((1, 40, 40, 3), 90, np.uint8), np.array([0.3]), XDOG).min() == 255


def test_grey_is_opencvs():
    # 255·0.299 = 76.2, 255·0.587 = 149.7, 255·0.114 = 29.1; a byte each, as OpenCV gives for bytes.
    pure = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    np.testing.assert_allclose(xdog.grey(pure) * 255, [[76, 150, 29, 255, 0]], atol=1e-9)


def test_threads_and_batches_do_not_matter():
    faces, sigmas = _faces(7, 96), np.array([0.3, 0.4, 0.5, 0.3, 0.4, 0.5, 0.3])
    together = xdog.sketch(faces, sigmas, XDOG, threads=3)
    alone = [xdog.sketch(faces[i : i + 1], sigmas[i : i + 1], XDOG)[0] for i in range(7)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_sigma_belongs_to_the_id():
    ids = [f"face-{i}" for i in range(300)]
    sigmas = xdog.draw_sigma(ids, 5, XDOG)
    assert dict(zip(ids, sigmas, strict=True)) == dict(zip(ids[::-1], xdog.draw_sigma(ids[::-1], 5, XDOG), strict=True))
    assert {float(s): True for s in sigmas} == dict.fromkeys(XDOG.sigmas, True)
    assert all(70 < (sigmas == s).sum() < 130 for s in XDOG.sigmas)
    assert (xdog.draw_sigma(ids, 6, XDOG) != sigmas).any()
