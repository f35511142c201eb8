"""Metrics of one set of images: values with intervals, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from ssimbad.metrics import bootstrap
from ssimbad.metrics.contract import ABSENT, Facts, Given, Metric, Unmeasurable
from ssimbad.runtime import pool

if TYPE_CHECKING:
    from torch import nn

    from ssimbad.params.blocks import Evaluation

DIGITS = 5
"""Decimals of stored values: beyond them single precision depends on the machine."""


_PART = 16  # images that a core takes at a time


class Interval(TypedDict):
    """A value and the ends of its interval."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


class Entry(Interval, Facts):
    """Of so many images; value None: it could not be measured, for this reason."""

    n: int | None
    reason: NotRequired[str]
    seeds: NotRequired[int]
    """In tables: over which value and interval are taken."""


def load_networks(
    inputs: Mapping[str, Path], known: Iterable[str], threads: int = 1
) -> tuple[dict[str, tuple[nn.Module, ...]], dict[str, str]]:
    """The feature networks whose weights files a stage was given under their names, on all devices of the job, or for
    so many cores of its CPU; and why one is not there, unless all are switched off.

    Args:
        known: those that metrics look through (`registry.networks`).

    Raises:
        UserError: a file holds something else.
    """
    known = tuple(known)
    given = {name: inputs[name] for name in known if name in inputs}
    if not given:
        return {}, {}
    # Where weights are switched on, the file of a network is among the inputs if the parameters name one.
    absent = {name: f"no weights file named (weights.{name}: null)" for name in known if name not in given}
    absent |= {name: f"weights file not there: {path.name}" for name, path in given.items() if not path.is_file()}
    there = given.keys() - absent.keys()
    if not there:
        return {}, absent
    from ssimbad.features import registry as features
    from ssimbad.runtime import devices

    places = devices.visible()
    networks = {}
    for name in there:
        loaded = {device: features.load(name, given[name], device) for device in dict.fromkeys(places)}
        networks[name] = tuple(loaded[device] for device in devices.workers(places, threads))
    return networks, absent


def per_image(metrics: Sequence[Metric], given: Given, threads: int = 1) -> dict[str, np.ndarray]:
    """{metric: (N,) float64} of those among the metrics that have a value for each image and all that they need.

    Args:
        threads: cores among which the images are dealt; the values do not depend on it.

    Raises:
        Unmeasurable: see the metric.
    """
    mine = (metric for metric in metrics if not metric.of_set and given.reason(metric.needs) is None)
    return {metric.id: _dealt(metric, given, threads).round(DIGITS) for metric in mine}


def _dealt(metric: Metric, given: Given, threads: int) -> np.ndarray:
    if set(metric.needs) - ABSENT.keys():  # a feature network's images are dealt to its own workers
        return np.asarray(metric.function(given))
    parts = (given.part(start, start + _PART) for start in range(0, len(given.images), _PART))
    return np.concatenate(list(pool.ordered_map(lambda _, part: metric.function(part), parts, range(threads))))


def every(
    metrics: Sequence[Metric], given: Given, evaluation: Evaluation, threads: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, Entry]]:
    """What `per_image` finds, and {metric: its entry} of all metrics but optional ones that cannot be had: of each
    image's values the mean with its bootstrap interval, of a set no interval, since resampling biases it.

    Args:
        evaluation: parameters bootstrap (resamples), confidence, seed.
        threads: see `per_image`.
    """
    values: dict[str, np.ndarray] = {}
    entries: dict[str, Entry] = {}
    for metric in metrics:
        reason = given.reason(metric.needs)
        if reason is not None and metric.optional:
            continue
        try:
            if reason is None and metric.of_set:
                value = float(metric.function(given))
                entries[metric.id] = {**_of_set(value, len(given.images)), **metric.facts(given)}
            elif reason is None:
                values |= per_image([metric], given, threads)
                entries[metric.id] = {**_with_interval(values[metric.id], evaluation), **metric.facts(given)}
        except Unmeasurable as error:
            reason = str(error)
        if reason is not None:
            entries[metric.id] = missing(len(given.images), reason)
    return values, entries


def missing(n: int, reason: str) -> Entry:
    """A metric of n images that could not be measured, and why."""
    return {"value": None, "ci_low": None, "ci_high": None, "n": n, "reason": reason}


def _of_set(value: float, n: int) -> Entry:
    return {"value": round(value, DIGITS), "ci_low": None, "ci_high": None, "n": n}


def _with_interval(values: np.ndarray, evaluation: Evaluation) -> Entry:
    estimate = bootstrap.mean(
        values, resamples=evaluation.bootstrap, confidence=evaluation.confidence, seed=evaluation.seed
    )
    return {**interval(estimate), "n": estimate.n}


def interval(found: bootstrap.Estimate) -> Interval:
    """An estimate as it is stored."""
    low, high = (None if end is None else round(end, DIGITS) for end in (found.low, found.high))
    return {"value": round(found.value, DIGITS), "ci_low": low, "ci_high": high}
