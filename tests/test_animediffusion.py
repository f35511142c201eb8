"""AnimeDiffusion: the DDPM behind a denoiser's face, DDIM and its inversion, two finetunings, and that it learns."""

from functools import partial

import pytest
import torch

from ssimbad.methods import animediffusion, chain
from ssimbad.methods.contract import Plan
from ssimbad.noise import ddpm
from ssimbad.params.base import Colour, Sampler

from . import small
from .small import batch, by, losses_of_training, refines_from_pure_noise, rng, same

METHOD = animediffusion.METHOD
SAMPLER = Sampler(name="ddim", steps=4)
ALPHA_BAR = ddpm.alpha_bar(1000, 1e-6, 1e-2)


build = partial(small.build, "animediffusion")


def oracle(model, image, given):
    """Make the model's noise the true one for `image`, and remember what it was asked."""
    asked = []

    def noise(x, sigma, sketch, reference, timed=True):
        asked.append((sigma[0].item(), timed))
        return (x - image) / sigma[:, None, None, None]

    model.predicted = noise
    return asked


def test_schedule_has_the_published_terminal_signal():
    """Of the linear betas 1e-6 to 1e-2: sqrt(alpha_bar) = .081 at t = 999, .130 at t = 901."""
    assert ALPHA_BAR[999].sqrt().item() == pytest.approx(0.081, abs=5e-4)
    assert ALPHA_BAR[901].sqrt().item() == pytest.approx(0.130, abs=5e-4)


def test_denoiser_is_ddpms_prediction_of_the_image():
    """x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), with x_t and t as the network sees them."""
    model, given, seen = build(), batch(), {}

    class Spy(torch.nn.Module):
        def forward(self, inputs, t):
            seen["inputs"], seen["t"] = inputs, t
            return torch.full_like(inputs[:, :3], 0.3)

    model.network = Spy()
    t = torch.tensor([0, 17, 500, 999])
    bar = ALPHA_BAR[t].float()[:, None, None, None]
    noisy = bar.sqrt() * given.target + (1 - bar).sqrt() * 0.7
    denoised = model(noisy / bar.sqrt(), model.sigmas[t].float(), given.sketch, given.reference)
    assert torch.allclose(seen["inputs"][:, :3], noisy, atol=1e-5)
    assert torch.equal(seen["inputs"][:, 3:], torch.cat([given.sketch, given.reference], dim=1))
    assert seen["t"].tolist() == pytest.approx(t.tolist(), abs=1e-3)
    assert torch.allclose(denoised, (noisy - (1 - bar).sqrt() * 0.3) / bar.sqrt(), atol=1e-4)


def test_timesteps_lie_between_their_neighbours_and_inside_the_schedule():
    model = build()
    between = (model.sigmas[300] * model.sigmas[301]).sqrt()[None]
    assert model.timestep(between).item() == pytest.approx(300.5, abs=1e-3)
    assert model.timestep(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


def test_training_noise_is_that_of_ddpm():
    model, plan = build(), Plan("noise", animediffusion.Noise())
    losses = animediffusion.training_step(model, batch(), plan, rng())
    assert losses.loss.item() == pytest.approx(losses.per_image.mean().item())
    assert losses.loss.item() == pytest.approx(1.0, abs=0.5)  # an untrained network predicts next to nothing
    t = model.timestep(losses.sigma)
    assert torch.allclose(t, t.round(), atol=1e-2)
    assert ((t >= 0) & (t <= 999)).all()


def test_training_covers_all_timesteps():
    model, plan = build(), Plan("noise", animediffusion.Noise())
    model.predicted = lambda x, *_: torch.zeros_like(x)
    steps = [animediffusion.training_step(model, batch(), plan, rng(seed)).sigma for seed in range(250)]
    t = model.timestep(torch.cat(steps)).round()
    assert t.mean().item() == pytest.approx(499.5, abs=30)
    assert torch.histc(t, 10, 0, 1000).min() > 60  # 100 expected in each tenth


def test_trajectory_refinement_starts_from_pure_noise():
    """x_T / sqrt(alpha_bar_T) with x_T ~ N(0, 1)."""
    plan = Plan("trajectory", chain.Trajectory(save_memory=False, sampler=SAMPLER))
    scale = float(1 / ALPHA_BAR[999].sqrt())
    refines_from_pure_noise(METHOD, build(), plan, float(((1 - ALPHA_BAR[999]) / ALPHA_BAR[999]).sqrt()), scale)


def test_grid_covers_the_schedule_unless_as_published():
    sigmas = ddpm.sigma(1000, 1e-6, 1e-2)
    assert animediffusion.levels(build(), 4).tolist() == [*sigmas[[999, 666, 333, 0]].tolist(), 0]
    assert animediffusion.levels(build(), 1).tolist() == [sigmas[999].item(), 0]
    published = animediffusion.levels(build(as_published=True), 10)
    assert published.tolist() == [*sigmas[list(range(901, 0, -100))].tolist(), 0]


def test_inversion_followed_by_ddim_returns_the_image():
    """With an oracle that knows the image."""
    model, given = build(), batch()
    seen = oracle(model, given.target, given)
    grid = animediffusion.levels(model, 6)
    noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(2))
    start = animediffusion.inverted(model, given, noise, grid)
    assert torch.allclose(start, given.target + float(grid[0]) * noise, atol=1e-3)
    assert [sigma for sigma, _ in seen] == pytest.approx(grid[1:-1].flip(0).tolist(), rel=1e-5)
    back = chain.make(SAMPLER, None, animediffusion.axis(model))(
        lambda x, sigma: model(x, sigma, given.sketch, given.reference), start, grid
    )
    assert torch.allclose(back, given.target, atol=1e-4)


