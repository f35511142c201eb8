"""After a run, on the head node: tell DVC what is fresh, and bring the logbook up to date."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ssimbad.errors import UserError, masked
from ssimbad.params import Params
from ssimbad.pipeline import records

if TYPE_CHECKING:
    from dvc.repo import Repo


def run(params: Params, status: str | None = None) -> None:
    """Commit the fresh instances to DVC and import the event spools.

    Args:
        status: how the pipeline execution of this process ended (FINISHED or FAILED), if it did.

    Raises:
        UserError: DVC refused; the message tells what to do.
    """
    import_spools(status)
    fresh = [name for name, reason in records.survey(params).items() if reason is None]
    if fresh and Path(".dvc").is_dir() and Path("dvc.yaml").exists():
        count = _commit(fresh)
        if count is not None:
            print(f"sync: {len(fresh)} fresh stages, {count} of them new -> dvc.lock", flush=True)


def _commit(fresh: list[str]) -> int | None:
    """Bring `dvc.lock` and the cache up to date with the fresh instances; returns how many were not.

    None where there is no git repository, as in a downloaded archive: DVC refuses to work there unless told to.

    Forced commits are safe: the record proves that these outputs came from exactly these inputs and parameters.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from dvc.scm import SCMError

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # no bars, no hints; errors come as exceptions
    try:
        with Repo() as repo, lock_repo(repo):
            locked = _locked()
            with records.hashes() as hashed:
                new = {name for name in fresh if not _committed(repo, hashed, name, locked.get(name))}
            # As `dvc commit --force` does it, but for several targets in one pass: by itself each takes seconds.
            stages = [stage for stage in repo.index.stages if stage.addressing in new]
            for stage in stages:
                stage.save()
                stage.commit()
            if stages:
                stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
            if unknown := sorted(new - {stage.addressing for stage in stages}):
                names = f"{unknown[0]} and {len(unknown) - 1} more" if unknown[1:] else unknown[0]
                raise UserError(f"dvc.yaml has no stage {names}; run `ssimbad dvc-yaml` and then `ssimbad sync`")
    except SCMError as error:
        remedy = "`git init`, or `dvc config --local core.no_scm true`, then `ssimbad sync`"
        print(f"ssimbad: nothing told to DVC ({masked(str(error))}); {remedy}", file=sys.stderr)
        return None
    except (DvcException, OSError) as error:
        raise UserError(f"dvc commit failed ({error}); mend that and run `ssimbad sync`") from None
    return len(stages)


def _locked() -> dict[str, Any]:
    path = Path("dvc.lock")
    return (yaml.safe_load(path.read_text()) or {}).get("stages", {}) if path.exists() else {}


def _committed(repo: Repo, hashed: records.Hashes, name: str, entry: dict[str, Any] | None) -> bool:
    """Whether DVC has this very result: the lock has its record, which says all else, and the cache has the bytes."""
    if entry is None:
        return False
    outs = {out["path"]: out["md5"] for out in entry["outs"]}
    record = f"records/{name}.json"
    return outs.get(record) == hashed.md5(record) and all(repo.cache.local.exists(md5) for md5 in outs.values())


def import_spools(status: str | None = None) -> None:
    """Bring the logbook up to date; a failure is told in one line and stops nothing."""
    try:
        from ssimbad.tracking import spool, store

        if not status and not any(spool.ROOT.glob("*.jsonl")):
            return
        count = store.import_all(os.environ.get("SSIMBAD_PIPELINE"), status)
        print(f"sync: {count} runs -> {masked(store.uri())}", flush=True)
    except UserError as error:  # the logbook must never stop the work
        print(f"ssimbad: logbook not updated: {error}", file=sys.stderr)
