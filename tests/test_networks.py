"""The shared U-Net and EDM's preconditioning against known facts."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ssimbad.methods import registry
from ssimbad.methods.contract import Conditions
from ssimbad.networks import coloring_unet, ddpm_unet
from ssimbad.networks.denoiser import Denoiser, preconditioning
from ssimbad.networks.unet import UNet, sinusoid
from ssimbad.params.base import Colour

from . import small
from .small import NETWORK

SMALL = NETWORK.model_dump()


def test_paper_scale_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = UNet(7, 3, base=64, multipliers=[1, 2, 4, 8], blocks=2, heads=4, embedding=64, groups=32)
    assert sum(p.numel() for p in network.parameters()) == 52_301_251


@pytest.mark.parametrize("attention", [[], [0], [0, 1]])
def test_every_parameter_takes_part(attention):
    network = UNet(7, 3, **SMALL | {"attention": attention})
    network(torch.randn(2, 7, 16, 16), torch.tensor([0.0, 1000.0])).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_a_level_that_attends_costs_its_channels_twice():
    """Normalisation and the convolution to queries, keys and values, on the way down and on the way up."""
    count = [sum(p.numel() for p in UNet(7, 3, **SMALL | {"attention": a}).parameters()) for a in ([], [0], [1])]
    assert [more - count[0] for more in count[1:]] == [2 * (2 * c + 3 * c * c + 3 * c) for c in (8, 16)]


@pytest.mark.parametrize("kind", [kind for kind in registry.usable() if "network" in registry.get(kind).reads])
def test_levels_attend_in_every_kind_that_has_the_shared_network(kind, monkeypatch):
    """Each on its way down and on its way up, once per call."""
    shared = NETWORK.model_copy(update={"attention": [0, 1]})
    monkeypatch.setitem(small.SHARED, "network", shared)
    model, seen = small.build(kind), []
    asked = {name: part for name, part in model.named_modules() if ".attentions." in f".{name}"}
    levels = {name: part for name, part in asked.items() if name.rpartition(".")[2] in ("down0", "up0", "down1", "up1")}
    assert len(levels) == 4
    for name, part in levels.items():
        part.register_forward_hook(lambda module, given, made, name=name: seen.append(name.rpartition(".")[2]))
    method = registry.get(kind)
    how = method.default_colour(None) if method.default_colour else Colour()
    one = how.model_copy(update={"sampler": how.sampler and how.sampler.model_copy(update={"steps": 1})})
    given, generator = small.batch(), torch.Generator().manual_seed(1)
    conditions = Conditions(sketch=given.sketch, reference=given.reference)
    with torch.no_grad():
        method.colorize(model, conditions, lambda *shape: torch.randn(4, *shape, generator=generator), one, None)
    assert seen[:4] == ["down0", "down1", "up1", "up0"]


def test_the_noise_level_and_every_input_channel_reach_the_output():
    torch.manual_seed(0)
    network = UNet(7, 3, **SMALL)
    x, t = torch.randn(1, 7, 16, 16), torch.tensor([100.0])
    base = network(x, t)
    assert not torch.allclose(base, network(x, t + 500))
    for channel in range(7):
        changed = x.clone()
        changed[:, channel] += 1
        assert not torch.allclose(base, network(changed, t))


def test_embedding_of_scaled_noise_levels_is_rich():
    """D15: with c_noise in [0, 1] the sinusoid hardly varies; scaled by 1000 it must."""
    u = torch.linspace(0, 1, 200)
    spread = [torch.linalg.svdvals((e := sinusoid(u * s, 64)) - e.mean(0)) for s in (1, 1000)]
    assert spread[0][2] / spread[0][0] < 0.01
    assert spread[1][2] / spread[1][0] > 0.3


def test_preconditioning_at_known_points():
    skip, out, scale = preconditioning(torch.tensor([0.5]), 0.5)
    assert (skip, out, scale) == (pytest.approx(0.5), pytest.approx(0.5 / 2**0.5), pytest.approx(2**0.5))
    skip, out, scale = preconditioning(torch.tensor([1e-6, 1e6]), 0.5)
    assert skip.tolist() == pytest.approx([1, 0], abs=1e-9)
    assert out.tolist() == pytest.approx([0, 0.5], abs=1e-5)


def test_edm_weight_times_c_out_squared_is_one():
    sigma = torch.logspace(-2.5, 1.9, 30)
    _, c_out, _ = preconditioning(sigma, 0.5)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert torch.allclose(weight * c_out**2, torch.ones(30))


def test_conditions_are_not_scaled():
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, x, noise):
            seen["x"], seen["noise"] = x, noise
            return torch.zeros_like(x[:, :3])

    denoiser = Denoiser(Spy(), 0.5, lambda sigma: sigma * 10)
    x, sketch, reference = (
        torch.ones(1, 3, 4, 4),
        torch.full((1, 1, 4, 4), 0.7),
        torch.full((1, 3, 4, 4), -0.2),
    )
    answer = denoiser(x, torch.tensor([2.0]), sketch, reference)
    assert torch.allclose(seen["x"][:, :3], x / (4 + 0.25) ** 0.5)
    assert torch.equal(seen["x"][:, 3:4], sketch)
    assert torch.equal(seen["x"][:, 4:], reference)
    assert torch.allclose(answer, x * 0.25 / 4.25)


def on_a_gpu_without_one(build, *shapes):
    """Which modules answer a channels-last question in another order of memory, by shapes alone, as CUDA would."""
    undone = []

    def look(module, given, answer):
        image = torch.is_tensor(answer) and answer.ndim == 4
        if image and not answer.is_contiguous(memory_format=torch.channels_last):
            undone.append(type(module).__name__)

    with FakeTensorMode(), torch.device("cuda"):
        network = build()
        for module in network.modules():
            module.register_forward_hook(look)
        questions = [torch.empty(shape) for shape in shapes]
        answer = network(*(q.contiguous(memory_format=torch.channels_last) if q.ndim == 4 else q for q in questions))
    assert answer.device.type == "cuda"
    return undone


def test_channels_last_holds_through_normalisation_and_attention():
    assert on_a_gpu_without_one(lambda: torch.nn.GroupNorm(4, 8), (2, 8, 16, 16)) == ["GroupNorm"], "what torch does"
    image, level = (2, 7, 16, 16), (2,)
    shared = NETWORK.model_copy(update={"attention": [0]}).model_dump()
    assert on_a_gpu_without_one(lambda: UNet(7, 3, **shared), image, level) == []
    assert on_a_gpu_without_one(lambda: ddpm_unet.UNet(8, [1, 2], 1, [1], 4, 0.0), (2, 3, 16, 16), level) == []
    assert on_a_gpu_without_one(lambda: coloring_unet.ColoringUNet(7, 3, 8, 16), image, level) == []
