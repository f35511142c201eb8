"""Line fidelity, CIEDE2000, palette distance and pixel MMD, each against facts."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab

from ssimbad.metrics.ciede2000 import ciede2000
from ssimbad.metrics.contract import Given, Lines
from ssimbad.metrics.line_fidelity import line_fidelity
from ssimbad.metrics.palette_distance import directions, palette_distance
from ssimbad.metrics.pixel_mmd import METRIC as PIXEL_MMD
from ssimbad.metrics.pixel_mmd import thumbnails
from ssimbad.pairing import resize, xdog

from .test_metrics_registry import XDOG
from .test_metrics_values import faces, worse

SIGMAS = np.array([0.5])


def squares(*corners: tuple[int, int], size: int = 64) -> np.ndarray:
    """(1, size, size, 3) uint8: black squares of 8 pixels on light grey."""
    image = np.full((1, size, size, 3), 220, np.uint8)
    for y, x in corners:
        image[:, y : y + 8, x : x + 8] = 0
    return image


def drawn(images: np.ndarray, sigma: float = 0.5) -> Lines:
    return Lines(xdog.sketch(images, np.full(len(images), sigma), XDOG), SIGMAS, XDOG)


def test_the_face_itself_has_all_lines_of_its_sketch():
    face = squares((8, 8), (40, 30))
    assert (drawn(face).sketches < 255).sum() > 100
    assert line_fidelity(face, drawn(face)).tolist() == [1.0]


def test_half_of_the_lines_are_worth_two_thirds():
    """Soft Dice with all ink of the answer inside twice as much ink: 2·1 / (1 + 2)."""
    both, one = squares((8, 8), (40, 30)), squares((8, 8))
    assert line_fidelity(one, drawn(both))[0] == pytest.approx(2 / 3)
    assert line_fidelity(both, drawn(one))[0] == pytest.approx(2 / 3)


def test_lines_elsewhere_and_no_lines_are_worth_nothing_but_no_lines_for_none_are_right():
    one, blank = squares((8, 8)), squares()
    assert line_fidelity(squares((40, 40)), drawn(one)).tolist() == [0.0]
    assert line_fidelity(blank, drawn(one)).tolist() == [0.0]
    assert line_fidelity(blank, drawn(blank)).tolist() == [1.0]


def test_lines_are_drawn_with_the_images_own_sigma():
    face = faces(1, 64)
    values = [line_fidelity(face, Lines(drawn(face, 0.5).sketches, np.array([s]), XDOG))[0] for s in (0.5, 0.3)]
    assert values[0] == 1 > values[1]


def test_an_answer_at_half_the_sketchs_size_has_lost_fine_lines():
    large = squares((15, 17), (81, 65), size=128)
    assert 0.9 < line_fidelity(resize.area(large, 64), drawn(large))[0] < 1


def test_colours_of_one_brightness_do_not_matter_to_the_lines():
    face = squares((8, 8), (40, 30))
    recoloured = np.where(face == 220, np.array([255, 210, 180], np.uint8), face)
    assert (xdog.grey(recoloured) == xdog.grey(face)).all() and (recoloured != face).any()
    assert line_fidelity(recoloured, drawn(face)).tolist() == [1.0]


def test_a_sketch_that_nobody_drew_by_xdog_is_its_own_ink():
    """Grey lines count by their darkness: ink 0.2 against ink 1 on the same pixels is 2·0.2 / (0.04 + 1)."""
    face = squares((8, 8))
    black = drawn(face)
    assert set(np.unique(black.sketches)) == {0, 255}
    pencil = np.where(black.sketches == 0, 204, 255).astype(np.uint8)
    assert line_fidelity(face, Lines(pencil, SIGMAS, XDOG))[0] == pytest.approx(0.4 / 1.04)


def test_black_and_white_are_a_hundred_apart():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert ciede2000(black, black + 255)[0] == pytest.approx(100, abs=1e-3)
    assert ciede2000(black, black).tolist() == [0.0]


def test_greys_differ_by_their_weighted_lightness():
    """Sharma, Wu & Dalal 2005, eq. 16: S_L = 1 + 0.015 (L - 50)² / sqrt(20 + (L - 50)²), L the mean lightness."""
    a, b = (np.full((1, 2, 2, 3), level, np.uint8) for level in (60, 90))
    low, high = (rgb2lab(x)[0, 0, 0, 0] for x in (a, b))
    off = ((low + high) / 2 - 50) ** 2
    expected = (high - low) / (1 + 0.015 * off / np.sqrt(20 + off))
    assert ciede2000(a, b)[0] == pytest.approx(expected, rel=1e-3)
    half = a.copy()
    half[:, :1] = b[:, :1]
    assert ciede2000(half, a)[0] == pytest.approx(expected / 2, rel=1e-3), "the mean over the pixels"


def test_directions_are_of_unit_length_and_even():
    axes = directions()
    assert axes.shape == (64, 3)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1)
    for shift in np.random.default_rng(0).normal(size=(50, 3)):
        assert np.abs(axes @ shift).mean() == pytest.approx(np.linalg.norm(shift) / 2, rel=0.02)


def test_a_palette_has_no_places():
    image = faces(1, 16)
    moved = np.random.default_rng(0).permutation(image.reshape(-1, 3)).reshape(image.shape)
    assert palette_distance(moved, image).tolist() == [0.0]
    assert palette_distance(image[:, ::-1], image).tolist() == [0.0]


def test_palettes_differ_by_sliced_wasserstein_distance():
    a = faces(1, 16)
    b = worse(a, 30)[:, :, :, ::-1]
    projections = [rgb2lab(x).reshape(-1, 3) @ directions().T for x in (a[0], b[0])]
    expected = np.mean([wasserstein_distance(x, y) for x, y in zip(*(p.T for p in projections), strict=True)])
    assert expected > 1
    assert palette_distance(a, b)[0] == pytest.approx(expected, rel=1e-5)


def test_the_shares_of_the_colours_count():
    """A quarter of the pixels from black to white, 100 in lightness: a quarter of the half of 100."""
    black = np.zeros((1, 8, 8, 3), np.uint8)
    quarter = black.copy()
    quarter[:, :2] = 255
    assert palette_distance(quarter, black)[0] == pytest.approx(12.5, rel=0.02)


@pytest.mark.parametrize("metric", [ciede2000, palette_distance])
def test_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="shape"):
        metric(faces(2, 32), faces(2, 16))


def test_thumbnails_are_means_over_equal_areas_at_any_size():
    image = faces(2, 48)
    assert np.allclose(thumbnails(image), (image.reshape(2, 16, 3, 16, 3, 3).mean(axis=(2, 4)) / 255).reshape(2, -1))
    uneven = thumbnails(faces(2, 40))
    finer = thumbnails(faces(2, 40).repeat(2, axis=1).repeat(2, axis=2))
    assert np.allclose(uneven, finer) and uneven.shape == (2, 768)
    assert np.allclose(uneven.reshape(2, 256, 3).mean(axis=1), faces(2, 40).mean(axis=(1, 2)) / 255)


def test_pixel_mmd_of_black_and_white_is_the_closed_form():
    """k(0, 0) + k(1, 1) - 2 k(0, 1) with k = (x·y / D + 1)³: 1 + 8 - 2."""
    black = np.zeros((2, 32, 32, 3), np.uint8)
    assert PIXEL_MMD.function(Given(black, faces=black + 255)) == pytest.approx(7)


def test_pixel_mmd_tells_sets_apart_and_its_halves_not():
    images = faces(60, 16)
    alike = PIXEL_MMD.function(Given(images[:30], faces=images[30:]))
    other = PIXEL_MMD.function(Given(images[:30] // 2, faces=images[30:]))
    assert abs(alike) < other / 10
