"""The metrics as a registry: one file is one column, what cannot be had is said, company changes nothing."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssimbad import metrics as room
from ssimbad.features import registry as features
from ssimbad.metrics import measure, registry
from ssimbad.metrics.contract import ABSENT, Given, Lines
from ssimbad.pairing import xdog
from ssimbad.params import tree as parameters
from ssimbad.params.blocks import Sketches
from ssimbad.reporting import results

from .conftest import ROOT
from .test_metrics_values import faces, worse

EVALUATION = SimpleNamespace(bootstrap=100, confidence=0.95, seed=0)
XDOG = Sketches(sigmas=[0.3, 0.4, 0.5], k=3.5, p=10.0, epsilon=0.01, phi=1e9, seed=0)
BRIGHTNESS = """
from ssimbad.metrics.contract import Metric

METRIC = Metric("brightness", "Brightness", 1, "↑", lambda given: given.images.mean(axis=(1, 2, 3)), ())
"""


def given(n: int = 4) -> Given:
    """Everything but networks, of faces at 32 pixels with sketches at 64."""
    targets = faces(n, 32)
    sigmas = xdog.draw_sigma([str(i) for i in range(n)], 0, XDOG)
    lines = Lines(xdog.sketch(targets.repeat(2, axis=1).repeat(2, axis=2), sigmas, XDOG), sigmas, XDOG)
    masks = targets.max(axis=-1)
    return Given(worse(targets, 20), targets, targets, targets[::-1], lines, masks=masks)


def test_the_order_of_the_columns_is_fixed_and_new_ones_come_last():
    ids = [metric.id for metric in registry.metrics()]
    assert ids[:5] == ["psnr", "ms_ssim", "fid", "kid", "lpips"] == list(results.METRICS)[:5]
    assert ids[5:9] == ["line_fidelity", "ciede2000", "palette_distance", "pixel_mmd"]
    assert ids[9:14] == ["psnr_fg", "psnr_bg", "mse", "mape", "clip_image"]
    assert results.METRICS["psnr"] == ("PSNR (dB)", 2, "↑")


def test_a_metric_is_named_as_its_file_and_needs_what_can_be_given():
    for metric, name in zip(sorted(registry.metrics(), key=lambda m: m.id), registry.names(), strict=True):
        assert metric.id == name
        assert set(metric.needs) <= {*ABSENT, *features.names()}
    assert registry.networks() == ["inception", "alexnet", "clip"]


def test_a_metric_is_added_by_one_file(tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text(BRIGHTNESS)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        values, entries = measure.every(registry.metrics(), given(), EVALUATION)
    finally:
        sys.modules.pop("ssimbad.metrics.brightness", None)
    assert values["brightness"].tolist() == pytest.approx(given().images.mean(axis=(1, 2, 3)), abs=1e-5)
    assert entries["brightness"]["ci_low"] < entries["brightness"]["value"] < entries["brightness"]["ci_high"]
    assert list(entries)[-1] == "brightness"


def test_values_do_not_depend_on_the_cores_that_the_images_are_dealt_to():
    """Also those of metrics that nobody has written yet: each is handed parts of whatever it needs."""
    whole = given(37)  # parts of 16, the last one smaller
    alone, entries = measure.every(registry.metrics(), whole, EVALUATION)
    assert {"psnr", "ms_ssim", "line_fidelity", "palette_distance", "ciede2000", "psnr_fg"} <= alone.keys()
    dealt, again = measure.every(registry.metrics(), whole, EVALUATION, threads=3)
    for name, values in alone.items():
        assert values.shape == (37,) and (values == dealt[name]).all(), name
    assert entries == again


def test_a_core_is_given_its_rows_of_everything_and_nothing_that_others_looked_at():
    whole = given(5)
    whole.seen["pool3"] = "of all"
    part = whole.part(1, 3)
    assert (part.images == whole.images[1:3]).all() and (part.masks == whole.masks[1:3]).all()
    assert (part.lines.sketches == whole.lines.sketches[1:3]).all()
    assert (part.lines.sigmas == whole.lines.sigmas[1:3]).all()
    assert part.faces is whole.faces and part.seen == {}
    assert Given(whole.images).part(0, 2).lines is None


def test_the_registry_is_light():
    """Tables ask it for names; torch alone would cost them seconds."""
    code = "import sys; from ssimbad.metrics import registry; registry.metrics(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ssimbad.metrics.fid" in loaded
    assert not {"torch", "lpips", "pytorch_fid", "skimage", "pandas"} & set(loaded)


@pytest.mark.parametrize("name", [m.id for m in registry.metrics() if not set(m.needs) & set(features.names())])
def test_a_value_does_not_depend_on_company_and_is_the_same_again(name):
    metric, all_of = registry.by_id(name), given()
    values = metric.function(all_of)
    again = metric.function(given())
    if metric.of_set:
        assert values == again
        return
    assert values.tolist() == again.tolist() and values.dtype == np.float64 and len(set(values)) == 4
    for i in (0, 2):
        part = slice(i, i + 2)
        lines = Lines(all_of.lines.sketches[part], all_of.lines.sigmas[part], XDOG)
        keys = ("images", "targets", "faces", "references", "masks")
        some = Given(**{key: getattr(all_of, key)[part] for key in keys}, lines=lines)
        assert metric.function(some).tolist() == values[part].tolist()


def test_what_is_not_there_is_a_dash_with_its_reason_for_every_metric():
    _, entries = measure.every(registry.metrics(), Given(faces(2, 32)), EVALUATION)
    assert list(entries) == [metric.id for metric in registry.metrics() if not metric.optional]
    assert {metric.id for metric in registry.metrics() if metric.optional} == {"psnr_fg", "psnr_bg"}
    for entry in entries.values():
        assert entry["value"] is None and entry["n"] == 2 and entry["reason"]
    assert entries["line_fidelity"]["reason"] == "no sketch given"
    _, entries = measure.every(registry.metrics(), Given(faces(2, 32), absent={"targets": "unpaired"}), EVALUATION)
    assert entries["psnr"]["reason"] == "unpaired"


def test_images_too_small_for_a_metric_have_a_dash_and_the_others_their_values():
    a = faces(2, 8)
    values, entries = measure.every(registry.metrics(), Given(a, a), EVALUATION)
    assert "at least 11" in entries["ms_ssim"]["reason"] and "scales" not in entries["ms_ssim"]
    assert "ms_ssim" not in values and entries["psnr"]["value"] == 80


def test_the_published_weights_are_those_that_the_presets_fetch():
    for path in sorted((ROOT / "presets").glob("*.yaml")):
        weights = parameters.load(path).weights
        for name in features.names():
            assert getattr(weights, name) is None or getattr(weights, name).sha256 == features.module(name).SHA256


def test_a_number_is_shown_with_the_decimals_of_its_metric():
    assert (
        registry.by_id("psnr").shown(-1.234) == "−1.23" and registry.by_id("kid").shown(0.5, signed=True) == "+0.5000"
    )
    assert results.number(None, "psnr") == "—"


def test_every_module_of_the_room_is_a_metric_or_named_as_none():
    modules = {path.stem for path in Path(registry.__file__).parent.glob("[a-z]*.py")}
    assert modules - registry.NOT_METRICS == set(registry.names())
    assert modules >= registry.NOT_METRICS
