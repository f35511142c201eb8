"""Stages evaluate and baselines: pairing by id, the right target, files of the promised form."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.features import registry as features
from ssimbad.metrics import baselines, evaluate, face_features
from ssimbad.metrics.psnr import psnr
from ssimbad.pipeline import table
from ssimbad.runtime.job import Job

from .conftest import preset_tree
from .toy import load as parsed

IDS = ["0007", "0001", "b"]
PARAMS = SimpleNamespace(
    data=SimpleNamespace(size=32),
    evaluation=SimpleNamespace(bootstrap=100, confidence=0.95, seed=0),
    sketches=SimpleNamespace(sigmas=[0.3, 0.4, 0.5], k=3.5, p=10.0, epsilon=0.01, phi=1e9, seed=0),
)
PAIRED = {"psnr", "ms_ssim", "lpips", "ciede2000", "mse", "mape", "clip_image"}
NETWORK = {"fid", "kid", "lpips", "clip_image"}
ALL = PAIRED | NETWORK | {"line_fidelity", "palette_distance", "pixel_mmd"}


def flat(*levels: int, size: int = 64) -> np.ndarray:
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Three flat test faces at 64 pixels; the networks see 32."""
    paths = {name: tmp_path / f"{name}.npy" for name in ("test", "true", "train", "same", "cross")}
    artifacts.write_array(paths["test"], flat(10, 20, 30))
    artifacts.write_array(paths["true"], flat(110, 120, 130))
    artifacts.write_array(paths["train"], flat(0, 100, 0, 101))
    artifacts.write_array(paths["same"], flat(10, 20, 40))
    artifacts.write_array(paths["cross"], flat(20, 30, 10))
    paths |= {"references": paths["same"], "sketches": tmp_path / "sketches.npy"}
    artifacts.write_array(paths["sketches"], np.full((3, 64, 64), 255, np.uint8))
    paths["manifest"] = tmp_path / "manifest.csv"
    lines = ["id,split,source", "x,train,x.png", *(f"{i},test,{i}.png" for i in IDS)]
    paths["manifest"].write_text("\n".join(lines) + "\n")
    paths["images"] = tmp_path / "out.zip"
    return paths


def archive(path: Path, images: dict[str, np.ndarray]) -> None:
    artifacts.write_zip(path, ((f"{name}.png", artifacts.png_bytes(image)) for name, image in images.items()))


def run(files: dict[str, Path], tmp_path: Path, setting: str = "same") -> tuple[dict, pd.DataFrame]:
    outputs = {"images": tmp_path / "r" / "values.csv", "summary": tmp_path / "r" / "summary.json"}
    job = Job("evaluate", tmp_path, method="ssimbad", of="finetune", seed=3, setting=setting)
    evaluate.run(PARAMS, files, outputs, job)
    return json.loads(outputs["summary"].read_text()), pd.read_csv(outputs["images"], dtype={"id": str})


def test_images_are_paired_by_id_not_by_order(files, tmp_path):
    right = dict(zip(IDS, flat(11, 20, 60, size=32), strict=True))
    archive(files["images"], {name: right[name] for name in sorted(right)})
    summary, values = run(files, tmp_path)
    assert values["id"].tolist() == IDS
    expected = psnr(flat(11, 20, 60), flat(10, 20, 30))
    np.testing.assert_allclose(values["psnr"], expected, atol=1e-5)
    assert summary["metrics"]["psnr"]["value"] == pytest.approx(expected.mean(), abs=1e-4)


def test_the_summary_has_the_promised_form(files, tmp_path):
    archive(files["images"], dict(zip(IDS, flat(1, 2, 3, size=32), strict=True)))
    summary, _ = run(files, tmp_path, "cross")
    about = {k: summary[k] for k in ("method", "stage", "seed", "setting", "n", "size")}
    assert about == {
        "method": "ssimbad",
        "stage": "finetune",
        "seed": 3,
        "setting": "cross",
        "n": 3,
        "size": 32,
    }
    assert set(summary["metrics"]) == ALL
    assert summary["metrics"]["ms_ssim"]["scales"] == 2
    for name, metric in summary["metrics"].items():
        assert metric["n"] == 3
        assert (metric["value"] is None) == (name in NETWORK) == ("reason" in metric)


