"""Samplers against the exact solution for Gaussian data, where the best denoiser is known."""

import pytest
import torch

from ssimbad.noise import transforms
from ssimbad.samplers import SAMPLERS, Churn, ddim, heun, inversion, make, most_steps, nfe

MEAN, STD = 0.3, 0.5


def gaussian_denoiser(x, sigma):
    """E[y | y + sigma n = x] for y ~ N(MEAN, STD²)."""
    s = sigma[:, None, None, None]
    return (STD**2 * x + s**2 * MEAN) / (STD**2 + s**2)


def grid(steps):
    return transforms.levels(transforms.make({"form": "rational", "c": 0.3}), steps, 0.002, 80.0)


def exact(noise):
    """The probability-flow ODE carries x at sigma_max to MEAN + STD (x - MEAN) / sqrt(STD² + sigma_max²)."""
    return MEAN + STD * (80 * noise - MEAN) / (STD**2 + 80**2) ** 0.5


@pytest.mark.parametrize(
    ("name", "steps", "error"), [("euler", 400, 0.02), ("heun", 60, 0.01), ("dpmpp_2m", 60, 0.01), ("ddim", 400, 0.02)]
)
def test_mean_and_spread_of_a_gaussian_come_back(name, steps, error):
    noise = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = SAMPLERS[name](gaussian_denoiser, 80 * noise, grid(steps))
    assert (image - exact(noise)).abs().max() < error * 5
    assert image.mean().item() == pytest.approx(exact(noise).mean().item(), abs=error)
    assert image.std().item() == pytest.approx(STD, rel=error)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 1.7)])
def test_order_of_convergence(name, order):
    noise = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [
        (SAMPLERS[name](gaussian_denoiser, 80 * noise, grid(n)) - exact(noise)).abs().mean().item() for n in (40, 160)
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

    SAMPLERS[name](counting, torch.randn(2, 3, 4, 4), grid(steps))
    assert len(calls) == nfe(name, steps)
    assert min(calls) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_oracle_is_believed(name):
    target = torch.rand(2, 3, 4, 4) * 2 - 1
    image = SAMPLERS[name](lambda x, sigma: target, 80 * torch.randn(2, 3, 4, 4), grid(5))
    assert torch.allclose(image, target, atol=1e-4)


def stream(seed=5):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(64, 3, 8, 8, generator=generator)


@pytest.mark.parametrize(
    ("sampler", "steps", "error"),
    [
        (make("heun", stream(), churn=Churn(s_churn=20.0)), 60, 0.02),
        (make("heun", stream(), churn=Churn(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)), 60, 0.02),
        (make("ddim", stream(), eta=0.5), 400, 0.02),
        (make("ddim", stream(), eta=1.0), 400, 0.02),
    ],
)
def test_stochastic_samplers_return_mean_and_spread_of_a_gaussian(sampler, steps, error):
    fresh = stream(0)
    image = sampler(gaussian_denoiser, 80 * fresh(), grid(steps))
    assert image.mean().item() == pytest.approx(MEAN, abs=error)
    assert image.std().item() == pytest.approx(STD, rel=error)
    assert (image - exact(stream(0)())).abs().mean() > 0.1, "renewed noise leads elsewhere than the ODE"


def test_without_renewed_noise_ddim_is_euler_and_churn_heun():
    noise = stream()()
    assert torch.allclose(
        ddim(gaussian_denoiser, 80 * noise, grid(9)), SAMPLERS["euler"](gaussian_denoiser, 80 * noise, grid(9))
    )
    idle = Churn(s_churn=10.0, s_min=90.0)
    assert torch.equal(heun(gaussian_denoiser, 80 * noise, grid(9), idle), heun(gaussian_denoiser, 80 * noise, grid(9)))


def test_churn_raises_as_in_the_published_algorithm():
    """Karras et al. 2022, Alg. 2: gamma = min(S_churn / N, sqrt(2) - 1) inside [S_min, S_max], else 0."""
    churn = Churn(s_churn=40.0, s_min=0.05, s_max=50.0)
    assert churn.raised(1.0, 256) == pytest.approx(1 + 40 / 256)
    assert churn.raised(1.0, 18) == pytest.approx(2**0.5)
    assert churn.raised(0.01, 256) == 0.01
    assert churn.raised(80.0, 256) == 80.0


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_most_steps_within_a_number_of_calls(name):
    for calls in (1, 2, 3, 4, 63, 64):
        steps = most_steps(name, calls)
        assert nfe(name, steps) <= calls < nfe(name, steps + 1)
