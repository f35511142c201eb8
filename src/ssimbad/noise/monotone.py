"""A smooth, strictly monotone curve through points, with its exact inverse, on torch tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Newton with a bisection guard halves the bracket at worst: 60 rounds reach the last bit of float64.
_ROUNDS = 60


@dataclass(frozen=True)
class Monotone:
    """Piecewise cubic Hermite interpolant of Fritsch & Carlson (1980), as SciPy's PCHIP computes it.

    `knots` and `values` (K,) float64, `coefficients` (4, K - 1) float64 of (x - knot), highest power first.
    Outside its knots the curve is constant.
    """

    knots: Tensor
    values: Tensor
    coefficients: Tensor

    @classmethod
    def through(cls, x: np.ndarray, y: np.ndarray) -> Monotone:
        """The curve through (x, y), both (K,), K >= 2.

        Raises:
            ValueError: x does not increase strictly, y is not strictly monotone, or a number is not finite.
        """
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
            raise ValueError("a monotone curve needs two equally long lists of at least two numbers")
        if not (np.isfinite(x).all() and np.isfinite(y).all() and (np.diff(x) > 0).all()):
            raise ValueError("a monotone curve needs finite numbers at strictly increasing places")
        steps = np.diff(y)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise ValueError("a monotone curve needs strictly increasing or strictly decreasing values")
        from scipy.interpolate import PchipInterpolator  # most forms of phi do without it

        return cls(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (x, y, PchipInterpolator(x, y).c)))

    def __call__(self, x: Tensor) -> Tensor:
        """Value at `x`, float64, any shape and device."""
        knots = self.knots.to(x.device)
        x = x.clamp(knots[0], knots[-1])
        piece = (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(max=len(knots) - 2)
        return _cubic(self.coefficients.to(x.device)[:, piece], x - knots[piece])

    def inverse(self, y: Tensor) -> Tensor:
        """The place where the curve takes the value `y`, float64, any shape and device; exact to rounding."""
        sign = torch.sign(self.values[-1] - self.values[0])
        knots, rising = self.knots.to(y.device), (sign * self.values).to(y.device)
        target = (sign * y).clamp(rising[0], rising[-1])
        piece = (torch.searchsorted(rising, target.contiguous(), right=True) - 1).clamp(max=len(knots) - 2)
        width = knots[piece + 1] - knots[piece]
        c = sign * self.coefficients.to(y.device)[:, piece]
        return knots[piece] + _root(c, target, width)


def _cubic(c: Tensor, t: Tensor) -> Tensor:
    return ((c[0] * t + c[1]) * t + c[2]) * t + c[3]


def _root(c: Tensor, target: Tensor, width: Tensor) -> Tensor:
    """t in [0, width] where the increasing cubic `c` equals `target`: Newton, bisection where it leaves."""
    low, high = torch.zeros_like(target), width
    t = width / 2
    for _ in range(_ROUNDS):
        excess = _cubic(c, t) - target
        low, high = torch.where(excess <= 0, t, low), torch.where(excess >= 0, t, high)
        newton = t - excess / ((3 * c[0] * t + 2 * c[1]) * t + c[2])
        # Not (outside): a NaN from a zero slope takes the bisection too.
        t = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return t
