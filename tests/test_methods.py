"""Methods: SSIMBaD and EDM share a denoiser and differ in their schedule only."""

import math
from dataclasses import replace

import pytest
import torch

from ssimbad.methods import edm, registry
from ssimbad.methods.contract import Batch, Plan, Setup
from ssimbad.methods.losses import mse
from ssimbad.params.base import Network, Noise, Sampler
from ssimbad.params.methods import Method
from ssimbad.training.feed import Shard, StepDraws

NETWORK = Network(base=8, multipliers=[1, 2], blocks=1, heads=2, embedding=8, groups=4)
NOISE = Noise(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
RAMP = torch.linspace(-0.5, 0.5, 16)  # from left to right: no picture equals its mirror image in distance to it
RATIONAL = {"form": "rational", "c": 0.3}


def setup(kind="ssimbad", phi=RATIONAL, **config):
    typed = registry.module(kind).Config.model_validate({"phi": phi, **config} if phi else config)
    return Setup(kind, typed, NETWORK, NOISE, 1e-6, phi)


def build(*args, **kwargs):
    torch.manual_seed(0)
    return edm.build(setup(*args, **kwargs))


def batch(n=4):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(n, 3, 16, 16, generator=generator) * 2 - 1
    return Batch(image, image.mean(1, keepdim=True), image.flip(3))


def draws(seed=0, n=4, shard=Shard()):  # noqa: B008
    return StepDraws(seed, n, shard, torch.device("cpu"))


def losses_of_training(module, model, plan, steps, clip=math.inf):
    """The loss before each of `steps` steps on the same batch and the same draws."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        result = module.training_step(model, batch(), plan, draws())
        assert result.per_image.shape == (4,)
        optimiser.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        losses.append(result.loss.item())
    return losses


def first_call(module, model, given, plan):
    """x and sigma of a training step's first network call, and its losses, when the network always answers `RAMP`."""
    asked = []
    model.forward = lambda x, sigma, *_: (asked.append((x, sigma)), RAMP.expand_as(x))[1]
    losses = module.training_step(model, given, plan, draws())
    return *asked[0], losses


def refines_from_pure_noise(module, model, plan, sigma_max, scale):
    """The chain starts at sigma_max from noise of this scale that knows nothing of the target, and is judged by it."""
    given = batch()
    other = replace(given, target=given.target.flip(2))
    (x, sigma, losses), (again, _, losses_of_other) = (first_call(module, model, g, plan) for g in (given, other))
    assert torch.equal(x, again)
    assert sigma.tolist() == pytest.approx([sigma_max] * 4, rel=1e-5)
    assert x.std().item() == pytest.approx(scale, rel=0.05) and x.mean().abs().item() < 0.1 * scale
    for found, target in ((losses, given.target), (losses_of_other, other.target)):
        assert torch.allclose(found.per_image, mse(RAMP.expand_as(target), target))


@pytest.mark.parametrize("kind", ["ssimbad", "edm"])
def test_refinement_starts_from_pure_noise_and_is_judged_by_the_target(kind):
    plan = Plan("trajectory", edm.OBJECTIVES["trajectory"](save_memory=False), Sampler(name="euler", steps=3))
    refines_from_pure_noise(registry.module(kind), build(kind, RATIONAL if kind == "ssimbad" else None), plan, 80, 80)


def test_what_departs_from_the_description_is_said():
    options = edm.Denoising()
    for kind, phi in (("ssimbad", RATIONAL), ("edm", None)):
        assert registry.remarks(kind, setup(kind, phi).config, options, False) == []
        assert "unscaled" in registry.remarks(kind, setup(kind, phi, as_published=True).config, options, False)[0]


def test_registry_finds_the_method_files():
    assert {"edm", "ssimbad"} <= set(registry.kinds())
    with pytest.raises(ValueError, match=r"known: .*ssimbad"):
        registry.module("ssimbat")


def test_setup_survives_its_json():
    made = setup()
    assert Setup.from_json(made.to_json()) == made


def test_ssimbad_draws_sigma_uniformly_in_phi():
    """Uniform phi = sigma/(sigma + 0.3): ln sigma is logistic around ln 0.3, so P(sigma < 0.1) = 0.246 and so on."""
    sigma = edm.draw_sigma(build(), torch.linspace(0, 1, 100_001, dtype=torch.float64))
    for edge, share in ((0.01, 0.026), (0.1, 0.246), (0.3, 0.499), (1, 0.771), (3, 0.912), (10, 0.974)):
        assert (sigma < edge).double().mean().item() == pytest.approx(share, abs=1.5e-3)
    assert sigma.min() >= 0.002
    assert sigma.max() <= 80


def test_edm_draws_sigma_log_normally():
    """ln sigma ~ N(-1.2, 1.2²): median 0.30, P(sigma > 1) = 16 %, P(sigma < 0.05) = 7 %."""
    sigma = edm.draw_sigma(build("edm", None), torch.linspace(0, 1, 100_001, dtype=torch.float64))
    assert sigma.median().item() == pytest.approx(0.301, abs=1e-3)
    assert (sigma > 1).double().mean().item() == pytest.approx(0.16, abs=0.005)
    assert (sigma < 0.05).double().mean().item() == pytest.approx(0.07, abs=0.005)


def test_sampling_grids():
    """The rho = 7 grid of EDM eq. 5 and SSIMBaD's phi grid, both from 80 to 0.002 and then 0."""
    n = 18
    rho = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    assert edm.levels(build("edm", None), n).tolist() == pytest.approx([*rho, 0], rel=1e-9)
    assert edm.levels(build(), 10)[:5].tolist() == pytest.approx([80, 2.34, 1.04, 0.600, 0.376], rel=5e-3)


def test_noise_embedding_is_scaled_unless_as_published():
    sigma = torch.tensor([0.002, 0.3, 80.0])
    assert build().embed(sigma).tolist() == pytest.approx([0, 498.5, 1000], abs=2)
    published = build(as_published=True).embed(sigma)
    assert published.tolist() == pytest.approx([0.0066225, 0.5, 0.9962640], abs=1e-5)
    log = build("edm", None, as_published=True).embed(sigma).tolist()
    assert log == pytest.approx([float(s.log() / 4) for s in sigma], rel=1e-5)
    scaled = build("edm", None).embed(sigma)
    assert scaled.tolist() == pytest.approx([0, 1000 * (log[1] - log[0]) / (log[2] - log[0]), 1000], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", ["ssimbad", "edm"])
@pytest.mark.parametrize("objective", ["denoising", "trajectory"])
def test_a_few_steps_lower_the_loss(kind, objective):
    model = build(kind, RATIONAL if kind == "ssimbad" else None)
    module = registry.module(kind)
    plan = Plan(objective, module.OBJECTIVES[objective](), Sampler(name="euler", steps=2))
    losses = losses_of_training(module, model, plan, steps=30)
    assert losses[-1] < 0.6 * losses[0]


def test_edm_weights_the_loss_and_ssimbad_does_not():
    plan = Plan("denoising", edm.Denoising(), Sampler(name="euler", steps=2))
    plain = edm.training_step(build(), batch(), plan, draws())
    assert plain.loss.item() == pytest.approx(plain.per_image.mean().item(), rel=1e-6)
    weighted = edm.training_step(build("edm", None), batch(), plan, draws())
    weight = (weighted.sigma**2 + 0.25) / (weighted.sigma * 0.5) ** 2
    assert weighted.loss.item() == pytest.approx((weight * weighted.per_image).mean().item(), rel=1e-5)


def test_ladder_rungs_are_parameters():
    mixed = setup("edm", RATIONAL, sigma_density="phi")
    assert mixed.config.sampling_grid == "rho"
    with pytest.raises(ValueError, match="phi"):
        registry.config(Method(kind="edm", label="x", config={"sampling_grid": "phi"}))


def test_colours_lie_in_range_and_depend_on_the_reference():
    model, given = build(), batch()
    noise = torch.randn(4, 3, 16, 16)

    def fresh():
        return noise

    sampler = Sampler(name="heun", steps=3)
    image = edm.colorize(model, given.sketch, given.reference, fresh, sampler)
    assert image.shape == given.target.shape
    assert image.abs().max() <= 1
    assert not torch.equal(image, edm.colorize(model, given.sketch, -given.reference, fresh, sampler))
