"""Cross pairing: a seeded derangement and a second one beside it."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssimbad.errors import UserError
from ssimbad.pairing import protocol
from ssimbad.pairing.references import derangement, require_apart, second

NAMES = st.text("abcdef-_é7", min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)


@settings(max_examples=50, deadline=None)
@given(st.sets(NAMES, min_size=2, max_size=40), SEEDS)
def test_derangement_is_a_bijection_without_fixed_points(ids, seed):
    pairs = derangement(ids, seed)
    assert set(pairs) == set(pairs.values()) == ids
    assert all(a != b for a, b in pairs.items())


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, min_size=3, max_size=20, unique=True), SEEDS, st.randoms(use_true_random=False))
def test_order_of_the_ids_does_not_matter(ids, seed, shuffler: random.Random):
    shuffled = list(ids)
    shuffler.shuffle(shuffled)
    first = derangement(ids, seed)
    assert derangement(shuffled, seed) == first
    assert second(shuffled, seed, first) == second(ids, seed, first)


@settings(max_examples=50, deadline=None)
@given(st.sets(NAMES, min_size=3, max_size=40), SEEDS)
def test_second_differs_from_identity_and_first_everywhere(ids, seed):
    first = derangement(ids, seed)
    other = second(ids, seed, first)
    assert set(other) == set(other.values()) == ids
    assert all(other[i] not in (i, first[i]) for i in ids)


def test_every_derangement_of_four_is_drawn():
    seen = {tuple(derangement("abcd", seed).values()) for seed in range(200)}
    assert len(seen) == 9  # the subfactorial of 4


def test_too_few_ids_say_what_to_change():
    with pytest.raises(UserError, match=r"data\.test.*at least 2"):
        derangement(["a"], 0)
    with pytest.raises(UserError, match=r"data\.test.*at least 3"):
        second(["a", "b"], 0, derangement(["a", "b"], 0))
    with pytest.raises(ValueError, match="twice"):
        derangement(["a", "b", "a"], 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["", "mei", "rin", "aya", "yui", "sora"]), min_size=6, max_size=40), SEEDS)
def test_two_of_one_character_are_never_paired(characters, seed):
    who = {f"{i:02}": name for i, name in enumerate(characters)}
    most = max(Counter(filter(None, characters)).values(), default=0)
    if most > len(who) / 2:
        with pytest.raises(UserError, match=rf"data\.identity: {most} of {len(who)} test faces"):
            derangement(who, seed, who)
        return
    first = derangement(who, seed, who)
    assert first == derangement(reversed(who), seed, who)
    try:
        other = second(who, seed, first, who)
    except UserError as error:
        assert most > len(who) / 3, error  # only where there is hardly any choice
        other = {}
    for pairs in (first, other):
        assert set(pairs) == set(pairs.values())
        assert all(a != b and (not who[a] or who[a] != who[b]) for a, b in pairs.items())
    assert all(other[i] != first[i] for i in other)


def test_characters_are_paired_at_random():
    who = {f"{i:03}": f"{i % 5}" for i in range(100)}
    pairs = derangement(who, 0, who)
    assert pairs != derangement(who, 1, who)
    met = Counter((who[a], who[b]) for a, b in pairs.items())
    assert len(met) == 20 and max(met.values()) < 14  # in the mean 5 of each


def test_nobody_named_is_as_nobody_asked():
    ids = [f"{i}" for i in range(20)]
    assert derangement(ids, 3, dict.fromkeys(ids, "")) == derangement(ids, 3)
    first = derangement(ids, 3)
    assert second(ids, 3, first, {}) == second(ids, 3, first)
    require_apart(["", "", "a"])


ROWS = [{"id": f"x_{i}", "source": f"x/{i}.png", "identity": "ab"[i % 2] if i < 4 else ""} for i in range(6)]


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["sketch,reference,note", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_given_pairing_is_taken_as_it_is(tmp_path):
    given = table(tmp_path / "pairs.csv", "x/0.png,2", "1.png,x_3", "2,3,same reference again", "3,2", "4,0", "5,4")
    cross, other = protocol.partners(ROWS, 0, given)
    assert cross == {"x_0": "x_2", "x_1": "x_3", "x_2": "x_3", "x_3": "x_2", "x_4": "x_0", "x_5": "x_4"}
    who = {row["id"]: row["identity"] for row in ROWS}
    assert all(other[i] not in (i, cross[i]) and (not who[i] or who[i] != who[other[i]]) for i in cross)
    drawn, _ = protocol.partners(ROWS, 0)
    assert drawn == derangement(who, 0, who)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["0,1"], r"no reference for 5 of 6 test images, such as x_1"),
        (["0,0"], r"x_0 is shown itself"),
        (["0,1", "x/0.png,2"], r"x_0 has two references"),
        (["0,9"], r"'9' is no image"),
        (["0"], r"'' is no image"),
    ],
)
def test_a_given_pairing_that_does_not_fit(tmp_path, lines, said):
    with pytest.raises(UserError, match=rf"pairs\.csv: {said}"):
        protocol.partners(ROWS, 0, table(tmp_path / "pairs.csv", *lines))
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no columns sketch and reference"):
        protocol.partners(ROWS, 0, tmp_path / "pairs.csv")
    with pytest.raises(UserError, match=r"none\.csv: cannot be read.*references\.pairs"):
        protocol.partners(ROWS, 0, tmp_path / "none.csv")
