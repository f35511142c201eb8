"""FID, KID and LPIPS: the mathematics on synthetic features, and no number without the true weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from pytorch_fid import inception

from ssimbad.errors import UserError
from ssimbad.features import alexnet
from ssimbad.features import inception as features
from ssimbad.metrics import fid, kid, lpips, measure, mmd, pixel_mmd
from ssimbad.metrics.contract import Given
from ssimbad.metrics.mmd import kernel_distance


def gaussian(n: int, mean: np.ndarray, scale: np.ndarray, seed: int) -> np.ndarray:
    """(n, D) features whose sample mean and covariance are exactly `mean` and diag(scale²)."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x * scale


def test_fid_of_two_gaussians_is_the_closed_form():
    """|m1 - m2|² + Σ (s1 - s2)² for commuting covariances (Dowson & Landau 1982)."""
    m1, m2 = np.zeros(8), np.linspace(0, 2, 8)
    s1, s2 = np.linspace(1, 3, 8), np.linspace(2, 1, 8)
    distance = fid.frechet_distance(gaussian(200, m1, s1, 0), gaussian(300, m2, s2, 1))
    assert distance == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-6)


def test_fid_is_symmetric_and_zero_for_equal_sets():
    a, b = gaussian(50, np.zeros(6), np.ones(6), 0), gaussian(60, np.ones(6), 2 * np.ones(6), 1)
    assert fid.frechet_distance(a, b) == pytest.approx(fid.frechet_distance(b, a))
    assert fid.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kid_of_separated_points_is_the_closed_form():
    """Two pairs of equal one-dimensional points x, y: k(x,x) + k(y,y) - 2 k(x,y) with k = (xy + 1)³."""
    x, y = np.array([[1.0], [1.0]]), np.array([[2.0], [2.0]])
    assert kernel_distance(x, y, 0, "kid") == pytest.approx(2**3 + 5**3 - 2 * 3**3)


def test_kid_is_unbiased_and_fid_is_not():
    """Two samples of one distribution: KID averages to zero at any n, FID stays above it."""
    generator = np.random.default_rng(0)
    pairs = [generator.normal(size=(2, 30, 16)) for _ in range(200)]
    kid = np.array([kernel_distance(a, b, 0, "kid") for a, b in pairs])
    assert abs(kid.mean()) < 3 * kid.std() / np.sqrt(len(kid))
    assert (kid < 0).any()
    assert np.mean([fid.frechet_distance(a, b) for a, b in pairs[:20]]) > 1


def test_kid_beyond_a_thousand_images_draws_seeded_subsets(monkeypatch):
    monkeypatch.setattr(mmd, "SUBSET", 40)
    monkeypatch.setattr(mmd, "SUBSETS", 20)
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(120, 4)), generator.normal(1, 1, size=(120, 4))
    value = kernel_distance(a, b, 1, "kid")
    assert value == kernel_distance(a, b, 1, "kid") != kernel_distance(a, b, 2, "kid")
    monkeypatch.setattr(mmd, "SUBSET", 1000)
    assert value == pytest.approx(kernel_distance(a, b, 1, "kid"), rel=0.2)


@pytest.mark.parametrize("distance", [fid.frechet_distance, lambda a, b: kernel_distance(a, b, 0, "kid")])
def test_one_image_has_no_distribution(distance):
    with pytest.raises(ValueError, match="two images"):
        distance(np.ones((1, 4)), np.ones((5, 4)))


@pytest.fixture(scope="module")
def random_alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of AlexNet's form with random weights: it stands in for the form alone, never for a number."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torchvision.models.alexnet(weights=None).features.state_dict()
    state = {f"features.{name}": value for name, value in layers.items()}
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path


