"""Styles of line drawing: what makes each, the same for an image whatever its company."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ssimbad.pairing.styles import STYLES, drawn
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, table

from .conftest import miniature

IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def sheets() -> np.ndarray:
    """(3, 128, 128) uint8: a ring and two strokes, two to four pixels wide."""
    rows, columns = np.mgrid[:128, :128]
    away = np.abs(np.hypot(rows - 64, columns - 60) - 40)
    sheet = np.where(away < 1.5, 0, 255).astype(np.uint8)
    sheet[30:33, 10:105] = 0
    sheet[20:120, 112:114] = 0
    return np.stack([sheet, sheet[::-1], sheet.T])


def ink(sheets: np.ndarray) -> np.ndarray:
    return 255 - sheets.astype(int)


@pytest.mark.parametrize("style", STYLES)
def test_an_image_is_drawn_alike_in_any_company(sheets, style):
    found = drawn(sheets, IDS, style, 0)
    assert found.shape == sheets.shape and found.dtype == np.uint8
    assert np.array_equal(found[[2, 0]], drawn(sheets[[2, 0]], ["c", "a"], style, 0))
    by_chance = style in ("broken", "grey")
    for other in (drawn(sheets, IDS, style, 1), drawn(sheets, ["d", *IDS[1:]], style, 0)):
        assert np.array_equal(found[0], other[0]) == (not by_chance)
    blank = np.full((1, 128, 128), 255, np.uint8)
    assert np.array_equal(drawn(blank, ["a"], style, 0), blank)
    assert drawn(sheets[:0], [], style, 0).shape == (0, 128, 128)


def test_each_style_is_what_it_is_called(sheets):
    found = {style: drawn(sheets, IDS, style, 0) for style in STYLES}
    assert np.array_equal(found["xdog"], sheets)
    dark = {style: ink(lines).sum() / ink(sheets).sum() for style, lines in found.items()}
    assert dark["thin"] < 0.6 and 0.6 < dark["broken"] < 0.9 and 0.3 < dark["grey"] < 0.8 and 1.4 < dark["thick"] < 2.2
    assert (ink(found["thick"]) >= ink(sheets)).all() and (ink(found["broken"]) <= ink(sheets)).all()
    closed = [ndimage.label(lines[0] >= 128)[1] for lines in (sheets, found["thin"], found["vector"], found["broken"])]
    assert closed[0] == closed[1] == closed[2] > closed[3]  # gaps open areas, other styles do not
    assert ink(found["grey"]).max() < 230 and len(np.unique(found["grey"])) > 50
    strokes = found["vector"][0, 24:40, 14], found["vector"][0, 80, 106:120]  # three and two pixels wide in xdog
    assert ink(strokes[0]).sum() == pytest.approx(ink(strokes[1]).sum(), rel=0.2)


def test_only_trainings_see_other_styles_and_only_where_they_are_asked_for():
    tree = miniature()
    plain = {i.name: i for i in table.instances(params.Params.model_validate(tree))}
    tree["sketches"]["styles"] = ["xdog", "thin"]
    styled = {i.name: i for i in table.instances(params.Params.model_validate(tree))}
    assert "styles" not in plain["sketches"].outputs and styled["sketches"].outputs["styles"] == paths.STYLED
    training = "pretrain-ssimbad-seed-0"
    assert plain[training].inputs["train_sketches"] == "data/sketches/train.npy"
    assert styled[training].inputs["train_sketches"] == paths.STYLED
    assert styled[training].params == plain[training].params
    readers = [name for name, i in styled.items() if paths.STYLED in i.files]
    assert readers and all(name.startswith(("pretrain-", "finetune-")) for name in readers)
    tree["sketches"]["styles"] = ["thin", "thin"]
    with pytest.raises(ValueError, match=r"sketches\.styles: each style once"):
        params.Params.model_validate(tree)
