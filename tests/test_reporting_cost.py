"""The cost table: from measurements, dashes where nothing was measured."""

import csv
import json
from pathlib import Path

import pytest

from ssimbad.errors import UserError
from ssimbad.reporting import cost

TRAIN = {
    "method": "ssimbad",
    "stage": "pretrain",
    "seed": 0,
    "phase": "train",
    "images": 36000,
    "seconds": 1800.0,
    "images_per_second": 20.0,
    "parameters": 2600000,
    "device": "cpu",
}
COLORIZE = {
    "method": "ssimbad",
    "stage": "pretrain",
    "seed": 0,
    "phase": "colorize",
    "setting": "cross",
    "nfe": 19,
    "seconds_per_image": 0.3512,
}


def measured(tmp_path: Path, *lines: dict) -> list[cost.Measured]:
    paths = [tmp_path / f"{i}.json" for i in range(len(lines))]
    for path, line in zip(paths, lines, strict=True):
        path.write_text(json.dumps(line))
    return [cost.read(path) for path in paths]


def test_cost_table_in_three_forms(tmp_path):
    out = tmp_path / "tables"
    assert cost.write(measured(tmp_path, COLORIZE, TRAIN), out, {"ssimbad": "SSIMBaD"}, "demo") == out / "cost.csv"
    with (out / "cost.csv").open(newline="") as file:
        train, colorize = csv.DictReader(file)
    assert (train["phase"], train["device_hours"], train["nfe"]) == ("train", "0.5", "")
    assert (colorize["phase"], colorize["nfe"], colorize["seconds"]) == ("colorize", "19", "")
    text = (out / "cost.md").read_text()
    assert "demo-scale" in text
    assert "| SSIMBaD | pretrain | 0 | train | — | cpu | 2,600,000 | 36,000 | 20.0 | 0.50 | — | — |" in text
    assert "| SSIMBaD | pretrain | 0 | colorize | cross | — | — | — | — | — | 19 | 0.351 |" in text
    assert r"\begin{tabular}{llllllrrrrrr}" in (out / "cost.tex").read_text()


def test_device_hours_count_every_device(tmp_path):
    cost.write(measured(tmp_path, TRAIN | {"device": "H100", "devices": 4}), tmp_path / "tables")
    with (tmp_path / "tables/cost.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["device"], line["device_hours"]) == ("4 × H100", "2.0")


def test_nothing_measured_writes_nothing(tmp_path):
    assert cost.write([], tmp_path / "tables") is None
    assert not (tmp_path / "tables").exists()


def test_order_of_the_files_does_not_matter(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = cost.write(measured(tmp_path / "a", TRAIN, COLORIZE), tmp_path / "a")
    two = cost.write(measured(tmp_path / "b", COLORIZE, TRAIN), tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        b"\xff",
        '{"devices": "x"}',
        '{"devices": 0}',
        '{"seconds": NaN}',
        '{"seconds": "1"}',
    ]
    + [f'{{"{key}": {{}}}}' for key in cost.MEASURED],
)
def test_a_file_that_is_no_measurement_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"x\.json: no measurement of a cost$"):
        cost.read(path)
