"""Splits depend on (seed, id) alone."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssimbad import files
from ssimbad.errors import UserError
from ssimbad.faces.splits import find_listed, read_list, split_ids

IDS = [f"image-{number}" for number in range(200)]


@given(st.permutations(IDS), st.integers(1, 50), st.integers(0, 20), st.integers(2, 20))
def test_disjoint_exact_and_independent_of_order(order, train, val, test):
    splits = split_ids(order, train, val, test, seed=1)
    assert list(splits) == ["train", "val", "test"]
    assert [len(ids) for ids in splits.values()] == [train, val, test]
    together = [id_ for ids in splits.values() for id_ in ids]
    assert len(set(together)) == len(together) and set(together) <= set(IDS)
    assert splits == split_ids(IDS, train, val, test, seed=1)
    assert all(ids == sorted(ids) for ids in splits.values())


def test_train_null_takes_all_that_are_left():
    splits = split_ids(IDS, None, 10, 20, seed=0)
    assert len(splits["train"]) == 170 and sorted(id_ for ids in splits.values() for id_ in ids) == sorted(IDS)


def test_the_seed_changes_the_split():
    assert split_ids(IDS, None, 10, 20, seed=0)["test"] != split_ids(IDS, None, 10, 20, seed=1)["test"]


def test_a_new_image_moves_at_most_one_other():
    before, after = (set(split_ids(ids, None, 0, 20, seed=0)["test"]) for ids in (IDS, [*IDS, "new"]))
    assert len(before - after) <= 1


def test_a_larger_test_set_contains_the_smaller():
    small, large = (set(split_ids(IDS, None, 0, n, seed=0)["test"]) for n in (10, 30))
    assert small < large


def test_the_split_does_not_follow_names():
    numbers = [int(id_.split("-")[1]) for id_ in split_ids(IDS, None, 0, 100, seed=0)["test"]]
    assert 80 < sum(numbers) / 100 < 120


@pytest.mark.parametrize(("train", "key"), [(190, r"data\.train"), (None, r"data\.val or data\.test")])
def test_too_few_images(train, key):
    with pytest.raises(UserError, match=rf"only 200 usable images.*lower {key}"):
        split_ids(IDS, train, 100, 100, seed=0)
    enough = split_ids(IDS, 1 if train else None, 100, 99, seed=0)
    assert len(enough["train"]) == 1


def test_listed_ids_are_the_test_set():
    splits = split_ids(IDS, None, 5, 77, seed=0, listed=IDS[3:6])
    assert splits["test"] == IDS[3:6]
    assert not set(IDS[3:6]) & set(splits["train"] + splits["val"])
    with pytest.raises(UserError, match=r"beside the 3 of data\.test_list"):
        split_ids(IDS, 195, 5, 2, seed=0, listed=IDS[3:6])


NAMES = {"a_one": "a/one.png", "b_one": "b/one.png", "two": "two.jpg", "x.y": "x.y.png"}


@pytest.mark.parametrize("line", ["two.jpg", "two", "./two.jpg"])
def test_a_list_names_files_stems_or_paths(line):
    assert find_listed([line, "x.y", "a/one.png", "b_one", line], NAMES, "t.txt") == [
        "two",
        "x.y",
        "a_one",
        "b_one",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["three.png"], "'three.png' is no image"), (["one"], "'one' fits 2 images"), ([], "names no image")],
)
def test_a_list_that_does_not_fit(lines, message):
    with pytest.raises(UserError, match=rf"t\.txt.*{message}"):
        find_listed(lines, NAMES, "t.txt")


def test_lines_of_a_list():
    text = "\ufeffa.png\r\n\n  b\u2028c.png  \n# note\rd.png"
    assert read_list(files.lines(io.BytesIO(text.encode()))) == ["a.png", "b\u2028c.png", "d.png"]