def test_lpips_loads_the_given_backbone_without_download(random_alexnet, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    network = alexnet.load(random_alexnet)
    state = torch.load(random_alexnet, weights_only=True)
    assert torch.equal(getattr(network.net.slice1, "0").weight, state["features.0.weight"])
    assert torch.equal(getattr(network.net.slice5, "10").weight, state["features.10.weight"])
    assert not network.training


def test_lpips_feeds_minus_one_to_one(random_alexnet):
    """The published code fed [0, 1] (defect D12): black must arrive as -1 and white as +1."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, a, b):
            seen.extend((a, b))
            return torch.zeros(1)

    black = np.zeros((1, 64, 64, 3), np.uint8)
    lpips.distances(black, black + 255, Spy())
    assert seen[0].min() == seen[0].max() == -1 and seen[1].min() == seen[1].max() == 1
    assert seen[0].shape == (1, 3, 64, 64)
    network = alexnet.load(random_alexnet)
    assert lpips.distances(black, black, network).tolist() == [0.0]


def test_lpips_is_bit_equal_on_any_number_of_devices_or_cores(random_alexnet):
    """Random weights: only the order is looked at."""
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    copies = [alexnet.load(random_alexnet) for _ in range(3)]
    alone = lpips.distances(images, images[::-1], copies[0])
    assert np.array_equal(lpips.distances(images, images[::-1], *copies), alone)
    assert np.array_equal(lpips.distances(images, images[::-1], *copies[:1] * 3), alone)
    assert (alone[:2] > 0).all()


@pytest.mark.parametrize("loader", [features.load, alexnet.load])
@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_a_wrong_weights_file_is_one_readable_line(tmp_path, loader, content):
    path = tmp_path / "w.pth"
    if content is None:
        torch.save({"other": torch.ones(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth.*check weights\.(inception|alexnet)"):
        loader(path)


def test_a_weights_file_that_would_execute_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="no PyTorch weights"):
        features.load(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the form of pytorch-fid's weights; it stands in for the form alone, never for a number."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        state = network.state_dict()
        # Wide enough that something of the image is left behind the last layer.
        wide = {k: torch.randn(v.shape) * (2 / v[0].numel()) ** 0.5 for k, v in state.items() if v.ndim == 4}
    state |= wide
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


def test_inception_takes_the_given_weights_without_download(random_inception, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    network = features.load(random_inception)
    state = torch.load(random_inception, weights_only=True)
    assert torch.equal(network.network.Conv2d_1a_3x3.conv.weight, state["Conv2d_1a_3x3.conv.weight"])
    assert isinstance(network.network.Mixed_7b, inception.FIDInceptionE_1) and not network.training


def test_inception_features_are_pytorch_fids_to_the_bit(random_inception, monkeypatch):
    state = torch.load(random_inception, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2).float() / 255)[0].flatten(1).double().numpy()
    assert np.array_equal(features.described(images, features.load(random_inception)), expected)
    assert expected.std(axis=0).max() > 0


def test_features_are_pool3_and_do_not_depend_on_the_batch(monkeypatch):
    """With a network of random weights: only form and batching are looked at."""

    class Pool(torch.nn.Module):
        def forward(self, x):
            assert x.min() >= 0 and x.max() <= 1
            return torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    values = features.described(images, Pool())
    np.testing.assert_allclose(values, images.mean(axis=(1, 2)) / 255, rtol=1e-5)
    assert np.array_equal(features.described(images, Pool(), Pool()), values)
    monkeypatch.setattr(features, "BATCH", 2)
    np.testing.assert_allclose(features.described(images, Pool()), values)


def test_fid_and_kid_compute_their_features_once():
    calls = []

    class Pool(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.mean(dim=(2, 3))

    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    given = Given(images, faces=images[:4], networks={"inception": (Pool(),)})
    assert fid.METRIC.function(given) > 0
    kid.METRIC.function(given)
    assert calls == [5, 4]


SETTINGS = SimpleNamespace(bootstrap=100, confidence=0.95, seed=0)


def test_without_weights_there_is_a_reason_and_no_number(tmp_path):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    for inputs in ({}, {"inception": tmp_path / "gone.pth", "alexnet": tmp_path / "lost.pth"}):
        networks, absent = measure.load_networks(inputs, ["inception", "alexnet"])
        given = Given(images, images, images, networks=networks, absent=absent)
        values, entries = measure.every([fid.METRIC, kid.METRIC, lpips.METRIC], given, SETTINGS)
        assert values == {} and list(entries) == ["fid", "kid", "lpips"]
        for entry in entries.values():
            assert entry["value"] is None and entry["ci_low"] is None and entry["n"] == 3
    assert "gone.pth" in entries["fid"]["reason"] and "lost.pth" in entries["lpips"]["reason"]


def test_one_image_has_no_set_metric_but_a_reason():
    one = np.zeros((1, 32, 32, 3), np.uint8)
    _, entries = measure.every([pixel_mmd.METRIC], Given(one, faces=one), SETTINGS)
    assert entries["pixel_mmd"]["value"] is None and "two images" in entries["pixel_mmd"]["reason"]


def test_where_pytorch_fid_gives_up_it_is_said(monkeypatch):
    def give_up(*_):
        raise ValueError("Imaginary component 0.1")

    monkeypatch.setattr("pytorch_fid.fid_score.calculate_frechet_distance", give_up)
    with pytest.raises(ValueError, match="pytorch-fid: Imaginary"):
        fid.frechet_distance(np.eye(3), np.eye(3))
