"""Samplers against the exact solution for Gaussian data, where the best denoiser is known."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from ssimbad.noise import ddpm, transforms
from ssimbad.params.base import Churn
from ssimbad.samplers.ancestral import ancestral
from ssimbad.samplers.counts import NONE, ODE, Calls
from ssimbad.samplers.ode import SAMPLERS, ddim, heun, inversion, phi2, raised, watched
from ssimbad.samplers.ode import make as make_sampler

MEAN, STD = 0.3, 0.5
RATIONAL = transforms.make({"form": "rational", "c": 0.3})


def make(name, fresh=lambda: None, phi=RATIONAL, **own):
    return make_sampler(name, fresh, phi, **own)


def gaussian_denoiser(x, sigma):
    """E[y | y + sigma n = x] for y ~ N(MEAN, STD²)."""
    s = sigma[:, None, None, None]
    return (STD**2 * x + s**2 * MEAN) / (STD**2 + s**2)


def grid(steps):
    return transforms.levels(RATIONAL, steps, 0.002, 80.0)


def exact(noise):
    """The probability-flow ODE carries x at sigma_max to MEAN + STD (x - MEAN) / sqrt(STD² + sigma_max²)."""
    return MEAN + STD * (80 * noise - MEAN) / (STD**2 + 80**2) ** 0.5


@pytest.mark.parametrize(
    ("name", "steps", "error"),
    [
        *(("euler", 400, 0.02), ("ddim", 400, 0.02)),
        *(("heun", 60, 0.01), ("phi2", 60, 0.01), ("log2", 60, 0.01), ("dpmpp_2m", 60, 0.01)),
    ],
)
def test_mean_and_spread_of_a_gaussian_come_back(name, steps, error):
    noise = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = make(name)(gaussian_denoiser, 80 * noise, grid(steps))
    assert (image - exact(noise)).abs().max() < error * 5
    assert image.mean().item() == pytest.approx(exact(noise).mean().item(), abs=error)
    assert image.std().item() == pytest.approx(STD, rel=error)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("phi2", 2), ("log2", 2), ("dpmpp_2m", 1.7)])
def test_order_of_convergence(name, order):
    noise = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [
        (make(name)(gaussian_denoiser, 80 * noise, grid(n)) - exact(noise)).abs().mean().item() for n in (40, 160)
    ]
    measured = torch.log(torch.tensor(errors[0] / errors[1])) / torch.log(torch.tensor(4.0))
    assert measured > order - 0.35


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_number_of_network_calls(name, steps):
    calls = []

    def counting(x, sigma):
        calls.append(sigma[0].item())
        return gaussian_denoiser(x, sigma)

    make(name)(counting, torch.randn(2, 3, 4, 4), grid(steps))
    assert len(calls) == ODE[name].of(steps)
    assert min(calls) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_oracle_is_believed(name):
    target = torch.rand(2, 3, 4, 4) * 2 - 1
    image = make(name)(lambda x, sigma: target, 80 * torch.randn(2, 3, 4, 4), grid(5))
    assert torch.allclose(image, target, atol=1e-4)


def stream(seed=5):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(64, 3, 8, 8, generator=generator)


@pytest.mark.parametrize(
    ("name", "own", "steps", "error"),
    [
        ("heun", {"churn": Churn(s_churn=20.0)}, 60, 0.02),
        ("heun", {"churn": Churn(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)}, 60, 0.02),
        ("ddim", {"eta": 0.5}, 400, 0.02),
        ("ddim", {"eta": 1.0}, 400, 0.02),
    ],
)
def test_stochastic_samplers_return_mean_and_spread_of_a_gaussian(name, own, steps, error):
    fresh = stream(0)
    image = make(name, stream(), **own)(gaussian_denoiser, 80 * fresh(), grid(steps))
    assert image.mean().item() == pytest.approx(MEAN, abs=error)
    assert image.std().item() == pytest.approx(STD, rel=error)
    assert (image - exact(stream(0)())).abs().mean() > 0.1, "renewed noise leads elsewhere than the ODE"


def test_churn_adds_its_noise_before_the_call():
    """Karras et al. 2022, Alg. 2, lines 4 to 6, with noise that is 1 everywhere."""
    calls = []

    def seen(x, sigma):
        calls.append((x.unique().item(), sigma[0].item()))
        return torch.zeros_like(x)

    churn = Churn(s_churn=0.5, s_noise=1.5)
    levels = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    heun(seen, torch.full((2, 3, 4, 4), 7.0), levels, churn, lambda: torch.ones(2, 3, 4, 4))
    lifted = 2 * (1 + 0.5 / 2)
    assert calls[0] == pytest.approx((7 + 1.5 * (lifted**2 - 4) ** 0.5, lifted), rel=1e-6)


def test_without_renewed_noise_ddim_is_euler_and_churn_heun():
    noise = stream()()
    assert torch.allclose(
        ddim(gaussian_denoiser, 80 * noise, grid(9)), make("euler")(gaussian_denoiser, 80 * noise, grid(9))
    )
    idle = Churn(s_churn=10.0, s_min=90.0)
    assert torch.equal(heun(gaussian_denoiser, 80 * noise, grid(9), idle), heun(gaussian_denoiser, 80 * noise, grid(9)))


@pytest.mark.parametrize("renewing", [{"churn": Churn(s_churn=20.0)}, {"eta": 1.0}])
def test_a_sampler_that_renews_noise_wants_a_source_of_it(renewing):
    sampler = heun if "churn" in renewing else ddim
    with pytest.raises(ValueError, match=r"^a sampler that renews noise is told by `fresh` where it comes from$"):
        sampler(gaussian_denoiser, 80 * stream()(), grid(9), **renewing)


def test_churn_raises_as_in_the_published_algorithm():
    """Karras et al. 2022, Alg. 2: gamma = min(S_churn / N, sqrt(2) - 1) inside [S_min, S_max], else 0."""
    churn = Churn(s_churn=40.0, s_min=0.05, s_max=50.0)
    assert raised(churn, 1.0, 256) == pytest.approx(1 + 40 / 256)
    assert raised(churn, 1.0, 18) == pytest.approx(2**0.5)
    assert raised(churn, 0.01, 256) == 0.01
    assert raised(churn, 80.0, 256) == 80.0
    assert raised(churn, 0.05, 256) > 0.05 and raised(churn, 50.0, 256) > 50.0, "both ends belong to it"


def test_full_ddim_renews_ddpms_posterior_variance():
    """eta = 1: sigma_t² = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) (DDPM eq. 7), here over alpha_bar_{t-1}."""
    bar = torch.tensor([0.3, 0.5], dtype=torch.float64)  # alpha_bar of t and of t - 1
    levels = torch.cat([((1 - bar) / bar).sqrt(), torch.zeros(1)])
    posterior = (1 - bar[0] / bar[1]) * (1 - bar[1]) / (1 - bar[0])
    calls = []

    def fresh():
        calls.append(1)
        return torch.ones(1, 1, 1, 1)

    got = ddim(lambda x, sigma: torch.zeros_like(x), torch.zeros(1, 1, 1, 1), levels[:2], eta=1.0, fresh=fresh)
    assert got.item() == pytest.approx((posterior / bar[1]).sqrt().item(), rel=1e-6)
    assert len(calls) == 1


def test_inversion_is_the_way_back():
    target = torch.rand(2, 3, 4, 4) * 2 - 1
    levels = grid(7)
    start = inversion(lambda x, sigma: target, target + 0.002 * torch.ones(2, 3, 4, 4), levels)
    assert torch.allclose(start, target + 80, atol=1e-2)
    calls = []
    inversion(lambda x, sigma: calls.append(sigma[0].item()) or target, target, levels)
    assert calls == pytest.approx(levels[1:-1].flip(0).tolist())


@pytest.mark.parametrize("steps", [3, 4])
def test_inversion_of_a_known_face_goes_straight_up(steps):
    """Each step multiplies the distance from the face by the ratio of the levels, be their number odd or even."""
    levels, target = grid(steps), torch.rand(2, 3, 4, 4)
    start = inversion(lambda x, sigma: target, target + 0.002, levels)
    assert torch.allclose(start, target + 80, atol=1e-2)


def test_what_was_inverted_comes_back_by_euler():
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    levels = grid(2000)
    back = ddim(gaussian_denoiser, inversion(gaussian_denoiser, image, levels), levels)
    assert torch.allclose(back, image, atol=2e-2)


def test_the_step_to_the_lowest_level_is_of_first_order():
    """DPM-Solver++(2M), whose third call here answers what it was asked."""
    answers = iter([torch.tensor(0.2), torch.tensor(0.9)])
    levels = torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    start = torch.full((1, 1, 1, 1), 4.0)
    got = make("dpmpp_2m")(lambda x, sigma: next(answers, x), start, levels).item()
    first = 2 / 8 * 4 + (1 - 2 / 8) * 0.2
    assert got == pytest.approx(0.5 / 2 * first + (1 - 0.5 / 2) * 0.9, rel=1e-6)


def by_name(name):
    """A sampler, or what else asks a denoiser along levels."""
    if name == "ancestral":
        return lambda denoise, x, levels: ancestral(denoise, x, levels, "beta", lambda: torch.zeros_like(x))
    return inversion if name == "inversion" else make(name)


@pytest.mark.parametrize("name", [*SAMPLERS, "inversion", "ancestral"])
@pytest.mark.parametrize(("shape", "device"), [((5, 3, 4, 2), "cpu"), ((2, 3, 4, 4), "meta")])
def test_a_denoiser_is_told_sigma_once_per_image_beside_it(name, shape, device):
    asked = []

    def noting(x, sigma):
        asked.append((sigma.dtype, sigma.shape, sigma.device.type))
        return x / 2

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        by_name(name)(noting, torch.ones(shape, dtype=torch.float32, device=device), grid(3))
    finally:
        torch.set_default_dtype(before)
    assert set(asked) == {(torch.float32, shape[:1], device)}


@pytest.mark.parametrize("name", SAMPLERS)
def test_most_steps_within_a_number_of_calls(name):
    for calls in (1, 2, 3, 4, 63, 64):
        steps = ODE[name].most_steps(calls)
        assert ODE[name].of(steps) <= calls < ODE[name].of(steps + 1)


def test_costs_of_several_networks_add_up():
    assert Calls(2, 1).times(3) == Calls(6, 3)
    assert Calls(2, 1).plus(Calls(3, 2)) == Calls(5, 3)
    assert Calls(2, 1).plus(NONE) == Calls(2, 1)


def test_no_more_steps_than_a_sampler_has():
    assert [Calls(2, 1, most=3).most_steps(calls) for calls in (1, 2, 4, 5, 6, 100)] == [1, 1, 2, 3, 3, 3]
    assert isinstance(Calls(2, 1).most_steps(6), int)


def test_what_samplers_cost_is_known_of_each_of_them():
    assert ODE.keys() == SAMPLERS.keys()


@pytest.mark.parametrize("cost", [Calls(), Calls(2, 1), Calls(2), Calls(3, 2), Calls(5)], ids=str)
def test_within_too_few_calls_there_is_no_step(cost):
    for calls in range(1, 40):
        steps = cost.most_steps(calls)
        assert (cost.of(steps) <= calls if steps else cost.of(1) > calls) and cost.of(steps + 1) > calls


@pytest.mark.parametrize("name", SAMPLERS)
def test_whoever_watches_sees_each_call_as_it_was_and_changes_no_bit(name):
    start = 80 * stream()()
    answers, told = [], []

    def remembering(x, sigma):
        answers.append((sigma[0].item(), gaussian_denoiser(x, sigma)))
        return answers[-1][1]

    plain = make(name)(gaussian_denoiser, start, grid(6))
    assert watched(gaussian_denoiser, None) is gaussian_denoiser
    seen = make(name)(watched(remembering, lambda *call: told.append(call)), start, grid(6))
    assert torch.equal(plain, seen)
    assert len(told) == len(answers) == ODE[name].of(6)
    for (sigma, image), (asked, answer) in zip(told, answers, strict=True):
        assert sigma == asked and torch.equal(image, answer)


def test_one_image_can_be_watched_too():
    told = []
    make("euler")(watched(gaussian_denoiser, lambda sigma, image: told.append(sigma)), stream()()[:1], grid(3))
    assert told == pytest.approx(grid(3)[:-1].tolist())


# A denoiser that differs at both ends of a step: the posterior mean of grey values around -0.6 and 0.9, in equal parts.
# At high sigma it answers their mean, at low sigma x itself, and in between it turns from one to the other.
MODES, WIDTH = (-0.6, 0.9), 0.25
STARTS = np.array([-1.3, -0.4, -0.05, 0.1, 0.6, 1.7])


def two_modes(x, sigma):
    s, x = sigma.double()[:, None, None, None], x.double()
    total = WIDTH**2 + s**2
    shares = torch.stack([-((x - mode) ** 2) / (2 * total) for mode in MODES]).softmax(dim=0)
    return sum(share * (WIDTH**2 * x + s**2 * mode) / total for share, mode in zip(shares, MODES, strict=True))


def integrated(sigma_max, sigma_min):
    """The ODE dx/d ln(sigma) = x - D to one part in 10^9, then the answer at sigma_min."""

    def slope(log_sigma, x):
        sigma = torch.full((len(x),), np.exp(log_sigma), dtype=torch.float64)
        return x - two_modes(torch.from_numpy(x)[:, None, None, None], sigma)[:, 0, 0, 0].numpy()

    span = (np.log(sigma_max), np.log(sigma_min))
    end = solve_ivp(slope, span, sigma_max * STARTS, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return two_modes(torch.from_numpy(end)[:, None, None, None], torch.full((len(end),), sigma_min))[:, 0, 0, 0].numpy()


def worst_error(name, steps, phi=RATIONAL):
    levels = transforms.levels(phi, steps, 0.02, 80.0)
    start = 80 * torch.from_numpy(STARTS)[:, None, None, None]
    image = make(name, phi=phi)(two_modes, start, levels)
    return np.abs(image[:, 0, 0, 0].numpy() - integrated(80.0, 0.02)).mean()


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("name", ["euler", "phi2", "log2", "dpmpp_2m", "ddim"])
def test_few_steps_stay_between_the_answers_that_the_network_gave(name, steps):
    """Whoever extrapolates between two calls leaves the range of all answers (Heun does, by tens of grey levels)."""
    levels = transforms.levels(RATIONAL, steps, 0.002, 80.0)
    answers = []

    def ramp(x, sigma):
        """Rises along the chain from 0 to 1, differently at both ends of every step."""
        answers.append(1 / (1 + sigma[:, None, None, None].double() ** 1.5) * torch.ones_like(x))
        return answers[-1]

    start = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    image = make(name)(ramp, start, levels).item()
    assert -0.01 <= image <= 1.01


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("form", ["rational", "edm", "empirical"])
def test_with_few_steps_no_second_order_is_worse_than_the_first_but_heuns(form, steps):
    phi = PHIS[form]
    euler = worst_error("euler", steps, phi)
    assert max(worst_error(name, steps, phi) for name in ("phi2", "log2", "dpmpp_2m")) <= euler + 1e-6
    if form == "rational":
        assert worst_error("heun", steps) > 6 * euler, "the trapezoid in sigma extrapolates; see its docstring"


@pytest.mark.parametrize("form", ["rational", "edm", "empirical"])
def test_order_on_a_denoiser_that_turns(form):
    phi = PHIS[form]
    for name, order in (("euler", 1), ("phi2", 2), ("log2", 2), ("dpmpp_2m", 2)):
        errors = [worst_error(name, n, phi) for n in (100, 400)]
        measured = np.log(errors[0] / errors[1]) / np.log(4)
        assert measured > order - 0.3, (name, measured)


PHIS = {
    "rational": RATIONAL,
    "rational-small": transforms.make({"form": "rational", "c": 0.01}),
    "log": transforms.make({"form": "log"}),
    "edm": transforms.make({"form": "edm"}),
    "identity": transforms.make({"form": "identity"}),
    "reciprocal": transforms.make({"form": "reciprocal"}),
    "atan": transforms.make({"form": "atan"}),
    "empirical": transforms.make(
        {"form": "empirical", "sigmas": [0.001, 0.02, 0.3, 1.0, 9.0, 90.0], "values": [0.0, 0.05, 0.5, 0.8, 0.97, 0.99]}
    ),
    "timestep": transforms.make(
        {"form": "empirical", "sigmas": ddpm.sigma(100, 1e-4, 0.1).numpy(), "values": range(100)}
    ),
}


@pytest.mark.parametrize("form", PHIS)
def test_the_step_is_exact_where_the_denoiser_is_linear_in_phi(form):
    """x' = (s'/s) x + s' ∫ D / sigma² dsigma, with D = 0.2 + 0.7 phi(sigma), whatever the step's length."""
    phi = PHIS[form]
    for sigma, following in ((80.0, 1.3), (1.3, 0.9), (0.9, 0.002), (80.0, 0.002), (0.5, 0.499999)):
        levels = torch.tensor([sigma, following], dtype=torch.float64)
        got = phi2(
            lambda x, s: 0.2 + 0.7 * phi.forward(s.double())[:, None, None, None],
            torch.ones(1, 1, 1, 1, dtype=torch.float64), levels, phi,
        )  # fmt: skip
        knots = [np.log(s) for s in phi.spec.get("sigmas", ()) if following < s < sigma]
        area = quad(
            lambda log_s: (0.2 + 0.7 * phi.forward(float(np.exp(log_s)))) * np.exp(-log_s),
            np.log(following), np.log(sigma), points=knots or None, limit=500, epsabs=0, epsrel=1e-10,
        )[0]  # fmt: skip
        assert got.item() == pytest.approx(following / sigma + following * area, rel=2e-5)


@pytest.mark.parametrize("form", PHIS)
def test_the_second_call_weighs_more_than_nothing_and_less_than_all(form):
    phi = PHIS[form]
    for sigma, following in ((80.0, 0.002), (80.0, 20.0), (0.02, 0.002), (0.3, 0.3 - 1e-9)):
        assert 0 < transforms.corrector_weight(phi, sigma, following) < 1


def test_closed_forms_of_the_weight_agree_with_their_integral():
    for name in ("rational", "rational-small", "log"):
        phi = PHIS[name]
        general = transforms.Phi("other", "", phi.spec, None, phi.forward, phi.inverse)
        for sigma, following in (
            (80.0, 1.28),
            (1.28, 0.54),
            (0.038, 0.002),
            (80.0, 0.002),
            (0.3, 0.29999),
            (1.0, 0.99),
        ):
            closed = transforms.corrector_weight(phi, sigma, following)
            assert closed == pytest.approx(transforms.corrector_weight(general, sigma, following), rel=1e-6)


@pytest.mark.parametrize("step", [1e-10, 1e-6, 3e-5, 9e-5, 2e-4])
def test_the_weight_of_a_short_step_keeps_its_digits(step):
    """Against the closed forms in fifty digits, where float64 has lost those of the difference."""
    getcontext().prec = 50
    following = 0.7
    sigma = following * (1 + step)
    s, t = Decimal(sigma), Decimal(following)
    ratio = (s / (s + Decimal("0.3"))) / (t / (t + Decimal("0.3")))
    exact = ratio * (ratio - 1 - ratio.ln()) / (ratio - 1) ** 2
    assert transforms.corrector_weight(RATIONAL, sigma, following) == pytest.approx(float(exact), abs=2e-8)
    height = (s / t).ln()
    exact = 1 / (1 - (-height).exp()) - 1 / height
    assert transforms.corrector_weight(PHIS["log"], sigma, following) == pytest.approx(float(exact), abs=2e-8)
