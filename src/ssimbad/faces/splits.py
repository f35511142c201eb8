"""Which image belongs to which split: a hash of (seed, id) decides, neither file order nor machine."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ssimbad.errors import UserError
from ssimbad.seeding import derive

SPLITS = ("train", "val", "test")


def split_ids(
    ids: Iterable[str], train: int | None, val: int, test: int, seed: int, listed: Iterable[str] | None = None
) -> dict[str, list[str]]:
    """Disjoint {"train", "val", "test"} → sorted ids; `train=None` takes all that are left.

    The ids are ranked by a hash of (seed, id); the first `test` are the test set, the next `val` and
    `train` follow. A larger test set thus contains the smaller one. `listed` ids, where given, are the test
    set instead.

    Raises:
        UserError: there are too few images; names the number there is and the key to change.
    """
    given = None if listed is None else set(listed)
    left = sorted(set(ids) - (given or set()), key=lambda id_: (derive(seed, "split", id_), id_))
    wanted = {"test": test if given is None else 0, "val": val, "train": 1 if train is None else train}
    if sum(wanted.values()) > len(left):
        raise UserError(_too_few(len(left), wanted, train is None, given))
    tests = left[: wanted["test"]] if given is None else list(given)
    rest = left[wanted["test"] :]
    trains = rest[val:] if train is None else rest[val : val + train]
    return {"train": sorted(trains), "val": sorted(rest[:val]), "test": sorted(tests)}


def offered_ids(
    offered: Mapping[str, str], train: int | None, val: int, test: int, seed: int, listed: Iterable[str] | None = None
) -> dict[str, list[str]]:
    """As `split_ids`, of faces that each belong to a split: so many of each, ranked by a hash of (seed, id).

    Args:
        offered: {id: `train`, `val` or `test`; "" counts as train}. Where none is of test the validation faces serve,
            and where none of these is left the training faces.

    Raises:
        UserError: there are too few of a split.
    """
    given = set(listed or ())
    ranked = sorted(set(offered) - given, key=lambda id_: (derive(seed, "split", id_), id_))
    pools = {split: [id_ for id_ in ranked if (offered[id_] or "train") == split] for split in SPLITS}
    here = {split: _first(split, pools) for split in ("test", "val")}
    found = {"test": list(given)}
    for split, wanted in (("test", 0 if listed is not None else test), ("val", val)):
        pool = pools[here[split]]
        if wanted > len(pool):
            raise UserError(f"data.{split}: {wanted} asked, but {len(pool)} usable faces are in a folder {here[split]}")
        found.setdefault(split, []).extend(pool[:wanted])
        pools[here[split]] = pool[wanted:]
    wanted = len(pools["train"]) if train is None else train
    if not pools["train"] or wanted > len(pools["train"]):
        raise UserError(
            f"data.train: {wanted or 1} asked, but {len(pools['train'])} usable faces are in a folder train"
        )
    found["train"] = pools["train"][:wanted]
    return {split: sorted(found[split]) for split in SPLITS}


def _first(split: str, pools: Mapping[str, list[str]]) -> str:
    """Where the faces of a split come from."""
    order = {"test": ("test", "val", "train"), "val": ("val", "train")}[split]
    return next((name for name in order if pools[name]), "train")


def read_list(lines: Iterable[str]) -> list[str]:
    """The names of a test list: one a line; empty lines and lines that begin with # do not count."""
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def find_listed(lines: Iterable[str], names: dict[str, str], where: str) -> list[str]:
    """Ids of the images that a test list names: by path inside the source, file name, stem or id.

    Args:
        lines: of `read_list`.
        names: {id: path inside the source}.
        where: the list's path, for the message.

    Raises:
        UserError: a line names no image, or more than one; or the list is empty.
    """
    known = by_name(names)
    found = dict.fromkeys(meant(known, line, where) for line in lines)
    if not found:
        raise UserError(f"{where}: names no image; write one file name a line, or set data.test_list to null")
    return list(found)


def by_name(names: Mapping[str, str]) -> dict[str, set[str]]:
    """{what somebody may call an image: ids}, of {id: path inside the source}."""
    known: dict[str, set[str]] = {}
    for id_, name in names.items():
        path = PurePosixPath(name)
        for key in {id_, name, path.name, path.stem, str(path.with_suffix(""))}:
            known.setdefault(key, set()).add(id_)
    return known


def meant(known: Mapping[str, set[str]], line: str, where: str) -> str:
    """The id that a line of a list means. Raises UserError where it is none, or several."""
    matches = known.get(line.removeprefix("./"), set())
    if not matches:
        raise UserError(f"{where}: {line!r} is no image of the source; correct the line or take it out")
    if len(matches) > 1:
        raise UserError(f"{where}: {line!r} fits {len(matches)} images; write the path inside the source")
    return next(iter(matches))


def _too_few(left: int, wanted: dict[str, int], all_left: bool, given: set[str] | None) -> str:
    beside = "" if given is None else f" beside the {len(given)} of data.test_list"
    parts = [f"data.{name} {wanted[name]}" for name in ("val", "test") if wanted[name]]
    parts.insert(0, "at least one for data.train" if all_left else f"data.train {wanted['train']}")
    key = "data.val or data.test" if all_left else "data.train (null: all that are left)"
    return f"only {left} usable images{beside}, but {' + '.join(parts)} are asked; lower {key} or add images"
