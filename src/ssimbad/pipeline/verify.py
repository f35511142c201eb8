"""Does it repeat? Stages computed once more in scratch, their bytes beside those that are there.

Nothing of the user's is touched: no output, record, cost, kept result, state or entry in the logbook.
"""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, lock, records, runner
from ssimbad.pipeline.table import Instance, by_stage, instances


def run(params: Params, stage: str | None, wildcards: dict[str, str], expensive: bool = False) -> bool:
    """Compare and print, output by output; whether all are equal.

    Args:
        stage: None: all stages, the expensive ones only if so asked.
        wildcards: of the instances meant, such as {"method": "ssimbad"}; those not named may be any.

    Raises:
        ParameterError: there is no such stage or instance.
        UserError: an instance is not fresh, or did not stay so: then there is nothing to compare with. The package that
            runs is not this checkout's.
    """
    code.require_own()
    chosen = _chosen(params, stage, wildcards, expensive)
    with records.hashes() as hashed:
        for instance in chosen:
            _require_fresh(instance, params, hashed, "bring it up to date first")
        count: Counter[bool | None] = Counter(
            equal for instance in chosen for equal in _compared(params, instance, hashed)
        )
    print(f"verify: {count.total()} outputs of {len(chosen)} stage instances computed again: {told(count)}", flush=True)
    if stage is None:
        _name_the_others(params, chosen)
    return not count[False]


def told(count: Counter[bool | None]) -> str:
    return f"{count[True]} equal, {count[False]} different"


def _chosen(params: Params, stage: str | None, wildcards: dict[str, str], expensive: bool) -> list[Instance]:
    found = instances(params)
    if stage is None:
        return [i for i in found if not i.stage.fetched and (expensive or not i.stage.expensive)]
    asked = wildcards.items()
    some = [i for i in found if i.stage.name == stage and asked <= {k: str(v) for k, v in i.wildcards.items()}.items()]
    return some or [runner.find(params, stage, wildcards)]


def _require_fresh(instance: Instance, params: Params, hashed: records.Hashes, remedy: str) -> None:
    if reason := records.stale(instance, params, hashed):
        raise UserError(f"{instance.name}: not fresh ({reason}); {remedy} (`{instance.command}`)")


def _compared(params: Params, instance: Instance, hashed: records.Hashes) -> Iterator[bool]:
    with _room(instance) as folder:
        again = runner.compute_apart(params, instance, folder, hashed)
        _require_fresh(instance, params, hashed, "it changed meanwhile; bring it up to date")
        for path, copy in again.items():
            yield compare(path, hashed.md5(path), records.md5(copy) if copy.exists() else "nothing", "computed again")


@contextmanager
def _room(instance: Instance) -> Iterator[Path]:
    """A folder for the time of a block. Its lock tells `ssimbad clean work` whether who made it still lives."""
    folder = runner.WORK / f"verify-{instance.name}-{uuid.uuid4().hex[:12]}"
    with lock.held(folder, folder.name):
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def compare(path: str, there: str, other: str, what: str) -> bool:
    """Print what one file's md5 says beside another one."""
    equal = there == other
    print(f"equal    {path}  {there}" if equal else f"differs  {path}  there {there}, {what} {other}", flush=True)
    return equal


def _name_the_others(params: Params, chosen: list[Instance]) -> None:
    rest = [i for i in instances(params) if i not in chosen]
    for why, left in (
        ("expensive; name one, or give --expensive", [i for i in rest if not i.stage.fetched]),
        ("checked by its digest when it was fetched", [i for i in rest if i.stage.fetched]),
    ):
        if names := [f"{name} ({len(group)})" for name, group in by_stage(left)]:
            print(f"verify: left out: {', '.join(names)} ({why})", flush=True)
