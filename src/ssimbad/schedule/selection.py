"""Which phi makes SSIM fall along a straight line: the criterion, the candidates and the choice.

Source: SSIMBaD, arXiv 2506.04283, and its public code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from ssimbad.noise.transforms import PUBLISHED, PUBLISHED_SATURATION, RATIONAL_GRID, Phi, levels, make
from ssimbad.schedule.ssim_curves import Curves
from ssimbad.seeding import derive

Spec = dict[str, Any]

# The three values that can be read in SSIMBaD's public figures.
PUBLISHED_R2 = {"ddpm": 0.8780, "edm-ln": 0.8950, "rational-0.3": 0.9965}


@dataclass(frozen=True)
class Criterion:
    """How a candidate is scored: `points` levels uniform in phi over [sigma_min, sigma_max]."""

    points: int
    sigma_min: float
    sigma_max: float
    saturation: float = PUBLISHED_SATURATION

    def score(self, curves: Curves, spec: Spec, axis: Spec | None = None) -> np.ndarray:
        """(N,) R² per image of the straight line SSIM against phi(sigma).

        With `axis`, the levels stay uniform in phi but the line is drawn against that other map.
        """
        phi = make(spec, self.saturation)
        sigmas = self.levels(phi)
        return line_r2((phi if axis is None else make(axis)).forward(sigmas), curves.at(sigmas))

    def levels(self, phi: Phi) -> np.ndarray:
        """(points,) sigmas, uniform in phi, falling."""
        return levels(phi, self.points, self.sigma_min, self.sigma_max)[:-1].numpy()


def line_r2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) coefficients of determination of the least-squares lines of (N, P) values over (P,) places."""
    dx, dy = x - x.mean(), y - y.mean(axis=1, keepdims=True)
    return (dy @ dx) ** 2 / ((dx @ dx) * (dy * dy).sum(axis=1))


def best_of(specs: tuple[Spec, ...], curves: Curves, criterion: Criterion) -> Spec:
    """The candidate of largest mean R²; the first of equals."""
    return max(specs, key=lambda spec: criterion.score(curves, spec).mean())


def best_rational(curves: Curves, criterion: Criterion, c_low: float, c_high: float) -> Spec:
    """s/(s+c) of largest mean R² over c in [c_low, c_high], c to four digits."""
    return {"form": "rational", "c": float(f"{best_c(curves, criterion, c_low, c_high):.4g}")}


def best_c(curves: Curves, criterion: Criterion, c_low: float, c_high: float) -> float:
    """c of largest mean R² of s/(s+c) over [c_low, c_high].

    A grid finds the hill, since nothing promises only one; Brent's bounded search climbs it.
    """
    grid = np.linspace(np.log(c_low), np.log(c_high), 33)

    def loss(log_c: float) -> float:
        return -float(criterion.score(curves, {"form": "rational", "c": float(np.exp(log_c))}).mean())

    k = int(np.argmin([loss(x) for x in grid]))
    bounds = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return float(np.exp(best.x))


def resampled_c(curves: Curves, criterion: Criterion, c_low: float, c_high: float, drawn: np.ndarray) -> np.ndarray:
    """(R,) c of largest mean R² for each of R resamples of the images: what `best_rational` would find on it.

    The mean R² of a resample is a mean of the images' own, so these are scored once, on a grid of c; a parabola through
    the best point and its neighbours finds the hill's top between them.

    Args:
        drawn: (R, N) positions of the resampled images.
    """
    log_c = np.linspace(np.log(c_low), np.log(c_high), 257)
    scores = [criterion.score(curves, {"form": "rational", "c": float(np.exp(x))}) for x in log_c]
    counts = np.stack([np.bincount(row, minlength=len(curves.ids)) for row in drawn])
    means = counts @ np.stack(scores, axis=1) / drawn.shape[1]
    best = means.argmax(axis=1)
    inside = np.clip(best, 1, len(log_c) - 2)
    left, top, right = (means[np.arange(len(means)), inside + step] for step in (-1, 0, 1))
    bend = left - 2 * top + right
    # At an end of the range there is no neighbour on one side, and the end itself is the answer.
    hill = (bend < 0) & (best == inside)
    shift = np.divide(left - right, 2 * bend, out=np.zeros(len(means)), where=hill)
    return np.exp(log_c[best] + shift * (log_c[1] - log_c[0]))


