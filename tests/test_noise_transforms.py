"""phi and its inverses against the published facts."""

import numpy as np
import pytest
import torch

from ssimbad.noise import ddpm
from ssimbad.noise.transforms import FORMS, PUBLISHED, RATIONAL_GRID, levels, make, sample_sigma, unit

LOW, HIGH = 0.002, 80.0
KNOTS = np.geomspace(LOW, HIGH, 32)
# A curve like 1 - SSIM: steep in the middle, nearly flat at both ends.
EMPIRICAL = {
    "form": "empirical",
    "sigmas": KNOTS.tolist(),
    "values": (KNOTS**1.4 / (KNOTS**1.4 + 0.1)).tolist(),
}
FALLING = {"form": "empirical", "sigmas": KNOTS.tolist(), "values": np.linspace(1, 0.01, 32).tolist()}
SPECS = [*PUBLISHED, {"form": "erf"}, {"form": "edm"}, EMPIRICAL, FALLING]
SATURATED = {"tanh": 7.25, "sigmoid": 13.8, "erf": 17.3}


def name(spec):
    return "-".join(str(v) for v in spec.values() if not isinstance(v, list))


each_spec = pytest.mark.parametrize("spec", SPECS, ids=name)


def test_there_are_22_published_candidates_of_which_ten_are_rational():
    assert len({str(spec) for spec in PUBLISHED}) == len(PUBLISHED) == 22
    assert [spec["c"] for spec in RATIONAL_GRID] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert {"edm", "erf", "empirical"}.isdisjoint(spec["form"] for spec in PUBLISHED)
    assert {spec["form"] for spec in SPECS} == set(FORMS)


@each_spec
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_inverse_undoes_forward_to_1e_6(spec, kind):
    phi = make(spec)
    top = phi.saturates_at(HIGH) or HIGH
    sigma = np.geomspace(LOW, top * 0.999 if top < HIGH else HIGH, 1001)
    sigma = torch.from_numpy(sigma) if kind == "torch" else sigma
    back = phi.inverse(phi.forward(sigma))
    assert type(back) is type(sigma) and back.dtype == sigma.dtype
    assert float(abs(back / sigma - 1).max()) < 1e-6


@each_spec
def test_phi_is_strictly_monotone_below_saturation(spec):
    phi = make(spec)
    steps = np.diff(phi.forward(np.geomspace(LOW, (phi.saturates_at(HIGH) or HIGH) * 0.999, 500)))
    assert (steps > 0).all() or (steps < 0).all()


@each_spec
def test_levels_end_exactly_fall_and_are_uniform_in_phi(spec):
    phi = make(spec)
    for n in (1, 2, 10, 50):
        grid = levels(phi, n, LOW, HIGH)
        assert grid.shape == (n + 1,) and grid.dtype == torch.float64
        assert grid[-1] == 0 and grid[0] == (phi.saturates_at(HIGH) or HIGH)
        assert n == 1 or grid[-2] == LOW
        assert (grid.diff() < 0).all()
        steps = phi.forward(grid[:-1]).diff()
        assert n < 3 or float((steps / steps.mean() - 1).abs().max()) < 1e-6


# For c = 0.3, to the digits shown.
@pytest.mark.parametrize(
    ("n", "start", "end"),
    [
        (10, [80, 2.34, 1.04, 0.600, 0.376, 0.242, 0.152, 0.088, 0.040, 0.002, 0], []),
        (
            18,
            [80, 4.54, 2.20, 1.38, 0.968, 0.718, 0.550, 0.430, 0.339, 0.269, 0.212, 0.166],
            [0.021, 0.002, 0],
        ),
        (50, [80, 12.24, 6.50, 4.36, 3.25, 2.56, 2.10, 1.77], [0.0216, 0.0148, 0.0083, 0.002, 0]),
        (500, [80, 52.2, 38.6, 30.7, 25.4], [0]),
    ],
)
def test_known_levels_of_the_published_map(n, start, end):
    grid = levels(make({"form": "rational", "c": 0.3}), n, LOW, HIGH).tolist()
    assert grid[: len(start)] == pytest.approx(start, rel=2.5e-3, abs=6e-4)
    assert not end or grid[-len(end) :] == pytest.approx(end, rel=2.5e-3, abs=6e-4)


