"""SSIM of one image against many distorted copies of it, by box filters.

The value is that of scikit-image's `structural_similarity` (Wang et al. 2004) with a 7×7 uniform window,
data_range 1, sample covariance and the border cropped. What makes it fast: the sums over the clean image are
taken once, a 7-wide sum costs four additions, and each addition runs over the whole image as one flat array.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

WINDOW = 7
_N = WINDOW * WINDOW
_C1, _C2 = 0.01**2, 0.03**2  # (K1 R)^2 and (K2 R)^2 with Wang's constants and data range R = 1


class Ssim:
    """Prepared for one clean image, (H, W, C) float in [0, 1], H and W at least 7.

    The formula is written in the difference d = distorted - clean, whose sums stay small where SSIM is near
    1; so float32 agrees with float64 to about 1e-7 even on flat areas. With u window means, v sample
    (co)variances and x the clean image:
        L = 2 u_x (u_x + u_d) + C1,   T = 2 v_x + 2 v_xd + C2,   SSIM = L T / ((L + u_d^2) (T + v_d)).
    """

    def __init__(self, clean: np.ndarray) -> None:
        height, width, channels = clean.shape
        if min(height, width) < WINDOW:
            raise ValueError(f"SSIM needs at least {WINDOW} pixels a side; got {height} x {width}")
        self._shape = channels, height, width
        x = flat(clean).astype(np.float64)
        level = x.mean()
        x -= level  # covariances do not change, their rounding does
        exact = _WindowSum(width, x.size, np.float64)
        first, second = exact(x), exact(x * x)
        # Everything is scaled by _N (_N - 1), so that a call multiplies as little as possible.
        v_x = _N * second - first * first
        self._t_constant = (2 * v_x + _N * (_N - 1) * _C2).astype(np.float32)
        mean = level + first / _N
        self._l_constant = (2 * mean * mean + _C1).astype(np.float32)
        self._l_slope = (2 / _N * mean).astype(np.float32)
        self._twice_first = (2 * first).astype(np.float32)
        self._twice_x = (2 * _N * x).astype(np.float32)
        self._sum = _WindowSum(width, x.size, np.float32)
        self._product = np.empty(x.size, np.float32)
        self._d, self._dd, self._xd, self._l = np.empty((4, self._sum.size), np.float32)

    def __call__(self, difference: np.ndarray) -> float:
        """Mean SSIM of clean + `difference`, (C·H·W,) float32 as `flat` lays it out."""
        d, dd, xd, ell = self._d, self._dd, self._xd, self._l
        self._sum(difference, d)
        self._sum(np.multiply(difference, difference, out=self._product), dd)
        self._sum(np.multiply(self._twice_x, difference, out=self._product), xd)
        np.multiply(self._twice_first, d, out=ell)
        xd -= ell
        xd += self._t_constant  # T
        np.multiply(self._l_slope, d, out=ell)
        ell += self._l_constant  # L
        d *= d
        dd *= _N
        dd -= d
        dd += xd  # T + v_d
        d *= np.float32(_N**-2)
        d += ell  # L + u_d^2
        ell *= xd
        dd *= d
        ell /= dd
        return float(self._windows(ell).mean(dtype=np.float64))

    def _windows(self, values: np.ndarray) -> np.ndarray:
        """(C, H - 6, W - 6) view of the entries whose window lies inside the image."""
        channels, height, width = self._shape
        size, edge = values.itemsize, WINDOW - 1
        strides = (height * width * size, width * size, size)
        return as_strided(values, (channels, height - edge, width - edge), strides, writeable=False)


def flat(image: np.ndarray) -> np.ndarray:
    """(H, W, C) → (C·H·W,): channel after channel, row after row."""
    return np.moveaxis(image, -1, 0).ravel()


class _WindowSum:
    """7×7 sums of a flat image: entry row·width + column is the window that starts there.

    Entries whose window would run over the right or lower edge wrap into the next row or channel and mean
    nothing.
    """

    def __init__(self, width: int, length: int, dtype: type) -> None:
        self.size = length - (WINDOW - 1) * (width + 1)
        self._steps = width, 1
        self._pairs, self._fours, self._rows = np.empty((3, length), dtype)

    def __call__(self, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(length,) → (size,), written to `out` when given."""
        down, right = self._steps
        rows = self._rows[: len(values) - (WINDOW - 1) * down]
        self._seven(values, down, rows)
        out = np.empty(self.size, values.dtype) if out is None else out
        return self._seven(rows, right, out)

    def _seven(self, a: np.ndarray, step: int, out: np.ndarray) -> np.ndarray:
        """out[i] = a[i] + a[i + step] + … + a[i + 6 step]: pairs, pairs of pairs, then 4 + 2 + 1."""
        n = len(a)
        pairs = np.add(a[: n - step], a[step:], out=self._pairs[: n - step])
        fours = np.add(pairs[: n - 3 * step], pairs[2 * step :], out=self._fours[: n - 3 * step])
        np.add(fours[: n - 6 * step], pairs[4 * step : n - 2 * step], out=out)
        out += a[6 * step :]
        return out