@pytest.mark.parametrize("setting", ["cross-true", "cross-other"])
def test_the_true_answer_is_the_target_and_has_no_fid(files, tmp_path, setting):
    archive(files["images"], dict(zip(IDS, flat(110, 120, 130, size=32), strict=True)))
    summary, values = run(files, tmp_path, setting)
    assert (values["psnr"] == 80).all()
    assert set(summary["metrics"]) == PAIRED


def test_same_and_cross_have_the_sketchs_own_face_as_target(files, tmp_path):
    archive(files["images"], dict(zip(IDS, flat(10, 20, 30, size=32), strict=True)))
    for setting in ("same", "cross"):
        _, values = run(files, tmp_path, setting)
        assert (values["psnr"] == 80).all()


@pytest.mark.parametrize(
    ("names", "message"),
    [(["0007", "b"], "no image for test ids 0001"), ([*IDS, "stranger"], "no test id stranger")],
)
def test_missing_and_unknown_ids_are_named(files, tmp_path, names, message):
    archive(files["images"], {name: flat(1, size=32)[0] for name in names})
    with pytest.raises(UserError, match=message):
        run(files, tmp_path)
    assert not (tmp_path / "r").exists()


def test_an_image_of_another_size_is_named(files, tmp_path):
    archive(files["images"], {"0007": flat(1)[0], "0001": flat(1, size=32)[0], "b": flat(1, size=32)[0]})
    with pytest.raises(UserError, match="32×32 pixels: 0007"):
        run(files, tmp_path)


def test_a_stale_array_is_an_error(files, tmp_path):
    archive(files["images"], dict(zip(IDS, flat(1, 2, 3, size=32), strict=True)))
    artifacts.write_array(files["test"], flat(1, 2))
    with pytest.raises(UserError, match="2 images for 3 ids"):
        run(files, tmp_path)


def test_the_same_inputs_give_the_same_bytes(files, tmp_path):
    archive(files["images"], dict(zip(IDS, flat(1, 2, 3, size=32), strict=True)))
    run(files, tmp_path)
    first = [(tmp_path / "r" / name).read_bytes() for name in ("values.csv", "summary.json")]
    run(files, tmp_path)
    assert first == [(tmp_path / "r" / name).read_bytes() for name in ("values.csv", "summary.json")]


def test_the_mean_colour_is_rounded_half_up():
    assert baselines.mean_color(flat(0, 100, 0, 101)).tolist() == [50, 50, 50]  # 50.25
    assert baselines.mean_color(flat(0, 1)).tolist() == [1, 1, 1]


def test_baselines_score_reference_and_mean_colour_in_every_setting(files, tmp_path):
    outputs = {"summary": tmp_path / "baselines.json"}
    baselines.run(PARAMS, files, outputs, Job("baselines", tmp_path))
    found = json.loads(outputs["summary"].read_text())
    assert found["n"] == 3 and found["size"] == 32
    reference, mean = found["rows"]["reference"], found["rows"]["mean_color"]
    assert set(reference) == set(mean) == {"same", "cross", "cross-true"}
    expected = psnr(flat(10, 20, 40), flat(10, 20, 30)).mean()
    assert reference["same"]["psnr"]["value"] == pytest.approx(expected, abs=1e-4)
    expected = psnr(flat(50, 50, 50), flat(110, 120, 130)).mean()
    assert mean["cross-true"]["psnr"]["value"] == pytest.approx(expected, abs=1e-4)
    assert mean["same"]["psnr"] == mean["cross"]["psnr"]


def test_baselines_without_true_answers_have_the_two_published_settings(files, tmp_path):
    del files["true"]
    outputs = {"summary": tmp_path / "baselines.json"}
    baselines.run(PARAMS, files, outputs, Job("baselines", tmp_path))
    assert set(json.loads(outputs["summary"].read_text())["rows"]["reference"]) == {"same", "cross"}


def measured(entries: dict) -> set[str]:
    """Metrics with a number; the others have a reason."""
    assert all((entry["value"] is None) == ("reason" in entry) for entry in entries.values())
    return {name for name, entry in entries.items() if entry["value"] is not None}


