"""Figures: the right pictures in the right cells, complete files, the same bytes again."""

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.reporting import data_sheet, figures
from ssimbad.reporting.curves import training_curves
from ssimbad.reporting.grids import picture_grid
from ssimbad.runtime.job import Job

IDS = [f"{i:04d}" for i in range(5)]
ROWS = [("ssimbad", "pretrain"), ("ssimbad", "finetune"), ("control", "finetune")]
PARAMS = SimpleNamespace(
    preset="demo",
    data=SimpleNamespace(size=32),
    report=SimpleNamespace(grid_images=4),
    methods={
        "ssimbad": SimpleNamespace(label="SSIMBaD"),
        "control": SimpleNamespace(label="Control without refinement"),
    },
)


def faces(shift: int = 0, size: int = 64) -> np.ndarray:
    """(5, size, size, 3): discs in five colours on a tinted ground."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    disc = (x**2 + y**2 < 0.12)[..., None]
    colors = np.uint8(255 * plt.colormaps["hsv"]((np.arange(5) + shift) % 5 / 5)[:, :3])
    return np.stack([np.where(disc, c, 255 - c // 3) for c in colors]).astype(np.uint8)


def curve(path: Path, sigma: bool, validated: bool) -> None:
    generator = np.random.default_rng(0)
    lines = ["images,split,name,value"]
    for images in range(100, 5001, 100):
        loss = 0.3 * np.exp(-images / 1500) + 0.02
        lines.append(f"{images},train,loss,{loss * generator.uniform(0.8, 1.2)}")
        for k in range(4 if sigma else 0):
            lines.append(f"{images},train,loss_sigma_{k},{loss * 4**k / 20 * generator.uniform(0.7, 1.3)}")
    if validated:
        lines += [f"{images},val,psnr,{12 + 4 * (1 - np.exp(-images / 2000))}" for images in range(1000, 5001, 1000)]
    artifacts.write_text(path, "\n".join(lines) + "\n")


@pytest.fixture
def inputs(tmp_path: Path) -> dict:
    paths = {name: tmp_path / f"{name}.npy" for name in ("test", "sketches", "same", "cross", "true")}
    artifacts.write_array(paths["test"], faces())
    artifacts.write_array(paths["same"], np.roll(faces(), 5, axis=2))
    artifacts.write_array(paths["cross"], np.roll(faces(1), 5, axis=2))
    artifacts.write_array(paths["true"], faces(1))
    artifacts.write_array(paths["sketches"], np.where(faces().min(axis=3) > 100, 255, 0).astype(np.uint8))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["id,split", "t,train", *(f"{i},test" for i in IDS)]) + "\n")
    pairing = tmp_path / "pairing.csv"
    partners = [*IDS[1:], IDS[0]]
    pairing.write_text("\n".join(["id,cross,other", *(f"{a},{b},x" for a, b in zip(IDS, partners, strict=True))]))
    images, curves = [], []
    for method, stage in ROWS:
        base = Path(method, stage, "seed-0")
        for setting, shift in (("same", 0), ("cross", 1)):
            path = tmp_path / "outputs" / base / f"{setting}.zip"
            members = zip(IDS, faces(shift, size=32), strict=True)
            artifacts.write_zip(path, ((f"{i}.png", artifacts.png_bytes(image)) for i, image in members))
            images.append(path)
        curves.append(tmp_path / "models" / base.with_suffix(".csv"))
        curve(curves[-1], sigma=stage == "pretrain", validated=stage == "finetune")
    return paths | {"manifest": manifest, "pairing": pairing, "images": images, "curves": curves}


def draw(inputs: dict, folder: Path) -> dict[str, Path]:
    names = ("qualitative_same", "qualitative_cross", "training_curves")
    outputs = {f"{name}_{kind}": folder / f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    figures.run(PARAMS, inputs, outputs, Job("figures", folder))
    return outputs


def test_figures_are_complete_and_reproducible(inputs, tmp_path):
    inputs["curves"] = inputs["curves"][:1]
    first = draw(inputs, tmp_path / "one")
    second = draw(inputs, tmp_path / "two")
    for name, path in first.items():
        data = path.read_bytes()
        assert data == second[name].read_bytes(), name
        assert data.startswith(b"%PDF" if name.endswith("pdf") else b"\x89PNG")
        assert b"CreationDate" not in data
    assert plt.get_fignums() == []
    assert all(min(Image.open(path).size) > 300 for name, path in first.items() if name.endswith("png"))


def test_rows_of_the_grids(inputs):
    same = [label for label, _ in figures.grid_rows(PARAMS, inputs, "same", IDS)]
    assert same == [
        *["Sketch", "Reference", "SSIMBaD, pretrained", "SSIMBaD, finetuned"],
        *["Control without refinement", "Target"],
    ]
    cross = dict(figures.grid_rows(PARAMS, inputs, "cross", IDS))
    assert list(cross)[-2:] == ["Sketch's own face (published target)", "True answer"]
    assert cross["True answer"].shape == (4, 32, 32, 3) and cross["Sketch"].shape == (4, 32, 32)
    np.testing.assert_array_equal(cross["SSIMBaD, finetuned"], faces(1, size=32)[:4])


def test_own_data_has_no_row_with_a_true_answer(inputs):
    del inputs["true"]
    assert [label for label, _ in figures.grid_rows(PARAMS, inputs, "cross", IDS)][-1].startswith("Sketch's own")


def test_columns_name_the_reference(inputs):
    assert figures.column_names(inputs["pairing"], "cross", IDS)[:2] == ["0000 ← 0001", "0001 ← 0002"]
    assert figures.column_names(inputs["pairing"], "same", IDS) == IDS


def test_a_grid_shows_every_picture_with_its_own_pixels():
    colors = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [120, 120, 0]], np.uint8)
    pictures = np.broadcast_to(colors[:, None, None], (4, 16, 16, 3))
    fig = picture_grid("t", [("a", pictures[:2]), ("b", pictures[2:])], ["x", "y"])
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150)
    plt.close(fig)
    shown = np.asarray(Image.open(buffer).convert("RGB")).reshape(-1, 3)
    counts = [(shown == color).all(axis=1).sum() for color in colors]
    assert min(counts) > 100 * 100 and max(counts) < 1.1 * min(counts)


@pytest.mark.parametrize("arrow", ["", " ← "])
def test_long_names_do_not_run_into_each_other(arrow):
    ids = [f"train_reference_some_long_character_name_{i}_and_a_picture-0123456{i}" for i in range(4)]
    columns = [f"{id_}{arrow}{id_}" if arrow else id_ for id_ in ids]
    fig = picture_grid("t", [("a", np.zeros((4, 64, 64, 3), np.uint8))], columns)
    renderer = fig.canvas.get_renderer()
    *names, title = [text.get_window_extent(renderer) for text in fig.axes[0].texts[1:]]
    assert len(names) == 4 and all(a.x1 < b.x0 for a, b in itertools.pairwise(names))
    assert max(name.y1 for name in names) < title.y0
    assert len({text.get_text() for text in fig.axes[0].texts}) == 6, "their ends tell them apart"
    plt.close(fig)


def test_the_sheet_of_the_data(inputs, tmp_path):
    rows = [{"id": i, "split": "test", "sketch": "x"} for i in IDS]
    rows += [{"id": f"t{n}", "split": "train", "sketch": "x" * (n < 1)} for n in range(3)]
    artifacts.write_csv(tmp_path / "manifest.csv", ("id", "split", "sketch"), rows)
    given = {name: inputs[name] for name in ("test", "same", "cross", "pairing")}
    given |= {"manifest": tmp_path / "manifest.csv", "test_sketches": inputs["sketches"]}
    for name, stored in (("train", faces()[:3]), ("train_sketches", faces()[:3, ..., 0])):
        artifacts.write_array(given.setdefault(name, tmp_path / f"{name}.npy"), stored)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_sheet, "picture_grid", lambda *args: drawn.append(args) or picture_grid(*args))
        data_sheet.run(PARAMS, given, {"sheet": tmp_path / "a.png"}, Job("data_sheet", tmp_path))
    title, grid, columns = drawn[0]
    assert "5 test and 3 training faces" in title and columns[0] == "0000 ← 0001" and len(columns) == 3
    assert [label for label, _ in grid] == [
        "Test face", "Its sketch, given", "Its own reference", "Cross reference",
        "Training face", "Its sketch, 1 of 3 given",
    ]  # fmt: skip
    assert all(len(images) == 3 for _, images in grid)
    first = (tmp_path / "a.png").read_bytes()
    data_sheet.run(PARAMS, given, {"sheet": tmp_path / "a.png"}, Job("data_sheet", tmp_path))
    assert (tmp_path / "a.png").read_bytes() == first


def test_an_archive_named_otherwise_is_an_error(inputs):
    inputs["images"].append(inputs["images"][0].with_name("same").parent.parent / "same.zip")
    with pytest.raises(UserError, match="not of the form"):
        figures.grid_rows(PARAMS, inputs, "same", IDS)


def test_curves_without_validation_have_no_panel_for_it(tmp_path):
    curve(tmp_path / "a.csv", sigma=True, validated=False)
    curve(tmp_path / "b.csv", sigma=False, validated=True)
    a, b = (pd.read_csv(tmp_path / name) for name in ("a.csv", "b.csv"))
    for curves, panels in (([("a", [a])], 2), ([("a", [a]), ("b", [b])], 6)):
        fig = training_curves("t", curves)
        assert len(fig.axes) == panels
        plt.close(fig)


def test_a_score_of_a_trainings_own_is_not_called_psnr(tmp_path):
    curve(tmp_path / "a.csv", sigma=False, validated=True)
    psnr = pd.read_csv(tmp_path / "a.csv")
    score = psnr.replace({"name": {"psnr": "score"}})
    fig = training_curves("t", [("a", [psnr]), ("b", [score])])
    labels = [axes.get_ylabel() for axes in fig.axes]
    lines = [fig.axes[i].lines[0].get_ydata().tolist() for i in (2, 5)]
    plt.close(fig)
    assert (labels[2], labels[5]) == ("validation PSNR (dB)", "validation, its own score")
    assert lines[0] == lines[1] == psnr[psnr["name"] == "psnr"]["value"].tolist()


def test_the_drawn_loss_is_the_smoothed_one(tmp_path):
    curve(tmp_path / "a.csv", sigma=True, validated=False)
    frame = pd.read_csv(tmp_path / "a.csv")
    fig = training_curves("t", [("a", [frame])])
    raw, smooth = fig.axes[0].lines
    plt.close(fig)
    loss = frame[frame["name"] == "loss"]["value"].to_numpy()
    np.testing.assert_array_equal(raw.get_ydata(), loss)
    assert np.abs(np.diff(smooth.get_ydata())).mean() < 0.5 * np.abs(np.diff(loss)).mean()
    np.testing.assert_allclose(smooth.get_ydata()[3:-3], np.convolve(loss, np.ones(7) / 7, "valid"))


def test_a_loss_of_few_rows_is_drawn_as_it_is(tmp_path):
    """The mean over seven rows of a curve of three would be a flat line."""
    curve(tmp_path / "a.csv", sigma=True, validated=False)
    frame = pd.read_csv(tmp_path / "a.csv")
    frame = frame[frame["images"].isin(sorted(frame["images"].unique())[:3])]
    fig = training_curves("t", [("a", [frame])])
    plt.close(fig)
    loss = frame[frame["name"] == "loss"]["value"].to_numpy()
    assert len(set(loss)) == 3
    for line in fig.axes[0].lines:
        np.testing.assert_array_equal(line.get_ydata(), loss)
