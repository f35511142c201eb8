"""Where a stage computes, and how its network is compiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssimbad.methods import ddpm_faces, registry
from ssimbad.methods.contract import Plan
from ssimbad.networks import unet
from ssimbad.runtime import devices

from .small import batch, build, rng


def test_the_regions_of_the_shared_network_are_its_blocks():
    model = build()
    found = devices.regions(model)
    assert {type(region) for region in found} == {unet.ResidualBlock}
    assert len(found) == sum(isinstance(module, unet.ResidualBlock) for module in model.modules())


def test_regions_do_not_contain_one_another_and_a_model_without_any_is_one():
    for kind in ("split_attention", "ddpm_faces", "scft", "coloring_assistant", "latent_cold"):
        found = devices.regions(build(kind))
        inside = [inner for region in found for inner in region.modules() if inner is not region]
        assert not set(found) & set(inside), kind
    alone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    assert devices.regions(alone) == [alone], "of torch's own modules none is a region"


@pytest.mark.parametrize("kind", ["ssimbad", "split_attention"])
def test_a_compiled_network_has_the_gradient_of_the_plain_one(kind):
    """By a compiler that only counts the programs that it is given, and runs them as they are."""
    programs = []

    def counting(program, examples):
        programs.append(program)
        return program.forward

    method = registry.get(kind)
    objective, options = next(iter(method.objectives.items()))

    def gradient(model):
        player = method.parties(model, Plan(objective, options()), None)[0]
        for losses in player.losses(batch(), rng()):
            losses.loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain, compiled = build(kind), devices.compiled(build(kind), counting)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    expected, found = gradient(plain), gradient(compiled)
    assert len(programs) > 1
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    torch.compiler.reset()


def test_a_block_that_draws_random_numbers_is_computed_all_the_same():
    model = devices.compiled(build("ddpm_faces"), "eager")
    loss = registry.get("ddpm_faces").training_step(model, batch(), Plan("noise", ddpm_faces.Noise()), rng(), None).loss
    assert loss.isfinite()
    torch.compiler.reset()
