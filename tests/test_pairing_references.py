"""Cross pairing: a seeded derangement and a second one beside it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssimbad.errors import UserError
from ssimbad.pairing.references import derangement, second

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
