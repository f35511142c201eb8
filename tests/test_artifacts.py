"""Files are on the disk with their names; CSV files have the same bytes for the same rows, whoever writes them."""

from __future__ import annotations

import csv
import math

import numpy as np
import pandas as pd
import pytest

from ssimbad import artifacts

COLUMNS = ["id", "value", "note"]
ROWS = [
    {"id": "a", "value": 0.1 + 0.2, "note": 'says "no", twice'},
    {"id": "b,c", "value": np.float64(1e-9), "note": None},
    {"id": "d", "value": math.nan, "note": "two\nlines"},
    {"id": "e", "value": 7},
]


@pytest.mark.parametrize("form", ["mappings", "sequences"])
def test_rows_of_either_form_give_the_bytes_that_pandas_gives(tmp_path, form):
    rows = ROWS if form == "mappings" else [tuple(map(row.get, COLUMNS)) for row in ROWS]
    artifacts.write_csv(tmp_path / "mine.csv", COLUMNS, rows)
    expected = pd.DataFrame(ROWS, columns=COLUMNS, dtype=object).to_csv(index=False, lineterminator="\n")
    assert (tmp_path / "mine.csv").read_bytes() == expected.encode()


def test_what_is_unknown_is_an_empty_field(tmp_path):
    artifacts.write_csv(tmp_path / "a.csv", COLUMNS, ROWS)
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["value"], row["note"]) for row in read[1:]] == [("1e-09", ""), ("", "two\nlines"), ("7", "")]
    artifacts.write_csv(tmp_path / "b.csv", COLUMNS, [])
    assert (tmp_path / "b.csv").read_text() == "id,value,note\n"


def test_a_file_is_on_the_disk_with_its_name_and_those_of_new_folders(tmp_path, synced):
    artifacts.write_text(tmp_path / "a/b/c.txt", "x")
    *before, bytes_, name = synced
    assert set(before) == {tmp_path, tmp_path / "a"}
    assert bytes_.name.startswith(".c.txt.") and name == tmp_path / "a/b"
