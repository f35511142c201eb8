"""The networks of the losses lpips-vgg and clip: from files of their form with random weights, never for a number."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from ssimbad.errors import UserError
from ssimbad.features import registry as features
from ssimbad.methods import chain, edm, losses, registry
from ssimbad.methods.contract import Plan
from ssimbad.metrics import measure
from ssimbad.metrics import registry as metrics
from ssimbad.metrics.contract import Given
from ssimbad.networks.clip import ImageTower
from ssimbad.params.base import Sampler
from ssimbad.pipeline import paths, table

from .conftest import miniature, preset_tree
from .small import CPU, batch, build, rng
from .test_params import complaint
from .toy import load as parsed

WIDTH, PATCH, GRID, BLOCKS, EMBEDDING = 128, 4, 3, 2, 10


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> Path:
    """A small image tower beside a text tower, under OpenCLIP's names."""
    torch.manual_seed(0)
    tower = ImageTower(WIDTH, PATCH, GRID, BLOCKS, 4 * WIDTH, EMBEDDING)
    state = {f"visual.{name}": torch.randn_like(value) * 0.2 for name, value in tower.state_dict().items()}
    state |= {"logit_scale": torch.tensor(4.6), "transformer.resblocks.0.ln_1.weight": torch.ones(7)}
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory) -> Path:
    """The convolutions alone: LPIPS reads no classifier."""
    torch.manual_seed(0)
    with torch.device("meta"):
        layers = torchvision.models.vgg16(weights=None).features.state_dict()
    state = {f"features.{name}": torch.randn(value.shape) * 0.05 for name, value in layers.items()}
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state, path)
    return path


def test_the_published_tower_has_its_size():
    """ViT-B/32: 87,849,216 parameters see 224² pixels; the file holds 151,277,313 with the text tower."""
    with torch.device("meta"):
        tower = ImageTower(768, 32, 7, 12, 3072, 512)
    assert sum(p.numel() for p in tower.parameters()) == 87_849_216
    assert tower.side == 224