def test_inversion_of_a_linear_flow_is_undone_by_ddim():
    """Of the exact flow of Gaussian data, where eps is no constant: forth and back in many steps is the identity."""
    model, given = build(), batch()
    model.predicted = lambda x, sigma, *_: x * (sigma / (0.25 + sigma**2))[:, None, None, None]
    grid = animediffusion.levels(model, 500)
    start = animediffusion.inverted(model, given, torch.zeros_like(given.target), grid)
    assert start.std() > 5 * given.target.std()
    back = chain.make(SAMPLER, None, animediffusion.axis(model))(
        lambda x, sigma: model(x, sigma, given.sketch, given.reference), start, grid
    )
    assert torch.allclose(back, given.target, atol=0.05)


@pytest.mark.parametrize("as_published", [False, True])
def test_the_timestep_is_forgotten_in_the_inversion_as_published_only(as_published):
    model, given = build(as_published=as_published), batch()
    asked = oracle(model, given.target, given)
    plan = Plan("inversion", animediffusion.Inversion(save_memory=False, sampler=SAMPLER))
    animediffusion.training_step(model, given, plan, rng())
    inversion, back = asked[:3], asked[3:]
    assert len(back) == 4
    assert all(timed != as_published for _, timed in inversion)
    assert all(timed for _, timed in back)
    said = METHOD.remarks(small.setup("animediffusion", as_published=as_published).config, plan.options, False)
    assert bool(said) == as_published


def test_without_a_timestep_the_network_still_answers_and_differently():
    model, given = build(), batch()
    sigma = torch.full((4,), 3.0)
    timed, untimed = (model.noise(given.target, sigma, given.sketch, given.reference, t) for t in (True, False))
    assert not torch.allclose(timed, untimed)
    assert torch.equal(untimed, model.noise(given.target, sigma, given.sketch, given.reference, False))


def test_test_and_training_walk_the_same_steps():
    model, given = build(), batch()
    walked = []
    inner = model.forward
    model.forward = lambda x, sigma, *rest: (walked.append(sigma[0].item()), inner(x, sigma, *rest))[1]
    noise = torch.randn(given.target.shape)
    plan = Plan("trajectory", chain.Trajectory(save_memory=False, sampler=SAMPLER))
    animediffusion.training_step(model, given, plan, rng())
    trained, walked[:] = list(walked), []
    animediffusion.colorize(model, given, same(noise), Colour(sampler=SAMPLER), None)
    assert trained == walked and len(walked) == 4


@pytest.mark.parametrize(("objective", "share"), [("noise", 0.8), ("inversion", 0.6), ("trajectory", 0.6)])
def test_a_few_steps_lower_the_loss(objective, share):
    model = build()
    own = {} if objective == "noise" else {"sampler": Sampler(name="ddim", steps=2)}
    plan = Plan(objective, METHOD.objectives[objective](**own))
    losses = losses_of_training(METHOD, model, plan, steps=40, clip=1.0)
    assert losses[-1] < share * losses[0]


def test_fresh_noise_of_eta_comes_from_the_stream():
    model, given, calls = build(), batch(), []

    def fresh(*shape):
        calls.append(1)
        return torch.zeros(4, *shape)

    for eta, expected in ((0.0, 1), (1.0, 4)):  # the start, and the renewed noise of all steps but the last
        calls.clear()
        animediffusion.colorize(model, given, fresh, by("ddim", 4, eta=eta), None)
        assert len(calls) == expected
