"""The TPS warp against a direct float64 evaluation of the published protocol."""

import numpy as np
import pytest
import torch

from ssimbad.errors import UserError
from ssimbad.pairing import resize, tps
from ssimbad.params.blocks import References

WARP = References(seed=0, low=0.3, high=0.7, shift=0.25, decimals=2, rotation=0.0)
CORNERS = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
# Displaced points 0.01 apart and shifts as different as they can be: the largest spline weights there are.
STEEPEST = tps.Warp(np.array([[0.7, 0.3], [0.7, 0.3]]), np.array([[-0.2, 0.21], [-0.2, 0.19]]))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return r**2 * np.log(r + 1e-6)


def _direct(points: np.ndarray, shifts: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 2) source pixel of each output pixel: reduced TPS (weights sum to zero) of x and of y."""
    source = np.array([*CORNERS, *((p, p) for p in points)])
    target = np.array([*CORNERS, *((p + r, p + r) for p, r in zip(points, shifts, strict=True))])
    ones = np.ones((6, 1))
    affine = np.hstack([ones, target])
    system = np.block([[_kernel(target, target), affine], [affine.T, np.zeros((3, 3))]])
    theta = np.linalg.solve(system, np.vstack([source - target, np.zeros((3, 2))]))
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    u = np.stack([x.ravel(), y.ravel()], axis=1)
    reduced = theta[1:6]
    d = _kernel(u, target) @ np.vstack([-reduced.sum(0), reduced])
    d += np.hstack([np.ones((len(u), 1)), u]) @ theta[6:]
    return ((u + d) * [width, height]).reshape(height, width, 2)


def _draw(count: int, seed: int = 0) -> tps.Warp:
    return tps.draw(seed, [f"face-{i}" for i in range(count)], WARP)


@pytest.mark.parametrize("warp", [_draw(10), STEEPEST], ids=["drawn", "steepest"])
def test_grid_is_exact_to_a_hundredth_pixel_everywhere(warp):
    batch = tps.grid(warp, 256, 256)
    assert batch.shape == (len(warp), 256, 256, 2)
    for i in range(len(warp)):
        expected = _direct(warp.points[i], warp.shifts[i], 256, 256)
        assert np.abs(batch[i].numpy() - expected).max() < 0.01
        exact = tps.grid(warp[i : i + 1], 256, 256, dtype=torch.float64)[0]
        assert np.abs(exact.numpy() - expected).max() < 1e-6


def test_not_square():
    warp = _draw(2, seed=3)
    expected = _direct(warp.points[1], warp.shifts[1], 40, 64)
    np.testing.assert_allclose(tps.grid(warp, 40, 64)[1], expected, atol=2e-3)


def test_displaced_points_read_the_points():
    warp = _draw(20)
    for i, (p, q) in enumerate(zip(warp.points, warp.points + warp.shifts, strict=True)):
        # u = x / (W-1) meets the displaced points of two decimals where W = 101.
        places = np.rint(q * 100).astype(int)
        d = tps.displacement(warp[i : i + 1], 101, 101, dtype=torch.float64)[0]
        inside = (places >= 0) & (places <= 100)
        np.testing.assert_allclose((q + d[places[inside], places[inside]].numpy())[inside], p[inside], atol=1e-9)
        np.testing.assert_allclose(d[[0, 0, 100, 100], [0, 100, 0, 100]], 0, atol=1e-9)


def _cubic(t: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -0.75 (Keys 1981; the coefficient of OpenCV)."""
    a, t = -0.75, np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def test_resampling_is_cubic_on_black():
    height, width = 13, 16
    images = torch.rand(3, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    warp = _draw(3, seed=1)
    warped = tps.warp(images, warp)
    for i in range(3):
        at = _direct(warp.points[i], warp.shifts[i], height, width)
        rows = _cubic(at[..., 1, None] - np.arange(height))
        columns = _cubic(at[..., 0, None] - np.arange(width))
        lifted = np.einsum("cyx,ijy,ijx->cij", images[i].numpy() + 1, rows, columns)
        np.testing.assert_allclose(warped[i].numpy(), np.clip(lifted, 0, 2) - 1, atol=1e-7)


def test_zero_shift_stretches_by_the_published_convention():
    still = tps.Warp(np.array([[0.4, 0.6]]), np.zeros((1, 2)))
    assert tps.displacement(still, 64, 64).abs().max() == 0
    expected = np.arange(64) * 64 / 63
    np.testing.assert_allclose(tps.grid(still, 64, 64, dtype=torch.float64)[0, 5, :, 0], expected, atol=1e-9)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    warped = tps.warp(ramp, still)
    inner = torch.from_numpy(expected[:-3] * 2 / 63 - 1).float().expand(3, 60, 61)
    # The kernel with a = -0.75 is a little off on a ramp; without the stretch the error would reach 0.03.
    torch.testing.assert_close(warped[0, :, 2:62, 2:61], inner[:, :, 2:61], atol=3e-3, rtol=0)
    assert (warped[..., -1] == -1).all()


def test_black_outside_and_untouched_white_inside():
    warp = _draw(8, seed=2)
    warped = tps.warp(torch.ones(8, 3, 96, 96), warp)
    at = tps.grid(warp, 96, 96)
    outside = ((at < -2) | (at > 97)).any(-1)
    inside = ((at > 1) & (at < 94)).all(-1)
    assert outside.any() and inside.any()
    assert (warped.movedim(1, -1)[outside] == -1).all()
    torch.testing.assert_close(warped.movedim(1, -1)[inside], torch.ones(int(inside.sum()), 3), atol=1e-5, rtol=0)
    assert warped.min() >= -1 and warped.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_the_same_in_any_batch(dtype):
    images = torch.rand(11, 3, 48, 48, dtype=dtype) * 2 - 1
    warp = _draw(11)
    together = tps.warp(images, warp)
    for i in (0, 7, 10):
        assert torch.equal(tps.warp(images[i : i + 1], warp[i : i + 1])[0], together[i])
    rows = np.array([9, 2])
    assert torch.equal(tps.warp(images[rows], warp[rows]), together[rows])
    channels_last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(tps.warp(channels_last, warp), together)


def test_bytes_do_not_depend_on_threads():
    faces = np.random.default_rng(0).integers(0, 256, (4, 210, 210, 3), np.uint8)
    images, warp, before = resize.to_unit(faces).double(), _draw(4), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(resize.to_bytes(tps.warp(images, warp)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_draws_belong_to_the_id_and_keep_the_law():
    ids = [f"face-{i}" for i in range(500)]
    warp, back = tps.draw(7, ids, WARP), tps.draw(7, ids[::-1], WARP)
    np.testing.assert_array_equal(warp.points, back.points[::-1])
    np.testing.assert_array_equal(warp.shifts, back.shifts[::-1])
    assert (tps.draw(8, ids, WARP).points != warp.points).mean() > 0.9
    np.testing.assert_array_equal(warp.points, warp.points.round(2))
    np.testing.assert_array_equal(warp.shifts, warp.shifts.round(2))
    assert 0.3 <= warp.points.min() < 0.32 and 0.68 < warp.points.max() <= 0.7
    assert -0.25 <= warp.shifts.min() < -0.23 and 0.23 < warp.shifts.max() <= 0.25
    displaced = (warp.points + warp.shifts).round(9)
    assert (displaced[:, 0] != displaced[:, 1]).all()


@pytest.mark.parametrize(
    "generator", [np.random.default_rng, lambda s: torch.Generator().manual_seed(s)], ids=["numpy", "torch"]
)
def test_random_is_fresh_and_follows_its_generator(generator):
    first = generator(3)
    a, b = tps.Warp.random(first, 40, WARP), tps.Warp.random(first, 40, WARP)
    again = tps.Warp.random(generator(3), 40, WARP)
    np.testing.assert_array_equal(a.points, again.points)
    assert (a.points != b.points).mean() > 0.9
    assert a.points.min() >= 0.3 and a.points.max() <= 0.7


def test_coinciding_points_are_drawn_again_or_refused():
    narrow = WARP.model_copy(
        update={"low": 0.4, "high": 0.6, "shift": 0.1, "decimals": 1}
    )  # a quarter of these draws coincide
    displaced = tps.Warp.random(np.random.default_rng(0), 300, narrow)
    assert (np.abs(np.diff((displaced.points + displaced.shifts).round(1))) > 0.05).all()
    with pytest.raises(UserError, match=r"references\.decimals"):
        tps.draw(0, ["a"], WARP.model_copy(update={"low": 0.5, "high": 0.501, "shift": 0.001, "decimals": 1}))


def test_about_44_percent_fold_as_published():
    at = tps.grid(_draw(400, seed=11), 64, 64)
    across, down = at[:, :-1, 1:] - at[:, :-1, :-1], at[:, 1:, :-1] - at[:, :-1, :-1]
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    share = (area < 0).flatten(1).any(1).float().mean().item()
    assert 0.35 < share < 0.55


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="2 warps for images"):
        tps.warp(torch.zeros(3, 3, 8, 8), _draw(2))
    with pytest.raises(ValueError, match="uint8"):
        tps.warp(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), _draw(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_the_cpu():
    warp, images = _draw(16), torch.rand(16, 3, 256, 256) * 2 - 1
    expected = tps.grid(warp, 256, 256, dtype=torch.float64)
    assert (tps.grid(warp, 256, 256, "cuda").cpu() - expected).abs().max() < 0.01
    exact = tps.warp(images.double(), warp)
    torch.testing.assert_close(tps.warp(images.double().cuda(), warp).cpu(), exact, atol=1e-6, rtol=0)


def test_without_rotation_the_numbers_are_those_of_the_public_code():
    plain, none = (tps.draw(0, ["a", "b"], WARP.model_copy(update={"rotation": degrees})) for degrees in (0.0, 0))
    turned = tps.draw(0, ["a", "b"], WARP.model_copy(update={"rotation": 30.0}))
    assert not plain.angles.any() and (plain.points == none.points).all()
    assert (turned.points == plain.points).all() and (turned.shifts == plain.shifts).all()
    assert np.ptp(turned.angles) > 0 and np.abs(turned.angles).max() <= np.radians(30)


@pytest.mark.parametrize("degrees", [-90.0, 30.0, 90.0, 180.0])
def test_a_turn_is_about_the_centre_and_clockwise(degrees):
    """On a disc that is dark but for a spot above its centre, against the place where a turn puts the spot."""
    side = 65
    still = tps.Warp(np.array([[0.4, 0.6]]), np.zeros((1, 2)), np.radians([degrees]))
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    spot = torch.exp(-((x - 32) ** 2 + (y - 12) ** 2) / 18)
    out = (tps.warp(2 * spot.expand(1, 3, side, side) - 1, still)[0, 0] + 1) / 2
    at = [float((out * axis).sum() / out.sum()) for axis in (x, y)]
    angle = np.radians(degrees)
    # The stretch by W / (W - 1) of the published coordinates moves it by less than a pixel.
    assert at == pytest.approx([32 + 20 * np.sin(angle), 32 - 20 * np.cos(angle)], abs=1.2)


def test_correspondence_turns_with_the_image():
    """Where a turned reference reads the face is where its colours come from."""
    warp = tps.draw(3, ["a"], WARP.model_copy(update={"rotation": 45.0}))
    ramp = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64).clone()
    read = tps.grid(warp, 64, 64, dtype=torch.float64)[0, ..., 0]
    inside = (tps.grid(warp, 64, 64, dtype=torch.float64)[0] - 32).abs().amax(-1) < 28
    shown = tps.warp(ramp, warp)[0, 0]
    assert torch.allclose(shown[inside], (read / 63 * 2 - 1)[inside], atol=0.02)


def test_a_part_of_the_warps_turns_its_images_as_the_whole_does():
    warps = tps.Warp.random(np.random.default_rng(0), 6, WARP.model_copy(update={"rotation": 20.0}))
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert np.ptp(warps.angles) > 0
    assert torch.equal(tps.warp(images[2:4], warps[2:4]), tps.warp(images, warps)[2:4])