def by_hand(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The tower written out in sums and products, for images of its own side."""
    s = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    x = ((images + 1) / 2 - mean) / std

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        whitened = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return whitened * s[f"{name}.weight"] + s[f"{name}.bias"]

    tokens = [s["class_embedding"].expand(len(x), -1)]
    for i in range(GRID):
        for j in range(GRID):
            piece = x[:, :, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
            tokens.append(torch.einsum("bcij,ocij->bo", piece, s["conv1.weight"]))
    x = norm(torch.stack(tokens, 1) + s["positional_embedding"], "ln_pre")
    for n in range(BLOCKS):
        name = f"transformer.resblocks.{n}"
        h = norm(x, f"{name}.ln_1")
        q, k, v = (h @ s[f"{name}.attn.in_proj_weight"].T + s[f"{name}.attn.in_proj_bias"]).chunk(3, dim=-1)
        heads = []
        for a in range(0, WIDTH, 64):
            part = slice(a, a + 64)
            weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(64)).softmax(-1)
            heads.append(weights @ v[..., part])
        x = x + torch.cat(heads, -1) @ s[f"{name}.attn.out_proj.weight"].T + s[f"{name}.attn.out_proj.bias"]
        h = norm(x, f"{name}.ln_2") @ s[f"{name}.mlp.c_fc.weight"].T + s[f"{name}.mlp.c_fc.bias"]
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        x = x + h @ s[f"{name}.mlp.c_proj.weight"].T + s[f"{name}.mlp.c_proj.bias"]
    return norm(x[:, 0], "ln_post") @ s["proj"]


def test_clip_sees_what_the_equations_say(clip_file):
    from safetensors.torch import load_file

    network = features.among({"clip": clip_file}, CPU)
    images = torch.rand(2, 3, PATCH * GRID, PATCH * GRID) * 2 - 1
    expected = by_hand(load_file(clip_file), images)
    assert torch.allclose(network.tower(images), expected, rtol=1e-3, atol=1e-4)
    a, b = expected
    cosine = (a @ b / (a.norm() * b.norm())).item()
    distance = losses.make("clip", network)(images[:1], images[1:])
    assert distance.item() == pytest.approx(1 - cosine, abs=1e-5) and distance.item() > 1e-3
    assert losses.make("clip", network)(images, images).abs().max() < 1e-6


def test_the_metric_is_the_cosine_of_each_image_alone(clip_file):
    rng = np.random.default_rng(0)
    images, targets = rng.integers(0, 256, (2, 3, 20, 20, 3), dtype=np.uint8)
    targets[2] = images[2]
    networks, absent = measure.load_networks({"clip": clip_file}, metrics.networks())
    assert absent.keys() == {"inception", "alexnet"}
    similarity = metrics.by_id("clip_image").function
    found = similarity(Given(images, targets, networks=networks))
    tower = networks["clip"][0].tower
    for image, target, value in zip(images, targets, found, strict=True):
        a, b = (tower(torch.from_numpy(x / 127.5 - 1).float().permute(2, 0, 1)[None])[0] for x in (image, target))
        assert value == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-5)
    assert found[2] == pytest.approx(1, abs=1e-6) and found.dtype == np.float64 and (found[:2] < 0.999).all()
    alone = [similarity(Given(images[i : i + 1], targets[i : i + 1], networks=networks))[0] for i in range(3)]
    assert alone == found.tolist()


def test_clip_takes_images_of_any_size_antialiased(clip_file):
    """Thin white stripes just where a tower that samples every eighth pixel would look are a dark grey to this one."""
    tower = features.among({"clip": clip_file}, CPU).tower
    stripes = torch.full((1, 3, 96, 96), -1.0)
    stripes[..., 3::8] = stripes[..., 4::8] = 1
    seen, grey, white = (tower(image) for image in (stripes, torch.full_like(stripes, -0.5), torch.ones_like(stripes)))
    assert (seen - grey).norm() < 0.2 * (white - grey).norm()


def test_lpips_of_vgg_is_the_packages_own(vgg_file, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    network = features.among({"vgg16": vgg_file}, CPU)
    state = torch.load(vgg_file, weights_only=True)
    assert torch.equal(getattr(network.net.slice1, "0").weight, state["features.0.weight"])
    assert torch.equal(getattr(network.net.slice5, "28").weight, state["features.28.weight"])
    assert isinstance(network, lpips.LPIPS) and network.pnet_type == "vgg" and not network.training
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", map_location="cpu")
    assert torch.equal(network.lin0.model[1].weight, linear["lin0.model.1.weight"])
    given = batch()
    assert torch.equal(losses.make("lpips-vgg", network)(given.target, given.target), torch.zeros(4))
    assert (losses.make("lpips-vgg", network)(given.target, given.reference) > 0).all()


@pytest.mark.parametrize("loss", ["lpips-vgg", "clip"])
def test_a_chain_is_refined_through_the_network_that_its_file_holds(loss, clip_file, vgg_file):
    files = {"vgg16": vgg_file, "clip": clip_file}
    options = chain.Trajectory(loss=loss, save_memory=True, sampler=Sampler(name="euler", steps=2))
    name = registry.features(parsed(tree(loss)).methods["ssimbad"].finetune)
    assert options.features == name == {"lpips-vgg": "vgg16", "clip": "clip"}[loss]
    network, model = features.among({name: files[name]}, CPU), build()
    result = edm.METHOD.training_step(model, batch(), Plan("trajectory", options), rng(), network)
    result.loss.backward()
    assert result.per_image.shape == (4,) and result.loss > 0
    assert model.network.stem.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters()), "it is an eye and learns nothing"


def tree(loss: str) -> dict:
    found = miniature()
    found["weights"] |= {"enabled": True, **{n: preset_tree("demo-all")["weights"][n] for n in ("vgg16", "clip")}}
    found["methods"]["ssimbad"]["finetune"]["options"]["loss"] = loss
    return found


@pytest.mark.parametrize(("loss", "name"), [("lpips-vgg", "vgg16"), ("clip", "clip")])
def test_the_file_comes_through_the_stage_weights_or_the_loss_is_refused(loss, name):
    found = {i.name: i for i in table.instances(parsed(tree(loss)))}
    assert found["weights"].outputs[name] == paths.feature_file(name)
    assert found["finetune-ssimbad-seed-0"].inputs[name] == paths.feature_file(name)
    assert name not in found["pretrain-ssimbad-seed-0"].inputs
    assert tree(loss)["weights"][name]["sha256"] == features.module(name).SHA256
    switched_off, missing = tree(loss), tree(loss)
    switched_off["weights"]["enabled"] = False
    key = "methods.ssimbad.finetune.options"
    assert f"{key}: the loss needs weights.{name}; set weights.enabled to true" in complaint(switched_off)
    missing["weights"][name] = None
    assert f"weights.{name}: missing; {key} need it" in complaint(missing)


def test_metrics_look_through_the_networks_whose_files_the_parameters_name(clip_file):
    """`weights.clip` is optional: without it there is no file to fetch, and the reason of the dash names the key."""
    p = parsed(tree("mse"))
    found = {i.name: i for i in table.instances(p)}
    evaluate = next(i for i in found.values() if i.stage.name == "evaluate")
    names = ["inception", "alexnet", "clip"]
    assert list(found["weights"].outputs) == names
    for instance in (evaluate, found["baselines"]):
        assert [instance.inputs[name] for name in names] == [paths.feature_file(name) for name in names]
    without = tree("mse")
    without["weights"]["clip"] = None
    found = {i.name: i for i in table.instances(parsed(without))}
    assert list(found["weights"].outputs) == names[:2] and "clip" not in found["baselines"].inputs
    images = np.zeros((2, 16, 16, 3), np.uint8)
    settings = SimpleNamespace(bootstrap=100, confidence=0.95, seed=0)
    for inputs, reason in (
        ({}, "switched off (weights.enabled: false)"),
        ({"alexnet": Path("gone.pth")}, "no weights file named (weights.clip: null)"),
        ({"clip": Path("lost.safetensors")}, "weights file not there: lost.safetensors"),
    ):
        networks, absent = measure.load_networks(inputs, metrics.networks())
        given = Given(images, images, networks=networks, absent=absent)
        (entry,) = measure.every([metrics.by_id("clip_image")], given, settings)[1].values()
        assert entry["value"] is None and reason in entry["reason"]


class Scripted(torch.nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("name", "content"),
    [*(("clip", c) for c in ("script", "pickle", "text", "other", "half")), ("vgg16", "script"), ("vgg16", "pickle")],
)
def test_another_file_is_refused_in_one_line(tmp_path, clip_file, name, content):
    """For CLIP also the TorchScript archive in which it was first published: it would run code."""
    path = tmp_path / "w"
    if content == "script":
        torch.jit.script(Scripted()).save(str(path))
    elif content == "pickle":
        torch.save({"visual.proj": torch.ones(2, 2)}, path)
    elif content == "text":
        path.write_text("not weights")
    elif content == "other":
        save_file({"visual.proj": torch.ones(2, 2)}, path)
    else:
        from safetensors.torch import load_file

        state = load_file(clip_file)
        del state["visual.ln_post.weight"]
        save_file(state, path)
    with pytest.raises(UserError, match=rf"^{path}: .*check weights\.{name} in params\.yaml") as error:
        features.load(name, path, CPU)
    assert "\n" not in str(error.value)
