"""The published thin-plate-spline warp that makes a reference out of a face, in batch on any torch device.

The protocol (public code of AnimeDiffusion and SSIMBaD) has six control points in the unit square: the four corners,
which stay, and two points p on the main diagonal, p ~ U(low, high), each shifted along it by r ~ U(-shift, shift),
the same in x and y. It is a backward map: the output at u shows the source at u + d(u), where the spline d (U(r) = r²
log(r + 1e-6), no regularisation) is fitted at the *displaced* points q = p + r: d(q) = p - q = -r, and 0 at the
corners. As the shift is the same in x and y, d has one component that serves both.

About 44 % of the warps so drawn fold (the map is not one-to-one and mirrors a part of the face). That is the
published protocol, so it stays.

Coordinates follow the published remapping: the outermost pixel centres of the output lie at u = 0 and u = 1,
and the source is read at pixel (W, H)·(u + d), not (W-1, H-1)·(u + d). A zero shift is therefore a stretch by
W / (W-1), which leaves the first pixel where it is and pushes the last row and column out to black. OpenCV's
remapping rounds positions to 1/32 pixel and the weights to 15 bits; here both are exact. The public code
solves for d in float32, here it is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ssimbad.errors import UserError
from ssimbad.seeding import derive

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
EPSILON = 1e-6
_TRIES = 1000
_CPU_CHUNK = 8  # images


class WarpConfig(Protocol):
    """How the two inner points are drawn: U(low, high) shifted by U(-shift, shift), rounded to `decimals`; and by how
    many degrees the whole may be turned about the centre, U(-rotation, rotation): 0 in the public code."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def shift(self) -> float: ...
    @property
    def decimals(self) -> int: ...
    @property
    def rotation(self) -> float: ...


@dataclass(frozen=True)
class Warp:
    """A batch of B warps.

    `points` p and `shifts` r: (B, 2) float64, positions along the diagonal of the unit square and how far
    they move. `angles`: (B,) float64, radians by which the image is then turned, clockwise as it is seen;
    None: by none.
    """

    points: np.ndarray
    shifts: np.ndarray
    angles: np.ndarray | None = None

    @classmethod
    def of(cls, rows: np.ndarray) -> Warp:
        """From (B, 5) numbers as they are drawn."""
        return cls(rows[:, :2], rows[:, 2:4], rows[:, 4])

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice | np.ndarray) -> Warp:
        return Warp(self.points[rows], self.shifts[rows], None if self.angles is None else self.angles[rows])

    @classmethod
    def random(cls, generator: torch.Generator | np.random.Generator, count: int, config: WarpConfig) -> Warp:
        """`count` fresh warps, for training. A torch generator should live on the CPU: another synchronises.

        Raises:
            UserError: the config cannot give two distinct displaced points.
        """
        rows = np.stack([_draw_one(generator, config) for _ in range(count)]) if count else np.empty((0, 5))
        return cls.of(rows)

    @cached_property
    def weights(self) -> np.ndarray:
        """(B, 9) float64: the spline's weights of the 4 corners and the 2 displaced points, then of 1, x, y.

        Solved as one full system; the published "reduced" form only leaves the first weight out, which is
        minus the sum of the others.
        """
        displaced = self.points + self.shifts
        centres = np.concatenate(
            [np.broadcast_to(CORNERS, (len(self), 4, 2)), np.repeat(displaced[..., None], 2, axis=2)], axis=1
        )
        system = np.zeros((len(self), 9, 9))
        distances = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1)
        system[:, :6, :6] = distances**2 * np.log(distances + EPSILON)
        system[:, :6, 6] = system[:, 6, :6] = 1
        system[:, :6, 7:] = centres
        system[:, 7:, :6] = centres.transpose(0, 2, 1)
        values = np.zeros((len(self), 9, 1))
        values[:, 4:6, 0] = -self.shifts
        return np.linalg.solve(system, values)[..., 0]


def draw(seed: int, ids: Sequence[str], config: WarpConfig) -> Warp:
    """One warp per image id, the same whatever the other ids and their order.

    Raises:
        UserError: the config cannot give two distinct displaced points.
    """
    rows = np.stack([_draw_one(np.random.default_rng(derive(seed, "tps", i)), config) for i in ids])
    return Warp.of(rows)


def _draw_one(generator: torch.Generator | np.random.Generator, config: WarpConfig) -> np.ndarray:
    for _ in range(_TRIES):
        unit = _uniform(generator, 4)
        points = np.round(config.low + (config.high - config.low) * unit[:2], config.decimals)
        shifts = np.round(config.shift * (2 * unit[2:] - 1), config.decimals)
        displaced = np.round(points + shifts, config.decimals)
        # A centre used twice makes the system singular; with the published one only the inner two can meet.
        if len({0.0, 1.0, *displaced.tolist()}) == 4:
            # Drawn last, and only where it is asked for: without, the numbers are those of the published protocol.
            angle = np.radians(config.rotation * (2 * _uniform(generator, 1) - 1)) if config.rotation else np.zeros(1)
            return np.concatenate([points, shifts, angle])
    raise UserError("references.decimals: low, high and shift leave no two distinct points; give more decimals")


def _uniform(generator: torch.Generator | np.random.Generator, count: int) -> np.ndarray:
    if isinstance(generator, torch.Generator):
        return torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device).cpu().numpy()
    return generator.random(count)


