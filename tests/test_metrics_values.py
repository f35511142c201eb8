"""PSNR, MS-SSIM and bootstrap against independent implementations and known facts."""

import numpy as np
import piq
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ssimbad.metrics import bootstrap
from ssimbad.metrics.contract import Unmeasurable
from ssimbad.metrics.mape import mape
from ssimbad.metrics.ms_ssim import WEIGHTS, ms_ssim, scales
from ssimbad.metrics.mse import mse
from ssimbad.metrics.psnr import CAP, psnr, weighted


def faces(n: int, size: int, seed: int = 0) -> np.ndarray:
    """(n, size, size, 3) uint8 smooth random pictures."""
    noise = np.random.default_rng(seed).normal(size=(n, size, size, 3))
    smooth = gaussian_filter(noise, (0, size / 16, size / 16, 0))
    return np.uint8(np.clip(128 + 50 * smooth / smooth.std(), 0, 255))


def worse(images: np.ndarray, amount: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=images.shape) * amount
    return np.uint8(np.clip(images + noise, 0, 255))


def test_psnr_equals_scikit_image():
    a = faces(4, 32)
    b = worse(a, 20)
    expected = [peak_signal_noise_ratio(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(b, a), expected, rtol=1e-12)


def test_psnr_by_weights_counts_each_pixel_by_its_own():
    target, image = np.full((1, 2, 1, 3), 100, np.uint8), np.full((1, 2, 1, 3), 100, np.uint8)
    image[0, 0], image[0, 1] = 110, 140
    for weights, squares in (((255, 0), 100), ((0, 255), 1600), ((3, 1), (3 * 100 + 1600) / 4)):
        found = weighted(image, target, np.uint8(weights).reshape(1, 2, 1))
        assert found[0] == pytest.approx(10 * np.log10(255**2 / squares), rel=1e-12)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        weighted(image, np.concatenate([target, target]), np.ones((1, 2, 1), np.uint8))


def test_mape_counts_the_darkest_level_that_is_not_black():
    target, image = np.full((1, 8, 8, 3), 1, np.uint8), np.full((1, 8, 8, 3), 3, np.uint8)
    assert mape(image, target)[0] == pytest.approx(200)


def test_psnr_of_a_known_error():
    black = np.zeros((1, 8, 8, 3), np.uint8)
    assert psnr(black, np.full_like(black, 255))[0] == pytest.approx(0)
    assert psnr(black, np.full_like(black, 51))[0] == pytest.approx(20 * np.log10(5))


def test_psnr_of_identical_images_is_the_cap_that_piq_reports():
    a = faces(1, 16)
    x = torch.tensor(a).permute(0, 3, 1, 2) / 255
    assert psnr(a, a)[0] == CAP
    assert piq.psnr(x, x).item() == pytest.approx(CAP, abs=1e-3)


def test_psnr_agrees_with_the_published_protocol_in_its_range():
    a = faces(3, 32)
    b = worse(a, 30)
    x, y = (torch.tensor(i).permute(0, 3, 1, 2) / 255 for i in (a, b))
    np.testing.assert_allclose(psnr(a, b), piq.psnr(x, y, reduction="none"), atol=1e-3)


def test_mse_is_that_of_the_networks_scale_and_psnr_by_another_name():
    a = faces(4, 32)
    b = worse(a, 30)
    x, y = (i / 127.5 - 1 for i in (a, b))
    np.testing.assert_allclose(mse(b, a), np.square(x - y).mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(10 * np.log10(4 / mse(b, a)), psnr(b, a), rtol=1e-12)
    assert mse(np.zeros_like(a), np.full_like(a, 255)).tolist() == [4] * 4 and not mse(a, a).any()


def test_mape_is_of_what_the_target_has_and_leaves_black_out():
    target = np.zeros((1, 2, 2, 3), np.uint8)
    target[0, 0, 0] = (100, 200, 50)
    image = np.full_like(target, 90)
    assert mape(image, target)[0] == pytest.approx((10 + 55 + 80) / 3)
    assert mape(target, target)[0] == 0
    a = faces(4, 32)
    twice = np.minimum(2 * a.astype(int), 255).astype(np.uint8)
    dark = np.minimum(a, 120)
    np.testing.assert_allclose(mape(2 * dark, dark), 100)
    assert (mape(twice, a) < 100).all()
    with pytest.raises(Unmeasurable, match="black all over"):
        mape(image, np.zeros_like(target))


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_metrics_are_symmetric_fall_with_noise_and_ignore_company(metric):
    a = faces(5, 64)
    b = worse(a, 25)
    together = metric(a, b)
    np.testing.assert_allclose(together, metric(b, a), rtol=1e-6)
    assert (metric(worse(a, 5), a) > together).all()
    assert [metric(a[i : i + 1], b[i : i + 1])[0] for i in range(5)] == together.tolist()


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_metrics_refuse_different_shapes(metric):
    with pytest.raises(ValueError, match="shape"):
        metric(faces(2, 32), faces(2, 64))


@pytest.mark.parametrize(
    ("size", "expected"),
    [(11, 1), (20, 1), (21, 2), (64, 3), (80, 3), (81, 4), (128, 4), (160, 4), (161, 5), (256, 5), (1024, 5)],
)
def test_scales_admissible_at_a_size(size, expected):
    assert scales(size) == expected


def test_no_scale_below_the_window():
    with pytest.raises(ValueError, match="at least 11"):
        scales(10)


def test_scales_are_those_that_piq_accepts():
    for size in (64, 128):
        x = torch.rand(1, 3, size, size)
        weights = torch.tensor(WEIGHTS[: scales(size) + 1])
        with pytest.raises(ValueError, match="size"):
            piq.multi_scale_ssim(x, x, scale_weights=weights)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_ms_ssim_of_identical_images_is_one(size):
    a = faces(1, size)
    assert ms_ssim(a, a)[0] == pytest.approx(1, abs=1e-6)


def test_ms_ssim_with_one_scale_is_ssim_with_a_gaussian_window():
    a = faces(1, 20)
    b = worse(a, 20)
    kwargs = {"gaussian_weights": True, "sigma": 1.5, "win_size": 11, "use_sample_covariance": False}
    _, image = structural_similarity(a[0] / 255, b[0] / 255, channel_axis=2, data_range=1, full=True, **kwargs)
    assert ms_ssim(a, b)[0] == pytest.approx(image[5:-5, 5:-5].mean(), abs=1e-4)


def test_ms_ssim_has_five_published_scales_at_paper_size():
    a = faces(1, 256)
    b = worse(a, 20)
    x, y = (torch.tensor(i).permute(0, 3, 1, 2) / 255 for i in (a, b))
    assert ms_ssim(a, b)[0] == pytest.approx(piq.multi_scale_ssim(x, y).item(), abs=1e-4)


@pytest.mark.parametrize("size", [41, 64, 83, 128, 177, 256])
def test_ms_ssim_is_that_of_piq_at_every_size(size):
    rng = np.random.default_rng(size)
    smooth = np.clip(np.cumsum(rng.normal(0, 6, (2, size, size, 3)), axis=2) + 128, 0, 255).astype(np.uint8)
    noisy = np.clip(smooth + rng.normal(0, 25, smooth.shape), 0, 255).astype(np.uint8)
    x, y = (torch.tensor(i).permute(0, 3, 1, 2).double() / 255 for i in (smooth, noisy))
    weights = torch.tensor(WEIGHTS[: scales(size)], dtype=torch.float64)
    expected = piq.multi_scale_ssim(x, y, scale_weights=weights / weights.sum(), reduction="none")
    np.testing.assert_allclose(ms_ssim(smooth, noisy), expected.numpy(), atol=1e-9)


def test_ms_ssim_renormalises_the_weights():
    """Weights that summed to less than one would pull a value below one towards one."""
    a = faces(1, 64)
    b = worse(a, 40)
    x, y = (torch.tensor(i).permute(0, 3, 1, 2) / 255 for i in (a, b))
    three = torch.tensor([0.0448, 0.2856, 0.3001]) / 0.6305
    assert ms_ssim(a, b)[0] == pytest.approx(piq.multi_scale_ssim(x, y, scale_weights=three).item(), abs=1e-5)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.normal(10, 2, size=(200, 40))
    intervals = [bootstrap.mean(s, resamples=300, confidence=0.9, seed=i) for i, s in enumerate(samples)]
    covered = np.mean([e.low <= 10 <= e.high for e in intervals])
    assert 0.80 < covered < 0.97
    width = np.mean([e.high - e.low for e in intervals])
    assert width == pytest.approx(2 * 1.645 * 2 / np.sqrt(40), rel=0.1)


def test_bootstrap_is_seeded():
    values = np.arange(30.0) ** 2
    first = bootstrap.mean(values, resamples=200, confidence=0.95, seed=1)
    assert first == bootstrap.mean(values, resamples=200, confidence=0.95, seed=1)
    assert first != bootstrap.mean(values, resamples=200, confidence=0.95, seed=2)
    assert first.value == values.mean() and first.low < first.value < first.high


def test_paired_difference_is_narrow_where_images_vary_more_than_methods():
    generator = np.random.default_rng(0)
    images = generator.normal(20, 5, size=60)
    a, b = images + 1 + 0.1 * generator.normal(size=60), images
    gap = bootstrap.difference(a, b, resamples=500, confidence=0.95, seed=0)
    assert gap.value == pytest.approx(1, abs=0.1)
    assert gap.high - gap.low < 0.2
    assert bootstrap.difference(b, a, resamples=500, confidence=0.95, seed=0).value == pytest.approx(-gap.value)


def test_one_value_has_no_interval_and_none_is_an_error():
    assert bootstrap.mean(np.array([3.0]), resamples=100, confidence=0.95, seed=0).low is None
    with pytest.raises(ValueError, match="at least one"):
        bootstrap.mean(np.array([]), resamples=100, confidence=0.95, seed=0)
    with pytest.raises(ValueError, match="paired"):
        bootstrap.difference(np.ones(3), np.ones(4), resamples=100, confidence=0.95, seed=0)


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((0.2154, 0.201, 0.229), "0.215"),
        ((0.2154, 0.2153, 0.2155), "0.2154"),
        ((0.2154, 0.1, 0.4), "0.22"),
        ((0.2154, 0.2154, 0.2154), "0.2154"),  # no width: the four digits that a constant is given to
        ((0.04, 0.01, 3.0), "0.04"),  # never to nothing
        ((2.345, 2.1, 2.6), "2.35"),
        ((31.6, 5.0, 90.0), "32"),
    ],
)
def test_a_value_is_quoted_with_the_digits_that_its_interval_carries(interval, shown):
    assert f"{interval[0]:.{bootstrap.decimals(*interval)}f}" == shown
