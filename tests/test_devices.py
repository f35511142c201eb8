"""Where a stage computes, and how its network is compiled."""

from __future__ import annotations

import torch
from torch import nn

from ssimbad.methods import edm
from ssimbad.networks import unet
from ssimbad.runtime import devices

from .small import PLAN, batch, build, rng


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


def test_a_compiled_network_has_the_gradient_of_the_plain_one():
    """By the whole compiler but for the last step, which wants one for C++ or a GPU."""

    def gradient(model):
        losses = edm.training_step(model, batch(), PLAN, rng())
        losses.loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    plain, compiled = build(), devices.compiled(build(), "aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch._dynamo.utils.counters.clear()
    expected, found = gradient(plain), gradient(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    torch.compiler.reset()
