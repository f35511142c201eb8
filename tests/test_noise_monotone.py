"""The monotone curve against SciPy's, and its inverse against the curve."""

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator

from ssimbad.noise.monotone import Monotone


def points(seed, knots, falling):
    """Places and values of a curve with steps of very different sizes."""
    rng = np.random.default_rng(seed)
    x, y = (np.cumsum(rng.uniform(0.01, 1, knots) ** 3 + 1e-6) - 1 for _ in range(2))
    return x, -y if falling else y


each_curve = pytest.mark.parametrize(
    ("x", "y"), [points(seed, knots, falling) for seed, knots in enumerate((2, 3, 4, 30)) for falling in (False, True)]
)


@each_curve
def test_it_is_scipy_s_pchip_and_constant_outside(x, y):
    curve, theirs = Monotone.through(x, y), PchipInterpolator(x, y)
    places = np.concatenate([np.linspace(x[0], x[-1], 200), x])
    assert curve(torch.from_numpy(places)).numpy() == pytest.approx(theirs(places), abs=1e-12)
    outside = curve(torch.tensor([x[0] - 5, x[-1] + 5]))
    assert outside.tolist() == pytest.approx([y[0], y[-1]], abs=1e-12)


@each_curve
def test_the_inverse_finds_the_place_of_every_value(x, y):
    curve = Monotone.through(x, y)
    values = torch.linspace(float(y[0]), float(y[-1]), 333, dtype=torch.float64)
    places = curve.inverse(values)
    assert curve(places).numpy() == pytest.approx(values.numpy(), abs=1e-10)
    assert (places.diff() > 0).all(), "falling curves too are read from their first value to their last"
    assert curve.inverse(torch.from_numpy(y)).numpy() == pytest.approx(x, abs=1e-5), "flat ends to the root"
    beyond = torch.tensor([y[0] - 9 * (y[-1] - y[0]), y[-1] + 9 * (y[-1] - y[0])])
    assert torch.equal(curve.inverse(beyond), curve.inverse(torch.tensor([y[0], y[-1]])))


def test_the_inverse_holds_where_the_slope_is_zero():
    """PCHIP is flat at an end whose neighbour is steep the other way: there Newton has nothing to divide by."""
    curve = Monotone(*(torch.tensor(a, dtype=torch.float64) for a in ([0, 1], [0, 1], [[1], [0], [0], [0]])))
    values = torch.tensor([0, 1e-12, 0.5, 1], dtype=torch.float64)
    assert curve.inverse(values).tolist() == pytest.approx([0, 1e-4, 0.5 ** (1 / 3), 1], abs=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_any_shape_on_any_device(shape):
    curve = Monotone.through(*points(0, 5, True))
    question = torch.empty(shape, dtype=torch.float64, device="meta")
    for answer in (curve(question), curve.inverse(question)):
        assert (answer.shape, answer.dtype, answer.device.type) == (shape, torch.float64, "meta")


LISTS = "^a monotone curve needs two equally long lists of at least two numbers$"
PLACES = "^a monotone curve needs finite numbers at strictly increasing places$"
VALUES = "^a monotone curve needs strictly increasing or strictly decreasing values$"


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2], LISTS),
        ([[1, 2]], [[1, 2]], LISTS),
        ([1], [1], LISTS),
        ([], [], LISTS),
        ([1, 1, 2], [1, 2, 3], PLACES),
        ([2, 1], [1, 2], PLACES),
        ([1, np.inf], [1, 2], PLACES),
        ([1, 2], [np.nan, 2], PLACES),
        ([1, 2, 3], [1, 1, 2], VALUES),
        ([1, 2, 3], [2, 1, 1], VALUES),
        ([1, 2, 3], [1, 1.5, 1.25], VALUES),
        ([1, 2, 3], [3, 3, 3], VALUES),
    ],
)
def test_points_of_no_monotone_curve_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        Monotone.through(np.array(x, dtype=float), np.array(y, dtype=float))
