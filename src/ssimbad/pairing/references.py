"""Who is whose reference: seeded permutations of ids in which nobody keeps their own place."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from ssimbad.errors import UserError
from ssimbad.seeding import derive

_SWAPS = 20
"""Tries per id by which a pairing that keeps characters apart is mixed."""


def derangement(ids: Iterable[str], seed: int, identities: Mapping[str, str] | None = None) -> dict[str, str]:
    """Cross-reference partners: a bijection of the ids without a fixed point.

    A pure function of the set of ids, their identities and the seed (order does not matter), uniform over all
    derangements where nobody has an identity.

    Args:
        identities: {id: character}, "" where nobody says; two of one character are never paired.

    Raises:
        UserError: fewer than two ids, or more than half of them are of one character.
        ValueError: an id occurs twice.
    """
    ordered, seed = _ordered(ids, 2), derive(seed, "references", "cross")
    if who := _known(ordered, identities):
        return _apart(ordered, seed, who, [])
    return _avoiding(ordered, seed, [])


def second(
    ids: Iterable[str], seed: int, first: dict[str, str], identities: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A derangement that also differs from `first` at every id: somebody else's reference, a control.

    Raises:
        UserError: fewer than three ids (with two there is only one derangement), or none keeps characters apart.
        ValueError: an id occurs twice.
    """
    ordered, seed = _ordered(ids, 3), derive(seed, "references", "other")
    if who := _known(ordered, identities):
        return _apart(ordered, seed, who, [first])
    return _avoiding(ordered, seed, [first])


def require_apart(identities: Iterable[str]) -> None:
    """Raises UserError where characters cannot be kept apart: more than half of the faces are of one."""
    found = list(identities)
    name, most = Counter(filter(None, found)).most_common(1)[0] if any(found) else ("", 0)
    if most > len(found) / 2:
        raise UserError(
            f"data.identity: {most} of {len(found)} test faces are of {name!r}, so that cross pairs must share a "
            "character; set it to none, or data.test higher"
        )


def _known(ordered: list[str], identities: Mapping[str, str] | None) -> dict[str, str]:
    """{id: character}, everybody unnamed being one of their own; {} where all are."""
    named = {id_: (identities or {}).get(id_, "") for id_ in ordered}
    require_apart(named.values())
    return {id_: who or f"\0{id_}" for id_, who in named.items()} if any(named.values()) else {}


def _apart(ordered: list[str], seed: int, who: dict[str, str], taken: list[dict[str, str]]) -> dict[str, str]:
    """A bijection in which nobody meets their own character, nor the partner of those `taken`.

    Sorted by character and shifted by the size of the largest one, nobody meets their own; swaps that keep it so mix
    it. Whole permutations, drawn until one fits, would never fit where characters are large.
    """
    random = np.random.default_rng(seed)
    order = {name: rank for rank, name in enumerate(random.permutation(sorted(set(who.values()))))}
    line = sorted((ordered[i] for i in random.permutation(len(ordered))), key=lambda id_: order[who[id_]])
    largest = max(Counter(who.values()).values())
    partner = {id_: line[(i + largest) % len(line)] for i, id_ in enumerate(line)}

    def fits(a: str, b: str) -> bool:
        return who[a] != who[b] and all(b != other[a] for other in taken)

    def swap(a: str, b: str) -> bool:
        if not (fits(a, partner[b]) and fits(b, partner[a])):
            return False
        partner[a], partner[b] = partner[b], partner[a]
        return True

    for a, b in random.integers(len(line), size=(_SWAPS * len(line), 2)):
        swap(line[a], line[b])
    for a in line:
        if not fits(a, partner[a]) and not any(swap(a, line[i]) for i in random.permutation(len(line))):
            raise UserError("data.test: too few faces of too few characters to be paired twice; set data.test higher")
    return partner


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