def sent(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the CPU on a device. Nobody waits for the copy to a GPU, which goes from pinned memory."""
    if not str(device).startswith("cuda"):
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def displacement(
    warp: Warp,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """d(u) at every output pixel, the same for x and y, in the unit square: (B, H, W) float32 or float64."""
    count, on_cpu = len(warp), torch.device(device).type == "cpu"
    # On the CPU: chunks that stay near its caches, of one size (filled up with zero weights), since a matrix
    # product may sum in another order in another shape, and an image must not depend on how many others come.
    step = _CPU_CHUNK if on_cpu else max(1, count)
    filled = -count % step
    weights = F.pad(sent(torch.from_numpy(warp.weights).to(dtype), device), (0, 0, 0, filled))
    displaced = sent(torch.from_numpy(warp.points + warp.shifts).to(dtype), device)[..., None]
    y, x = _axes(height, width, torch.device(device), dtype)
    dy2, dx2 = (y - displaced).square_()[..., None], (x - displaced).square_()[..., None, :]
    fixed = _fixed_basis(height, width, torch.device(device), dtype)
    # By symmetry to the diagonal, corners 1 and 3 and the slopes in x and y have the same weights.
    fixed_weights = weights[:, [0, 1, 2, 6, 7]]
    out = torch.empty(count + filled, height, width, device=device, dtype=dtype)
    room = torch.empty(2, step, height, width, device=device, dtype=dtype)  # fresh memory is dear
    for i in range(0, count, step):
        chunk = slice(i, min(i + step, count))
        torch.matmul(fixed_weights[i : i + step], fixed, out=out[i : i + step].view(step, -1))
        r2, log = room[:, : chunk.stop - i]
        for j in range(2):
            torch.add(dy2[chunk, j], dx2[chunk, j], out=r2)
            torch.sqrt(r2, out=log).add_(EPSILON).log_()
            out[chunk].addcmul_(r2.mul_(weights[chunk, 4 + j, None, None]), log)
    return out[:count]


@lru_cache(maxsize=8)
def _axes(height: int, width: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """u along y (H,) and along x (W,): 0 and 1 at the outermost pixel centres."""
    y, x = (torch.linspace(0, 1, n, dtype=torch.float64).to(dtype).to(device) for n in (height, width))
    return y, x


@lru_cache(maxsize=8)
def _fixed_basis(height: int, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(5, H·W), the same for all warps: kernels of corner 0, corners 1 and 3, corner 2; then 1 and x + y."""
    y, x = torch.meshgrid(*_axes(height, width, torch.device("cpu"), torch.float64), indexing="ij")
    r = [torch.hypot(x - cx, y - cy) for cx, cy in CORNERS.tolist()]
    u = [v.square() * torch.log(v + EPSILON) for v in r]
    basis = [u[0], u[1] + u[3], u[2], torch.ones_like(x), x + y]
    return torch.stack([b.flatten() for b in basis]).to(dtype).to(device)


def grid(
    warp: Warp,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Where each output pixel reads the source: (B, H, W, 2), x then y in pixels, g = (W, H)·(u + d(u)).

    For correspondence: output pixel (i, j) shows the source at grid[b, i, j], which may lie outside the
    image.
    """
    return _positions(displacement(warp, height, width, device, dtype), (width, height), 0, warp.angles)


def _positions(d: torch.Tensor, scale: tuple[float, float], offset: float, angles: np.ndarray | None) -> torch.Tensor:
    """scale·R(u + d) + offset, (B, H, W, 2); R turns about the centre of the unit square."""
    y, x = _axes(d.shape[1], d.shape[2], d.device, d.dtype)
    out = torch.empty(*d.shape, 2, device=d.device, dtype=d.dtype)
    torch.add(x * scale[0] + offset, d, alpha=scale[0], out=out[..., 0])
    torch.add((y * scale[1] + offset)[:, None], d, alpha=scale[1], out=out[..., 1])
    return out if angles is None or not angles.any() else _turned(out, scale, offset, angles)


def _turned(at: torch.Tensor, scale: tuple[float, float], offset: float, angles: np.ndarray) -> torch.Tensor:
    """Positions turned about the centre of the unit square. It is read there, so that the image turns clockwise when
    the positions turn the other way."""
    size = torch.tensor(scale, device=at.device, dtype=at.dtype)
    centre = size / 2 + offset
    c, s = (torch.from_numpy(f(angles)).to(at)[:, None, None] for f in (np.cos, np.sin))
    x, y = ((at - centre) / size).unbind(-1)
    return torch.stack([c * x + s * y, c * y - s * x], dim=-1) * size + centre


@torch.no_grad()
def warp(images: torch.Tensor, by: Warp) -> torch.Tensor:
    """Warp image i by the i-th warp, with cubic resampling (a = -0.75, as OpenCV's) on a black border.

    Args:
        images: (B, C, H, W) float32 or float64 in [-1, 1], H, W ≥ 2, on any device. Computed in their
            precision: float32 positions agree with float64 ones to 0.01 pixel at 256²; float64 rounds to the
            same bytes whatever the machine and its threads.
        by: B warps.

    Returns:
        A new tensor like `images`, clamped to [-1, 1]; -1 where the warp reads outside.

    Raises:
        ValueError: shapes or dtype do not fit.
    """
    if images.ndim != 4 or len(images) != len(by) or images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{len(by)} warps for images {tuple(images.shape)} of {images.dtype}")
    height, width = images.shape[2:]
    # grid_sample counts from -1 to 1 between the outermost pixel centres.
    scale = (2 * width / (width - 1), 2 * height / (height - 1))
    at = _positions(displacement(by, height, width, images.device, images.dtype), scale, -1, by.angles)
    # Its padding is zero, so black is lifted from -1 to 0 meanwhile.
    sampled = F.grid_sample(images + 1, at, mode="bicubic", padding_mode="zeros", align_corners=True)
    return sampled.clamp_(0, 2).sub_(1)
