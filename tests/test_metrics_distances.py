"""FID, KID and LPIPS: the mathematics on synthetic features, and no number without the true weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pytorch_fid import inception

from ssimbad.errors import UserError
from ssimbad.metrics import fid, lpips, measure


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
    assert fid.kernel_distance(x, y, seed=0) == pytest.approx(2**3 + 5**3 - 2 * 3**3)


def test_kid_is_unbiased_and_fid_is_not():
    """Two samples of one distribution: KID averages to zero at any n, FID stays above it."""
    generator = np.random.default_rng(0)
    pairs = [generator.normal(size=(2, 30, 16)) for _ in range(200)]
    kid = np.array([fid.kernel_distance(a, b, seed=0) for a, b in pairs])
    assert abs(kid.mean()) < 3 * kid.std() / np.sqrt(len(kid))
    assert (kid < 0).any()
    assert np.mean([fid.frechet_distance(a, b) for a, b in pairs[:20]]) > 1


def test_kid_beyond_a_thousand_images_draws_seeded_subsets(monkeypatch):
    monkeypatch.setattr(fid, "KID_SUBSET", 40)
    monkeypatch.setattr(fid, "KID_SUBSETS", 20)
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(120, 4)), generator.normal(1, 1, size=(120, 4))
    value = fid.kernel_distance(a, b, seed=1)
    assert value == fid.kernel_distance(a, b, seed=1) != fid.kernel_distance(a, b, seed=2)
    monkeypatch.setattr(fid, "KID_SUBSET", 1000)
    assert value == pytest.approx(fid.kernel_distance(a, b, seed=1), rel=0.2)


@pytest.mark.parametrize("distance", [fid.frechet_distance, lambda a, b: fid.kernel_distance(a, b, 0)])
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
    network = lpips.load_network(random_alexnet)
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
            return torch.zeros(1, 1, 1, 1)

    black = np.zeros((1, 64, 64, 3), np.uint8)
    lpips.lpips(black, black + 255, Spy())
    assert seen[0].min() == seen[0].max() == -1 and seen[1].min() == seen[1].max() == 1
    assert seen[0].shape == (1, 3, 64, 64)
    network = lpips.load_network(random_alexnet)
    assert lpips.lpips(black, black, network).tolist() == [0.0]


def test_lpips_is_bit_equal_on_any_number_of_devices_or_cores(random_alexnet):
    """Random weights: only the order is looked at."""
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    copies = [lpips.load_network(random_alexnet) for _ in range(3)]
    alone = lpips.lpips(images, images[::-1], copies[0])
    assert np.array_equal(lpips.lpips(images, images[::-1], *copies), alone)
    assert np.array_equal(lpips.lpips(images, images[::-1], *copies[:1] * 3), alone)
    assert (alone[:2] > 0).all()


@pytest.mark.parametrize("loader", [fid.load_network, lpips.load_network])
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
        fid.load_network(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()


def test_inception_is_pytorch_fids_with_the_given_weights_and_no_download(tmp_path, monkeypatch):
    """Random weights stand in for the form alone; `weights` lets only the pinned file through."""
    with torch.random.fork_rng():
        state = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None).state_dict()
    torch.save(state, tmp_path / "inception.pth")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    network = fid.load_network(tmp_path / "inception.pth")
    first = network.blocks[0][0]
    assert torch.equal(first.conv.weight, state["Conv2d_1a_3x3.conv.weight"])
    assert isinstance(network.blocks[3][1], inception.FIDInceptionE_1) and not network.training
    assert fid.features(np.zeros((2, 32, 32, 3), np.uint8), network).shape == (2, 2048)


def test_features_are_pool3_and_do_not_depend_on_the_batch(monkeypatch):
    """With a network of random weights: only form and batching are looked at."""

    class Pool(torch.nn.Module):
        def forward(self, x):
            assert x.min() >= 0 and x.max() <= 1
            return [torch.nn.functional.adaptive_avg_pool2d(x, 1)]

    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    values = fid.features(images, Pool())
    np.testing.assert_allclose(values, images.mean(axis=(1, 2)) / 255, rtol=1e-5)
    assert np.array_equal(fid.features(images, Pool(), Pool()), values)
    monkeypatch.setattr(fid, "BATCH", 2)
    np.testing.assert_allclose(fid.features(images, Pool()), values)


def test_without_weights_there_is_a_reason_and_no_number(tmp_path):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    for networks in (measure.load_networks({}), measure.load_networks({"inception": tmp_path / "gone.pth"})):
        for metric in measure.distribution(images, images, networks, seed=0).values():
            assert metric["value"] is None and metric["ci_low"] is None and metric["reason"]
        assert "lpips" not in measure.per_image(images, images, networks)
    assert "gone.pth" in networks.reason
