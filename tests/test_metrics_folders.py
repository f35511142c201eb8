"""`ssimbad evaluate`: two folders by name, every metric or its reason, and mistakes in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssimbad.cli import app
from ssimbad.errors import ParameterError, UserError
from ssimbad.features import alexnet
from ssimbad.metrics import folders, registry
from ssimbad.metrics.ms_ssim import ms_ssim
from ssimbad.metrics.psnr import psnr
from ssimbad.pairing import xdog
from ssimbad.params import tree as parameters

from .conftest import ROOT
from .test_metrics_values import faces, worse

NAMES = ["b", "a", "10", "9"]


def save(folder: Path, images: np.ndarray, names: list[str] = NAMES, ending: str = "png") -> Path:
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.{ending}")
    return folder


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    real = faces(4, 64)
    return save(tmp_path / "real", real), save(tmp_path / "generated", worse(real, 20), ending="bmp")


def rows(table: str) -> dict[str, str]:
    return {next(m.id for m in registry.metrics() if line.startswith(m.label)): line for line in table.splitlines()[2:]}


def test_pictures_are_paired_by_name_whatever_their_endings(pair):
    found = rows(folders.run(*pair))
    real = faces(4, 64)
    assert f" {psnr(worse(real, 20), real).mean():.2f} " in found["psnr"]
    assert f" {ms_ssim(worse(real, 20), real).mean():.4f} " in found["ms_ssim"] and "3 scales" in found["ms_ssim"]
    assert "[" in found["psnr"] and "[" not in found["pixel_mmd"]


def test_every_metric_has_its_line_and_a_dash_its_reason(pair):
    found = rows(folders.run(*pair))
    assert list(found) == [metric.id for metric in registry.metrics() if not metric.optional]
    for name, why in (
        *((name, "--inception FILE") for name in ("fid", "kid")),
        *(("lpips", "--alexnet FILE"), ("line_fidelity", "--sketches DIR"), ("palette_distance", "--references DIR")),
    ):
        assert " — " in found[name] and why in found[name]
    for name in ("psnr", "ms_ssim", "ciede2000", "pixel_mmd"):
        assert "—" not in found[name] and found[name].split()[-1] == "4"


def test_sketches_and_references_are_taken(pair, tmp_path):
    real = faces(4, 64)
    drawn = save(
        tmp_path / "sketches", xdog.sketch(real, xdog.draw_sigma(NAMES, 0, folders.SKETCHES), folders.SKETCHES)
    )
    found = rows(folders.run(pair[0], pair[0], sketches=drawn, references=pair[0]))
    assert " 1.0000 " in found["line_fidelity"], "drawn with each picture's own sigma, by its name"
    assert " 0.00 " in found["palette_distance"] and " 80.00 " in found["psnr"]


def test_a_size_brings_all_pictures_to_it(pair, tmp_path):
    wide = save(tmp_path / "wide", worse(faces(4, 64), 20).repeat(2, axis=1))
    with pytest.raises(UserError, match=r"10\.png: 64×64 pixels, the others 64×128; give --size N"):
        folders.run(pair[0], wide)
    assert " 80.00 " in rows(folders.run(pair[0], pair[0], size=32))["psnr"]
    assert rows(folders.run(pair[0], wide, size=32))["psnr"].split()[-1] == "4"
    with pytest.raises(ParameterError, match="--size 0"):
        folders.run(*pair, size=0)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_name_without_a_partner_is_named(pair, lacking):
    gone = next(pair[lacking].glob("a.*"))
    gone.unlink()
    with pytest.raises(UserError, match=rf"/a\.(png|bmp): no picture of that name in .*{pair[lacking].name} \(1 "):
        folders.run(*pair)


def test_two_pictures_of_one_name_are_named(pair):
    Image.new("RGB", (64, 64)).save(pair[0] / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have one name"):
        folders.run(*pair)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(pair, data):
    (pair[1] / "a.bmp").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.bmp: .*mend it"):
        folders.run(*pair)


def test_folders_without_pictures_are_named(pair, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no picture in this folder"):
        folders.run(pair[0], tmp_path / "empty")
    with pytest.raises(UserError, match="gone: no folder"):
        folders.run(tmp_path / "gone", pair[1])


def test_other_weights_are_refused_under_the_names_of_the_published_ones(pair, tmp_path, monkeypatch):
    (tmp_path / "mine.pth").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.pth: sha256 .*leave --alexnet out"):
        folders.run(*pair, networks={"alexnet": tmp_path / "mine.pth"})
    with pytest.raises(UserError, match=r"gone\.pth: not there"):
        folders.run(*pair, networks={"inception": tmp_path / "gone.pth"})
    monkeypatch.setattr(alexnet, "SHA256", folders.artifacts.sha256(tmp_path / "mine.pth"))
    with pytest.raises(UserError, match="no PyTorch weights"):  # the right file would be loaded
        folders.run(*pair, networks={"alexnet": tmp_path / "mine.pth"})


def test_the_command_prints_the_table_and_a_mistake_as_one_line(pair):
    done = CliRunner().invoke(app, ["evaluate", "--real", str(pair[0]), "--generated", str(pair[1])])
    assert done.exit_code == 0 and "PSNR (dB) ↑" in done.output
    done = CliRunner().invoke(app, ["evaluate", "--real", str(pair[0]), "--generated", str(pair[0] / "gone")])
    assert isinstance(done.exception, UserError)


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_constants_are_those_of_the_presets(preset):
    p = parameters.load(ROOT / f"presets/{preset}.yaml")
    assert p.sketches == folders.SKETCHES
    assert p.evaluation.model_copy(update={"bootstrap": 10000}) == folders.EVALUATION
    assert preset == "demo" or p.evaluation.bootstrap == 10000