def test_known_values_of_the_published_map():
    phi = make({"form": "rational", "c": 0.3})
    assert phi.forward(LOW) == pytest.approx(0.0066225, abs=5e-8)
    assert phi.forward(HIGH) == pytest.approx(0.9962640, abs=5e-8)
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = sample_sigma(phi, u, LOW, HIGH)
    for x, share in ((0.01, 0.026), (0.1, 0.246), (0.3, 0.499), (1, 0.771), (3, 0.912), (10, 0.974)):
        assert float((sigma < x).double().mean()) == pytest.approx(share, abs=4e-3)


def test_edm_levels_are_the_rho_7_grid_of_karras():
    i = np.arange(18)
    expected = (HIGH ** (1 / 7) + i / 17 * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7
    assert levels(make({"form": "edm"}), 18, LOW, HIGH)[:-1].numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("form", "sigma"), SATURATED.items())
def test_saturating_forms_stop_where_the_clip_puts_them(form, sigma):
    phi = make({"form": form}, 1e-6)
    assert phi.saturates_at(HIGH) == pytest.approx(sigma, abs=0.05)
    assert phi.saturates_at(1.0) is None
    assert phi.saturates_at(phi.saturates_at(HIGH)) is None, "up to there it changes"
    assert phi.inverse(phi.forward(HIGH)) == pytest.approx(sigma, abs=0.05)
    assert make({"form": form}, 1e-3).saturates_at(HIGH) < 0.9 * sigma


@pytest.mark.parametrize("spec", [s for s in SPECS if s["form"] not in SATURATED], ids=name)
def test_other_forms_do_not_saturate(spec):
    assert make(spec).saturates_at(HIGH) is None


def test_erf_inverse_has_no_stray_root_of_two():
    phi = make({"form": "erf"})
    assert phi.inverse(phi.forward(1.0)) == pytest.approx(1.0, rel=1e-9)  # the public code gives 1.414
    assert phi.forward(5.0) == pytest.approx(0.8427007929, abs=1e-9)  # erf(1)


@each_spec
def test_unit_runs_from_0_to_1(spec):
    phi = make(spec)
    values = unit(phi, np.geomspace(LOW, HIGH, 300), LOW, HIGH)
    assert values[0] == 0 and values[-1] == 1
    assert (np.diff(values) >= 0).all()


@each_spec
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_shape_are_kept_and_the_range_is_respected(spec, dtype):
    phi = make(spec)
    u = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    u[0, 0] = 0
    sigma = sample_sigma(phi, u, LOW, HIGH)
    assert sigma.shape == (3, 5) and sigma.dtype == dtype
    slack = torch.finfo(dtype).eps
    assert sigma.min() >= LOW * (1 - slack) and sigma.max() <= HIGH * (1 + slack)
    assert float(sigma[0, 0]) == pytest.approx(LOW, rel=max(2 * slack, 1e-9))


@each_spec
def test_the_ends_of_u_are_those_of_sigma(spec):
    sigma = sample_sigma(make(spec), torch.tensor([0.0, 1.0], dtype=torch.float64), LOW, HIGH)
    assert sigma.min() >= LOW and sigma.max() <= HIGH
    assert float(sigma[0]) == pytest.approx(LOW, rel=1e-9)


def test_whole_numbers_are_answered_in_float64_and_float32_in_its_own():
    phi = make({"form": "log1p"})
    for whole in (np.array([1, 3]), torch.tensor([1, 3])):
        answer = phi.forward(whole)
        assert type(answer) is type(whole) and str(answer.dtype).endswith("float64")
        assert np.asarray(answer) == pytest.approx(np.log1p([1, 3]), rel=1e-15)
    single = np.array([1e-7], dtype=np.float32)
    assert phi.forward(single).dtype == np.float32
    small = make({"form": "log1p_square"}).forward(single)
    assert float(small[0]) == pytest.approx(float(single[0]) ** 2, rel=1e-6)
    assert type(phi.forward(3)) is float


