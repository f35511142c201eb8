"""Back-propagation through the whole chain."""

from dataclasses import replace

import pytest
import torch

from ssimbad import refinement
from ssimbad.methods import losses
from ssimbad.samplers.ode import SAMPLERS

from .small import batch, build


def chain(model, given, steps, save_memory):
    start = 80 * torch.randn(given.target.shape, generator=torch.Generator().manual_seed(3))
    return refinement.through_chain(
        lambda x, sigma: model(x, sigma, given.sketch, given.reference),
        SAMPLERS["euler"],
        start,
        model.levels.grid(steps),
        save_memory,
    )


def gradients(save_memory):
    model, given = build(), batch()
    losses.mse(chain(model, given, 5, save_memory), given.target).mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_checkpointed_gradient_is_the_plain_one():
    plain, saved = gradients(False), gradients(True)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, saved[name], rtol=1e-5, atol=1e-9), name


def test_gradient_reaches_through_every_step():
    """Against finite differences: a chain cut anywhere would give another directional derivative."""
    model, given = build().double(), batch()
    given = replace(given, **{name: getattr(given, name).double() for name in ("target", "sketch", "reference")})
    model.embed = lambda sigma: sigma.double()
    weight = model.network.stem.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss():
        noise = torch.randn(given.target.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        levels = model.levels.grid(4)
        net = model.network

        def denoise(x, sigma):
            s = sigma.double()[:, None, None, None]
            inputs = torch.cat([x / (s**2 + 0.25).sqrt(), given.sketch, given.reference], dim=1)
            features = net.stem(inputs)
            return features[:, :3] / (1 + s)

        image = refinement.through_chain(denoise, SAMPLERS["euler"], 80 * noise, levels, save_memory=True)
        return losses.mse(image, given.target).mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-6
    with torch.no_grad():
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
    assert (gradient * direction).sum().item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


def saved_bytes(steps, save_memory):
    """Bytes that autograd keeps between forward and backward."""
    model, given = build(), batch()
    own = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        image = chain(model, given, steps, save_memory)
    assert image.requires_grad
    return sum(kept.values())


def test_memory_of_a_checkpointed_chain_grows_by_states_only():
    state = batch().target.numel() * 4
    more = (saved_bytes(12, True) - saved_bytes(4, True)) / 8
    assert more <= 6 * state
    assert saved_bytes(4, False) > 5 * saved_bytes(4, True)
