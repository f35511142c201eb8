"""The fast SSIM against scikit-image, and the shared curve against the direct protocol."""

import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from ssimbad.noise import ddpm
from ssimbad.noise.transforms import PUBLISHED, make
from ssimbad.schedule.selection import Criterion, line_r2
from ssimbad.schedule.ssim import Ssim, flat
from ssimbad.schedule.ssim_curves import (
    Curves,
    ddpm_curve,
    noise,
    sample,
    sigma_curve,
    sigma_grid,
    timestep_grid,
)


def reference(clean, other):
    return structural_similarity(clean, other, data_range=1, channel_axis=2)


def flat_picture():
    """Large flat areas and hard edges, as in a cartoon: where variances vanish."""
    picture = np.zeros((48, 64, 3))
    picture[:, :, 0], picture[:, 20:, 1], picture[10:30, 5:50, 2] = 0.93, 0.81, 0.07
    return picture


IMAGES = {
    "photograph": data.astronaut()[50:146, 150:246] / 255,
    "random": np.random.default_rng(0).random((33, 40, 3)),
    "flat": flat_picture(),
    "one window": np.random.default_rng(1).random((7, 7, 3)),
}


@pytest.mark.parametrize("clean", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("sigma", [0.0, 0.002, 0.05, 0.3, 1.0, 80.0])
def test_equals_scikit_image(clean, sigma):
    normal = np.random.default_rng(2).standard_normal(clean.shape)
    other = np.clip(clean + sigma * normal, 0, 1)
    found = Ssim(clean)(flat(other - clean).astype(np.float32))
    assert found == pytest.approx(reference(clean, other), abs=1e-7)


def test_one_object_serves_many_questions():
    clean = IMAGES["photograph"]
    ssim = Ssim(clean)
    first, second = (flat(np.full_like(clean, v)).astype(np.float32) for v in (0.1, -0.2))
    alone = ssim(first)
    ssim(second)
    assert ssim(first) == alone
    assert ssim(np.zeros_like(first)) == pytest.approx(1, abs=1e-7)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="7 pixels"):
        Ssim(np.zeros((6, 9, 3)))


@pytest.fixture(scope="module")
def faces():
    return {"a": data.astronaut()[70:134, 190:254], "b": (flat_picture()[:48, :48] * 255).astype(np.uint8)}


def test_sigma_curve_is_the_published_degradation(faces):
    for id_, face in faces.items():
        drawn = noise(0, id_, len(face))
        sigmas = np.array([0.01, 0.5, 10])
        x = face / 127.5 - 1
        expected = [reference((x + 1) / 2, (np.clip(x + s * drawn, -1, 1) + 1) / 2) for s in sigmas]
        assert sigma_curve(face, drawn, sigmas) == pytest.approx(expected, abs=2e-7)


def test_ddpm_curve_fades_the_image(faces):
    face, drawn = faces["a"], noise(0, "a", 64)
    alpha_bar = ddpm.alpha_bar(1000, 1e-6, 1e-2).numpy()[[0, 200, 999]]
    x = face / 127.5 - 1
    noisy = [np.clip(np.sqrt(a) * x + np.sqrt(1 - a) * drawn, -1, 1) for a in alpha_bar]
    expected = [reference((x + 1) / 2, (z + 1) / 2) for z in noisy]
    assert ddpm_curve(face, drawn, alpha_bar) == pytest.approx(expected, abs=2e-7)


def test_noise_depends_on_seed_and_id_alone():
    assert np.array_equal(noise(0, "a", 16), noise(0, "a", 16))
    assert not np.array_equal(noise(0, "a", 16), noise(0, "b", 16))
    assert not np.array_equal(noise(0, "a", 16), noise(1, "a", 16))
    many = noise(0, "a", 128)
    assert many.shape == (128, 128, 3) and abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_grids_hold_both_ends_exactly():
    grid = sigma_grid(32, 0.002, 80.0)
    assert grid[0] == 0.002 and grid[-1] == 80 and len(grid) == 32 and (np.diff(grid) > 0).all()
    assert all(float(f"{s:.9g}") == s for s in grid)
    assert timestep_grid(32, 1000)[[0, -1]].tolist() == [0, 999]
    assert timestep_grid(32, 10).tolist() == list(range(10))


def test_every_candidate_agrees_with_the_direct_protocol(faces):
    criterion = Criterion(50, 0.002, 80.0)
    grid = sigma_grid(32, 0.002, 80.0)
    drawn = {id_: noise(0, id_, len(face)) for id_, face in faces.items()}
    curves = np.stack([sigma_curve(face, drawn[id_], grid) for id_, face in faces.items()])
    shared = Curves("sigma", tuple(faces), grid, curves)
    for spec in PUBLISHED:
        phi = make(spec)
        u = np.linspace(phi.forward(0.002), phi.forward(80.0), 50)
        direct = []
        for id_, face in faces.items():
            x = face / 127.5 - 1
            noisy = ((np.clip(x + s * drawn[id_], -1, 1) + 1) / 2 for s in phi.inverse(u))
            ssim = np.array([[reference(face / 255, z) for z in noisy]])
            assert line_r2(u, ssim)[0] == pytest.approx(np.corrcoef(u, ssim[0])[0, 1] ** 2, abs=1e-9)
            direct.append(line_r2(u, ssim)[0])
        assert criterion.score(shared, spec).mean() == pytest.approx(np.mean(direct), abs=5e-4), spec


def test_sample_does_not_depend_on_the_order_of_the_ids():
    ids = [f"face-{i}" for i in range(50)]
    chosen = {ids[i] for i in sample(ids, 10, 3)}
    backwards = ids[::-1]
    assert len(chosen) == 10 and chosen == {backwards[i] for i in sample(backwards, 10, 3)}
    assert chosen != {ids[i] for i in sample(ids, 10, 4)}
    with pytest.raises(ValueError, match="only 50"):
        sample(ids, 51, 3)