def test_float32_is_computed_in_float64():
    phi = make({"form": "rational", "c": 0.3})
    u = torch.tensor([0.9999999], dtype=torch.float32)
    exact = sample_sigma(phi, u.double(), LOW, HIGH)
    assert float(sample_sigma(phi, u, LOW, HIGH)) == pytest.approx(float(exact), rel=1e-7)


def test_empirical_goes_through_its_knots_and_stays_inside_them():
    phi = make(EMPIRICAL)
    assert phi.forward(KNOTS) == pytest.approx(np.array(EMPIRICAL["values"]), abs=1e-14)
    assert phi.forward(np.array([1e-5, 1e3])) == pytest.approx([EMPIRICAL["values"][i] for i in (0, -1)])
    assert phi.inverse(np.array([-1.0, 2.0])) == pytest.approx([LOW, HIGH])


def test_spec_makes_the_same_map_again():
    for spec in SPECS:
        phi = make(spec)
        again = make(phi.spec)
        assert again.spec == phi.spec and again.forward(0.7) == phi.forward(0.7)
        assert again.form == phi.form == spec["form"]
    assert make({"form": "rational", "c": 0.3}).label == "s/(s+0.3)" and make({"form": "log"}).label == "ln s"
    whole = {"form": "empirical", "sigmas": [1, 2, 4], "values": [0, 1, 5]}
    assert make(whole).forward(2.0) == pytest.approx(1) and make(whole).label == "1 - mean SSIM"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"form": "ratoinal", "c": 0.3}, "known: identity, log"),
        ({}, "unknown form None"),
        ({"form": "rational"}, "needs c"),
        ({"form": "rational", "c": -1}, "positive"),
        ({"form": "rational", "c": 0}, "positive"),
        ({"form": "rational", "c": float("inf")}, "positive"),
        ({"form": "rational", "c": True}, "positive"),
        ({"form": "rational", "c": "0.3"}, "positive"),
        ({"form": "rational", "c": 0.3, "d": 1}, "no parameter 'd'; it has: c$"),
        ({"form": "log", "c": 0.3}, "no parameter 'c'; it has: none$"),
        ({"form": "empirical", "sigmas": [1, 2]}, "exactly sigmas and values"),
        ({"form": "empirical", "sigmas": [1, 2, 3], "values": [0, 1, 1]}, "strictly"),
        (
            {"form": "empirical", "sigmas": [0, 1], "values": [0, 1]},
            "^form empirical: sigmas must be a list of positive",
        ),
        ({"form": "empirical", "sigmas": [1, 2], "values": [0, float("nan")]}, "finite"),
    ],
)
def test_wrong_literals_say_what_is_wrong(spec, words):
    with pytest.raises(ValueError, match=words):
        make(spec)


def test_a_grid_has_a_level():
    with pytest.raises(ValueError, match=r"^a schedule has at least one level; got 0$"):
        levels(make({"form": "log"}), 0, LOW, HIGH)


def test_the_roots_of_scaled_betas_are_linear():
    betas = ddpm.scaled_betas(5, 0.04, 0.36)
    assert betas.dtype == torch.float64
    assert betas.tolist() == pytest.approx([0.2**2, 0.3**2, 0.4**2, 0.5**2, 0.6**2], rel=1e-12)


def test_ddpm_schedule_has_the_published_ends():
    alpha_bar = ddpm.alpha_bar(1000, 1e-6, 1e-2)
    assert alpha_bar.dtype == torch.float64 and alpha_bar.shape == (1000,)
    assert float(alpha_bar[0]) == pytest.approx(1 - 1e-6, rel=1e-12)
    # The signal left at the end is 0.081, at t = 901 0.130.
    assert float(alpha_bar[999].sqrt()) == pytest.approx(0.081, abs=6e-4)
    assert float(alpha_bar[901].sqrt()) == pytest.approx(0.130, abs=6e-4)
    sigma = ddpm.sigma(1000, 1e-6, 1e-2)
    assert torch.allclose(sigma, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=1e-9)
    assert (sigma.diff() > 0).all()