def test_the_right_answers_are_rows_and_nothing_is_compared_with_itself(files, tmp_path):
    outputs = {"summary": tmp_path / "baselines.json"}
    baselines.run(PARAMS, files, outputs, Job("baselines", tmp_path))
    rows = json.loads(outputs["summary"].read_text())["rows"]
    assert set(rows["ground_truth"]) == {"same", "cross"} and set(rows["true_answer"]) == {"cross"}
    for entries in rows["ground_truth"].values():
        assert set(entries) == ALL and measured(entries) == {"line_fidelity", "palette_distance"}
        assert entries["psnr"]["reason"] == "the target itself"
        assert entries["fid"]["reason"] == "the faces themselves"
    assert measured(rows["true_answer"]["cross"]) == ALL - NETWORK
    expected = psnr(flat(110, 120, 130), flat(10, 20, 30)).mean()
    assert rows["true_answer"]["cross"]["psnr"]["value"] == pytest.approx(expected, abs=1e-4)
    assert measured(rows["reference"]["same"]) == ALL - NETWORK - {"palette_distance"}
    assert rows["reference"]["cross"]["palette_distance"]["reason"] == "the reference itself"
    assert measured(rows["mean_color"]["cross-true"]) == PAIRED - NETWORK


def test_without_true_answers_there_is_no_row_of_them(files, tmp_path):
    del files["true"]
    outputs = {"summary": tmp_path / "baselines.json"}
    baselines.run(PARAMS, files, outputs, Job("baselines", tmp_path))
    assert set(json.loads(outputs["summary"].read_text())["rows"]) == {"reference", "mean_color", "ground_truth"}


def test_the_lines_are_those_of_the_sketches_and_the_colours_those_of_the_reference_shown(files, tmp_path):
    """Flat answers in the references' colours, to sketches of which one has a line."""
    archive(files["images"], dict(zip(IDS, flat(220, 200, 180, size=32), strict=True)))
    sheets = np.full((3, 64, 64), 255, np.uint8)
    sheets[1, 30:34] = 0
    artifacts.write_array(files["sketches"], sheets)
    artifacts.write_array(files["cross"], flat(220, 200, 180))
    _, values = run(files | {"references": files["cross"]}, tmp_path, "cross")
    assert values["line_fidelity"].tolist() == [1.0, 0.0, 1.0]
    assert values["palette_distance"].tolist() == [0.0, 0.0, 0.0]
    _, values = run(files | {"references": files["same"]}, tmp_path, "cross")
    assert (values["palette_distance"] > 1).all()


def test_the_test_faces_are_described_once_for_all_rows(files, tmp_path, monkeypatch):
    seen = []

    class Pool(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

    monkeypatch.setattr(features, "load", lambda *_: Pool())
    weights = files | {"inception": tmp_path / "inception.pth"}
    weights["inception"].touch()
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    archive(files["images"], dict(zip(IDS, noise, strict=True)))
    without, _ = run(weights, tmp_path)
    stored = tmp_path / "inception.npy"
    face_features.run(PARAMS, weights, {"inception": stored}, Job("face_features", tmp_path))
    seen.clear()
    once, _ = run(weights | {"inception_faces": stored}, tmp_path)
    assert once == without and once["metrics"]["fid"]["value"] > 0 and seen == [3]
    artifacts.write_array(stored, np.zeros((4, 12)))
    with pytest.raises(UserError, match=r"inception\.npy: 4 images for 3"):
        run(weights | {"inception_faces": stored}, tmp_path)


def test_features_of_the_test_faces_are_there_for_who_compares_sets_with_them():
    tree = preset_tree("demo")
    assert "face_features" not in {i.stage.name for i in table.instances(parsed(tree))}
    tree["weights"]["enabled"] = True
    found = table.instances(parsed(tree))
    (made,) = (i for i in found if i.stage.name == "face_features")
    assert made.outputs == {"inception": "data/features/inception.npy"}
    users = {i.name for i in found if "inception_faces" in i.inputs}
    compared = {i.name for i in found if i.stage.name == "evaluate" and i.wildcards["setting"] in ("same", "cross")}
    assert users == compared | {"baselines"} and compared
    assert all(made.name in i.upstream for i in found if i.name in users)
