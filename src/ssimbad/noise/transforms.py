"""phi: strictly monotone maps of the noise level sigma, with their inverses (SSIMBaD, arXiv 2506.04283).

The published candidates are those of SSIMBaD's search; `edm` is the axis on which
Karras et al. (2022, eq. 5) space their sampling steps, and `empirical` interpolates a measured curve.
All arithmetic is float64, whatever comes in; the answer has the type, dtype and device of the question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ssimbad.noise.monotone import Monotone

Array = TypeVar("Array", float, np.ndarray, Tensor)
Map = Callable[[Tensor], Tensor]

PUBLISHED_SATURATION = 1e-6


@dataclass(frozen=True)
class _Form:
    """A family of maps: `forward(sigma, *parameters)` and `inverse(u, *parameters)`, both float64 tensors."""

    label: str
    forward: Callable[..., Tensor]
    inverse: Callable[..., Tensor]
    parameters: Mapping[str, float | None] = field(default_factory=dict)  # name -> default; None: must be given
    saturates: bool = False  # tends to 1 so fast that float64 cannot tell sigma_max from infinity


_FORMS = {
    "identity": _Form("s", torch.clone, torch.clone),
    "log": _Form("ln s", torch.log, torch.exp),
    "log1p": _Form("ln(1+s)", torch.log1p, torch.expm1),
    "square": _Form("s^2", torch.square, torch.sqrt),
    "reciprocal": _Form("1/s", torch.reciprocal, torch.reciprocal),
    "reciprocal_square": _Form("1/s^2", lambda s: s**-2, torch.rsqrt),
    "asinh": _Form("asinh s", torch.asinh, torch.sinh),
    "tanh": _Form("tanh s", torch.tanh, torch.atanh, saturates=True),
    "sigmoid": _Form("sigmoid s", torch.sigmoid, torch.logit, saturates=True),
    "rational": _Form("s/(s+{c:g})", lambda s, c: s / (s + c), lambda u, c: c * u / (1 - u), {"c": None}),
    "power_rational": _Form(
        "s^{p:g}/(s^{p:g}+1)",
        lambda s, p: s**p / (s**p + 1),
        lambda u, p: (u / (1 - u)) ** (1 / p),
        {"p": 1.5},
    ),
    "log1p_square": _Form("ln(s^2+1)", lambda s: torch.log1p(s * s), lambda u: torch.sqrt(torch.expm1(u))),
    "atan": _Form("atan s", torch.atan, torch.tan),
    "erf": _Form(
        "erf(s/{scale:g})",
        lambda s, scale: torch.erf(s / scale),
        lambda u, scale: scale * torch.erfinv(u),
        {"scale": 5.0},
        saturates=True,
    ),
    "edm": _Form("s^(1/{rho:g})", lambda s, rho: s ** (1 / rho), lambda u, rho: u**rho, {"rho": 7.0}),
}
FORMS = (*_FORMS, "empirical")

RATIONAL_GRID = tuple({"form": "rational", "c": round(0.1 * k, 1)} for k in range(1, 11))
PUBLISHED = (
    *({"form": f} for f in ("identity", "log", "log1p", "square", "reciprocal", "reciprocal_square")),
    *({"form": f} for f in ("asinh", "tanh", "sigmoid")),
    *RATIONAL_GRID,
    *({"form": f} for f in ("power_rational", "log1p_square", "atan")),
)
"""The 22 distinct candidates of the public search (erf is implemented there, but never scored)."""


@dataclass(frozen=True)
class Phi:
    """A strictly monotone map of sigma > 0 and its inverse.

    `spec` is the JSON-like literal that makes it again. `ceiling` is the value at which a saturating form is
    clipped, or None. `forward` and `inverse` take and return a float, a NumPy array or a tensor.
    """

    form: str
    label: str
    spec: Mapping[str, Any]
    ceiling: float | None
    _forward: Map
    _inverse: Map

    def forward(self, sigma: Array) -> Array:
        """phi(sigma); sigma > 0, any shape. Constant where the form is saturated."""
        return _in_float64(lambda s: self._clip(self._forward(s)), sigma)

    def inverse(self, u: Array) -> Array:
        """sigma with phi(sigma) = u, any shape; beyond the ceiling, the sigma of the ceiling."""
        return _in_float64(lambda v: self._inverse(self._clip(v)), u)

    def saturates_at(self, sigma_max: float) -> float | None:
        """The sigma from which phi no longer changes when that lies below `sigma_max`, otherwise None."""
        top = self._top
        return top if top is not None and top < sigma_max else None

    def _clip(self, u: Tensor) -> Tensor:
        return u if self.ceiling is None else u.clamp(max=self.ceiling)

    @cached_property
    def _top(self) -> float | None:
        return None if self.ceiling is None else self.inverse(self.ceiling)


def make(spec: Mapping[str, Any], saturation: float = PUBLISHED_SATURATION) -> Phi:
    """The map that a literal names: `{"form": "log"}`, `{"form": "rational", "c": 0.3}` or
    `{"form": "empirical", "sigmas": [...], "values": [...]}`: one value per sigma, strictly monotone, and
    constant beyond the outermost sigmas. tanh, sigmoid and erf are clipped at 1 - `saturation`.

    Raises:
        ValueError: unknown form, missing, unknown or non-positive parameter; the message names what is known.
    """
    rest = dict(spec)
    form = rest.pop("form", None)
    if form == "empirical":
        return _empirical(rest)
    if form not in _FORMS:
        raise ValueError(f"unknown form {form!r} of phi; known: {', '.join(FORMS)}")
    family = _FORMS[form]
    if unknown := set(rest) - set(family.parameters):
        known = ", ".join(family.parameters) or "none"
        raise ValueError(f"form {form} has no parameter {min(unknown)!r}; it has: {known}")
    values = {name: rest.get(name, default) for name, default in family.parameters.items()}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"form {form} needs {name}, a positive number; got {value!r}")
    arguments = tuple(values.values())
    return Phi(
        form,
        family.label.format(**values),
        {"form": form, **values},
        1 - saturation if family.saturates else None,
        lambda s: family.forward(s, *arguments),
        lambda u: family.inverse(u, *arguments),
    )


def levels(phi: Phi, n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """(n + 1,) float64: n >= 1 noise levels uniform in phi from `sigma_max` down to `sigma_min`, then 0.

    Both ends are exact; a form that saturates below `sigma_max` starts where it saturates.
    """
    if n < 1:
        raise ValueError(f"a schedule has at least one level; got {n}")
    low, high = _span(phi, sigma_min, sigma_max)
    sigmas = phi.inverse(torch.linspace(high, low, n, dtype=torch.float64))
    sigmas[-1] = sigma_min
    sigmas[0] = phi.saturates_at(sigma_max) or sigma_max
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def sample_sigma(phi: Phi, u: Array, sigma_min: float, sigma_max: float) -> Array:
    """Noise levels uniform in phi over [sigma_min, sigma_max] from `u` uniform in [0, 1), any shape.

    phi(sigma) = phi(sigma_min) + u (phi(sigma_max) - phi(sigma_min)), as SSIMBaD trains.
    """
    low, high = _span(phi, sigma_min, sigma_max)
    return _in_float64(lambda v: phi.inverse(low + v * (high - low)).clamp(sigma_min, sigma_max), u)


def unit(phi: Phi, sigma: Array, sigma_min: float, sigma_max: float) -> Array:
    """phi rescaled affinely so that sigma_min -> 0 and sigma_max -> 1, also for decreasing forms."""
    low, high = _span(phi, sigma_min, sigma_max)
    return _in_float64(lambda s: (phi.forward(s) - low) / (high - low), sigma)


def corrector_weight(phi: Phi, sigma: float, following: float) -> float:
    """W in x' = (s'/s) x + (1 - s'/s)[(1 - W) D(s) + W D(s')]: the exact step from s to s' for D linear in phi.

    W is the mean of (phi(s) - phi(t)) / (phi(s) - phi(s')) over 1/t uniform in [1/s, 1/s']. With r = phi(s)/phi(s') it
    is r (r - 1 - ln r) / (r - 1)² for phi = s/(s + c), whatever c; with h = ln(s/s') it is 1/(1 - e^-h) - 1/h for
    ln s; any other phi is integrated by Gauss and Legendre's rule.

    Args:
        sigma, following: s > s' > 0.
    """
    if phi.form == "rational":
        # r - 1 without the difference of two nearly equal phi.
        excess = phi.spec["c"] * (sigma - following) / (following * (sigma + phi.spec["c"]))
        if excess > 1e-4:
            return (1 + excess) * (excess - math.log1p(excess)) / excess**2
        return 0.5 + excess / 6  # the series, where the difference above has lost its digits
    height = math.log(sigma / following)
    high, low = phi.forward(float(sigma)), phi.forward(float(following))
    if phi.form == "log" or high == low:  # a phi that is flat here says nothing about D
        return 0.5 + height / 12 if height < 1e-4 else -1 / math.expm1(-height) - 1 / height
    nodes, shares = _panels(height)
    ramp = (high - phi.forward(sigma * np.exp(-nodes))) / (high - low)
    density = np.exp(nodes - height) * shares  # of 1/t, in ln t
    return float(ramp @ density / density.sum())


def _panels(length: float, panels: int = 64, order: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Places in [0, length] and weights of Gauss and Legendre's rule in each of many panels: phi may have knots."""
    places, weights = np.polynomial.legendre.leggauss(order)
    width = length / panels
    nodes = width * (np.arange(panels)[:, None] + (places + 1) / 2)
    return nodes.ravel(), np.tile(weights * width / 2, panels)


def _span(phi: Phi, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    return phi.forward(float(sigma_min)), phi.forward(float(sigma_max))


def _empirical(knots: Mapping[str, Any]) -> Phi:
    if set(knots) != {"sigmas", "values"}:
        raise ValueError(f"form empirical needs exactly sigmas and values; got {sorted(knots)}")
    sigmas, values = (np.asarray(knots[k], dtype=np.float64) for k in ("sigmas", "values"))
    if sigmas.ndim != 1 or not np.all(sigmas > 0):
        raise ValueError("form empirical: sigmas must be a list of positive numbers")
    # Noise levels spread over five decades: their logarithm spreads the knots evenly.
    curve = Monotone.through(np.log(sigmas), values)
    spec = {"form": "empirical", "sigmas": sigmas.tolist(), "values": values.tolist()}
    return Phi(
        "empirical",
        "1 - mean SSIM",
        spec,
        None,
        lambda s: curve(s.log()),
        lambda u: curve.inverse(u).exp(),
    )


def _in_float64(function: Map, value: Array) -> Array:
    """Apply `function` to `value` as a float64 tensor; the result has its kind, dtype and device."""
    if isinstance(value, Tensor):
        dtype = value.dtype if value.dtype.is_floating_point else torch.float64
        return cast("Array", function(value.double()).to(dtype))
    if isinstance(value, np.ndarray):
        dtype = value.dtype if np.issubdtype(value.dtype, np.floating) else np.float64
        return function(torch.from_numpy(np.array(value, dtype=np.float64))).numpy().astype(dtype)
    return cast("Array", float(function(torch.tensor(float(value), dtype=torch.float64))))