def empirical(curves: Curves) -> Spec:
    """phi(sigma) = 1 - mean SSIM(sigma), knots at the measured sigmas: linear in SSIM by construction.

    Where the measured mean does not fall (SSIM near 0), a least rise of 1e-6 keeps it invertible.
    """
    values = (1 - curves.ssim.mean(axis=0)).tolist()
    for k in range(1, len(values)):
        values[k] = max(values[k], values[k - 1] + 1e-6)
    return {
        "form": "empirical",
        "sigmas": curves.levels.tolist(),
        "values": [round(v, 9) for v in values],
    }


@dataclass(frozen=True)
class Row:
    """One line of the R² table.

    `r2` and `held_out` are (N,), per image; `held_out` is None where nothing is fitted. `spec` is None for
    DDPM, whose axis is the timestep. `group` is published, other or family. `c` is the interval of a fitted c.
    """

    name: str
    group: str
    label: str
    axis: str
    r2: np.ndarray
    spec: Spec | None = None
    held_out: np.ndarray | None = None
    saturates_at: float | None = None
    c: tuple[float, float] | None = None


def candidate_rows(sigma: Curves, ddpm: Curves, criterion: Criterion) -> list[Row]:
    """The 22 published candidates, then erf, EDM on both axes and DDPM."""

    def row(spec: Spec, group: str, axis: Spec | None = None, name: str | None = None) -> Row:
        phi = make(spec, criterion.saturation)
        drawn = phi.label if axis is None else make(axis).label
        label = f"EDM, {phi.label}" if spec["form"] == "edm" else phi.label
        top = phi.saturates_at(criterion.sigma_max)
        r2 = criterion.score(sigma, spec, axis)
        return Row(name or _name(spec), group, label, drawn, r2, spec, saturates_at=top)

    return [
        *(row(spec, "published") for spec in PUBLISHED),
        row({"form": "erf"}, "other"),
        row({"form": "edm"}, "other"),
        row({"form": "edm"}, "other", axis={"form": "log"}, name="edm-ln"),
        Row("ddpm", "other", "DDPM", "timestep", line_r2(ddpm.levels, ddpm.ssim)),
    ]


def family_rows(sigma: Curves, criterion: Criterion, c_low: float, c_high: float, seed: int) -> list[Row]:
    """What each rule of choice finds, scored on all images, and out of sample in `held_out`."""
    rules: dict[str, tuple[str, Callable[[Curves], Spec]]] = {
        "rational": ("continuous c", lambda c: best_rational(c, criterion, c_low, c_high)),
        "published": ("best of the ten c", lambda c: best_of(RATIONAL_GRID, c, criterion)),
        "argmax": ("best of the 22", lambda c: best_of(PUBLISHED, c, criterion)),
        "empirical": ("empirical", empirical),
    }
    rows = []
    for family, (text, choose) in rules.items():
        spec = choose(sigma)
        phi = make(spec, criterion.saturation)
        held_out = _cross_fitted(sigma, choose, criterion, seed)
        r2 = criterion.score(sigma, spec)
        top = phi.saturates_at(criterion.sigma_max)
        rows.append(Row(family, "family", f"{text}: {phi.label}", phi.label, r2, spec, held_out, top))
    return rows


def _cross_fitted(curves: Curves, choose: Callable[[Curves], Spec], criterion: Criterion, seed: int) -> np.ndarray:
    """(N,) R² of each image under the choice made on the half of the images that it does not belong to."""
    order = sorted(range(len(curves.ids)), key=lambda i: derive(seed, "half", curves.ids[i]))
    halves = np.array(order[::2]), np.array(order[1::2])
    r2 = np.empty(len(order))
    for fitted, scored in (halves, halves[::-1]):
        r2[scored] = criterion.score(curves.of(scored), choose(curves.of(fitted)))
    return r2


def _name(spec: Spec) -> str:
    return "-".join(str(value) for value in spec.values())


def phi_star(families: list[Row], select_from: str, criterion: Criterion, images: int, size: int) -> dict[str, Any]:
    """The JSON-like result of the search: the selected literal under `phi`, and what every family found."""
    found = {
        row.name: {
            "phi": row.spec,
            "r2": round(float(row.r2.mean()), 6),
            "held_out": None if row.held_out is None else round(float(row.held_out.mean()), 6),
        }
        for row in families
    }
    return {
        "phi": found[select_from]["phi"],
        "select_from": select_from,
        "families": found,
        "images": images,
        "size": size,
        "points": criterion.points,
        "sigma_min": criterion.sigma_min,
        "sigma_max": criterion.sigma_max,
        "saturation": criterion.saturation,
    }
