"""Who is whose reference: seeded permutations of ids in which nobody keeps their own place."""

from collections.abc import Iterable

import numpy as np

from ssimbad.errors import UserError
from ssimbad.seeding import derive


def derangement(ids: Iterable[str], seed: int) -> dict[str, str]:
    """Cross-reference partners: a bijection of the ids without a fixed point.

    A pure function of the set of ids and the seed (order does not matter), uniform over all derangements.

    Raises:
        UserError: fewer than two ids.
        ValueError: an id occurs twice.
    """
    return _avoiding(_ordered(ids, 2), derive(seed, "references", "cross"), [])


def second(ids: Iterable[str], seed: int, first: dict[str, str]) -> dict[str, str]:
    """A derangement that also differs from `first` at every id: somebody else's reference, a control.

    Raises:
        UserError: fewer than three ids (with two there is only one derangement).
        ValueError: an id occurs twice.
    """
    return _avoiding(_ordered(ids, 3), derive(seed, "references", "other"), [first])


def _ordered(ids: Iterable[str], least: int) -> list[str]:
    ordered = sorted(ids)
    if len(set(ordered)) != len(ordered):
        raise ValueError("the same id twice: a pairing needs distinct ids")
    if len(ordered) < least:
        raise UserError(f"data.test: {len(ordered)} test faces cannot be paired crosswise; give at least {least}")
    return ordered


def _avoiding(ordered: list[str], seed: int, taken: list[dict[str, str]]) -> dict[str, str]:
    # Drawing whole permutations until one fits keeps them equally likely; about e tries (e² with one taken).
    random = np.random.default_rng(seed)
    while True:
        pairs = {a: ordered[i] for a, i in zip(ordered, random.permutation(len(ordered)), strict=True)}
        if all(a != b and all(b != other[a] for other in taken) for a, b in pairs.items()):
            return pairs
