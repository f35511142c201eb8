"""DDPM's sampler on respaced timesteps, against its formulas in x_t."""

import itertools
import math

import pytest
import torch

from ssimbad.noise import ddpm
from ssimbad.samplers import ode
from ssimbad.samplers.ancestral import VARIANCES, ancestral

BETAS = ddpm.betas(1000, 1e-4, 2e-2)
ALPHA_BAR = ddpm.alpha_bar(1000, 1e-4, 2e-2)
SIGMAS = ddpm.sigma(1000, 1e-4, 2e-2)
TIMES = [999, 700, 300, 40, 0]
GRID = torch.cat([SIGMAS[TIMES], torch.zeros(1, dtype=torch.float64)])


def in_x_t(variance: str, eps, x, noises, last_noise: bool):
    """DDPM, Alg. 2, by the respaced betas 1 - alpha_bar(tau_i) / alpha_bar(tau_i-1), step by step."""
    bars = [*ALPHA_BAR[TIMES].tolist(), 1.0]
    for i, t in enumerate(TIMES):
        bar, above = bars[i], bars[i + 1]
        beta = 1 - bar / above
        mean = (x - beta / math.sqrt(1 - bar) * eps(x, t)) / math.sqrt(1 - beta)
        squared = {"beta": beta, "posterior": beta * (1 - above) / (1 - bar)}[variance]
        x = mean + (math.sqrt(squared) * noises[i] if t != 0 or last_noise else 0)
    return x


@pytest.mark.parametrize("last_noise", [False, True])
@pytest.mark.parametrize("variance", VARIANCES)
def test_respaced_steps_are_those_of_the_formulas(variance, last_noise):
    generator = torch.Generator().manual_seed(0)
    start, *noises = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(6))

    def eps(x, t):
        return torch.sin(2 * x + t)

    def denoise(x, sigma):
        t = TIMES[int((GRID - float(sigma[0])).abs().argmin())]
        scale = math.sqrt(1 + float(SIGMAS[t]) ** 2)
        return x - float(SIGMAS[t]) * eps(x / scale, t)

    drawn = iter(noises)
    x = float((1 + GRID[0] ** 2).sqrt()) * start
    found = ancestral(denoise, x, GRID, variance, lambda: next(drawn), last_noise)
    assert torch.allclose(found, in_x_t(variance, eps, start, noises, last_noise), atol=1e-9)


def test_of_the_full_chain_the_variances_are_the_schedule_s():
    for t in (0, 1, 500, 999):
        above = float(SIGMAS[t - 1]) if t else 0.0
        before = float(ALPHA_BAR[t - 1]) if t else 1.0
        beta, posterior = (VARIANCES[name](float(SIGMAS[t]), above) * before for name in ("beta", "posterior"))
        assert beta == pytest.approx(float(BETAS[t]), rel=1e-9)
        assert posterior == pytest.approx(float(BETAS[t]) * (1 - before) / (1 - float(ALPHA_BAR[t])), rel=1e-6, abs=0)
    assert math.sqrt(VARIANCES["beta"](float(SIGMAS[0]), 0.0)) == pytest.approx(0.01), "what the public code adds last"
    assert VARIANCES["posterior"](float(SIGMAS[0]), 0.0) == 0


def test_the_step_to_the_image_has_no_noise_unless_asked():
    levels = torch.tensor([1.0, 0.0], dtype=torch.float64)
    answer = torch.zeros(1, 1, 1, 1)
    assert ancestral(lambda x, sigma: answer, answer + 1, levels, "beta", lambda: answer + 1).item() == 0


def gaussian(mean: float, spread: float):
    """The exact denoiser of N(mean, spread²)."""

    def denoise(x, sigma):
        s = float(sigma[0]) ** 2
        return (spread**2 * x + s * mean) / (spread**2 + s)

    return denoise


def drawn_from(mean: float, spread: float, variance: str, last_noise: bool, n: int = 200_000):
    generator = torch.Generator().manual_seed(1)

    def fresh():
        return torch.randn(1, 1, n, 1, generator=generator, dtype=torch.float64)

    start = float((1 + GRID[0] ** 2).sqrt()) * fresh()
    return ancestral(gaussian(mean, spread), start, GRID, variance, fresh, last_noise)


def recursion(spread: float, variance: str, last_noise: bool) -> float:
    """The variance of the answers in closed form: each step is linear in x."""
    v, values = 1 + float(GRID[0]) ** 2, GRID.tolist()
    for s, following in itertools.pairwise(values):
        kept, ratio = spread**2 / (spread**2 + s**2), (following / s) ** 2
        v *= (kept + ratio * (1 - kept)) ** 2
        if following or last_noise:
            v += VARIANCES[variance](s, following)
    return v


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("spread", [1.0, 0.4, 0.0])
def test_answers_of_a_gaussian_have_its_mean_and_the_spread_of_the_closed_form(variance, spread):
    found = drawn_from(0.3, spread, variance, False)
    assert found.mean().item() == pytest.approx(0.3, abs=0.012)
    assert found.std().item() == pytest.approx(math.sqrt(recursion(spread, variance, False)), abs=5e-3)


def test_each_variance_is_exact_for_the_data_it_is_made_for():
    """beta for N(0, 1), where the noisy last step belongs to it; the posterior's for a single point."""
    assert recursion(1.0, "beta", True) == pytest.approx(1, rel=1e-9)
    assert recursion(1.0, "posterior", True) < 0.9
    assert drawn_from(0.0, 1.0, "beta", True).var().item() == pytest.approx(1, abs=0.01)
    # A point at 0 seen at the level s has the variance s²: so it must remain on the way.
    generator = torch.Generator().manual_seed(2)
    start = float(GRID[0]) * torch.randn(1, 1, 200_000, 1, generator=generator, dtype=torch.float64)
    for variance, exact in (("posterior", True), ("beta", False)):
        halfway = ancestral(
            gaussian(0.0, 0.0), start, GRID[:4], variance,
            lambda: torch.randn(start.shape, generator=generator, dtype=torch.float64),
        )  # fmt: skip
        assert (halfway.std().item() == pytest.approx(float(GRID[3]), rel=0.01)) == exact, variance


def test_the_posterior_s_is_ddim_with_all_noise_renewed():
    generator = torch.Generator().manual_seed(3)
    start, *noises = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(6))
    denoise = gaussian(0.2, 0.5)
    one, other = iter(noises), iter(noises)
    found = ancestral(denoise, 157 * start, GRID, "posterior", lambda: next(one))
    assert torch.allclose(found, ode.ddim(denoise, 157 * start, GRID, 1.0, lambda: next(other)), atol=1e-5)
