"""Metrics by name: a metric is a module in this package with a `METRIC` (metrics/contract.py).

A metric's module is import-light: torch, feature networks and scikit-image are imported where they are used.
"""

from __future__ import annotations

import importlib
import pkgutil

from ssimbad import metrics as room
from ssimbad.metrics.contract import ABSENT, Metric

NOT_METRICS = {
    *("contract", "registry", "measure", "bootstrap", "mmd", "spread"),
    *("evaluate", "baselines", "test_set", "folders", "face_features"),
}
"""Modules of this package that hold no metric."""


def names() -> list[str]:
    """Names of all metric modules."""
    return sorted(m.name for m in pkgutil.iter_modules(room.__path__) if m.name not in NOT_METRICS)


def metrics() -> list[Metric]:
    """All metrics, in the order of the tables."""
    return sorted(map(by_id, names()), key=lambda metric: (metric.place, metric.id))


def networks() -> list[str]:
    """Feature networks that metrics look through, in the order of the tables."""
    looked = (need for metric in metrics() for need in metric.needs if need not in ABSENT)
    return list(dict.fromkeys(looked))


def set_networks() -> list[str]:
    """Those by which sets are compared with a set of faces, which a network may describe once for all of them."""
    looked = (metric.needs for metric in metrics() if metric.of_set and "faces" in metric.needs)
    return [name for name in networks() if any(name in needs for needs in looked)]


def by_id(name: str) -> Metric:
    """The metric of that name. Raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(names())}")
    return importlib.import_module(f"{room.__name__}.{name}").METRIC
