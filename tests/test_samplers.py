"""Samplers against the exact solution for Gaussian data, where the best denoiser is known."""

import pytest
import torch

from ssimbad.noise import transforms
from ssimbad.samplers import SAMPLERS, nfe

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


@pytest.mark.parametrize(("name", "steps", "error"), [("euler", 400, 0.02), ("heun", 60, 0.01), ("dpmpp_2m", 60, 0.01)])
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
