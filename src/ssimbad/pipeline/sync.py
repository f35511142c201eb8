"""After a run, on the head node: tell DVC what is fresh, and bring the logbook up to date."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ssimbad import artifacts, strict_yaml
from ssimbad.errors import UserError, masked, there
from ssimbad.files import unlike
from ssimbad.params import tree as parameters
from ssimbad.params.tree import Params
from ssimbad.pipeline import code, dvcfile, records
from ssimbad.pipeline.table import Instance, instances

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


def run(params: Params, status: str | None = None) -> None:
    """Commit the fresh instances to DVC and import the event spools.

    Args:
        status: how the pipeline execution of this process ended (FINISHED or FAILED), if it did.

    Raises:
        UserError: the package that runs is not this checkout's, dvc.yaml is not of these parameters, or DVC refused;
            the message tells what to do.
    """
    import_spools(status)
    code.require_own()
    if not Path(".dvc").is_dir():
        return
    if reason := _no_repository():  # then nobody asks what dvc.yaml says
        left = sum(reason is None for reason in records.survey(params).values())
        remedy = "`git init`, or `dvc config --local core.no_scm true`, then `ssimbad sync`"
        print(f"ssimbad: nothing told to DVC, which lacks {left} fresh stages ({reason}); {remedy}", file=sys.stderr)
        return
    fresh = _fresh(params)
    count = _commit(fresh)
    if fresh:
        print(f"sync: {len(fresh)} fresh stages, {count} of them new -> dvc.lock", flush=True)


def _no_repository() -> str | None:
    """Why DVC refuses to work here, as it does in a downloaded archive unless told to; None: it does not."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        Repo().close()
    except SCMError as error:
        return masked(str(error))
    except (DvcException, OSError):  # which is told where it is met again
        pass
    return None


def _fresh(params: Params) -> dict[str, Instance]:
    """The fresh instances by name. Raises UserError when dvc.yaml does not have them as the stage table does."""
    dvcfile.require_current(params)
    reasons = records.survey(params)
    return {i.name: i for i in instances(params) if reasons[i.name] is None}


def _commit(fresh: dict[str, Instance]) -> int:
    """Bring `dvc.lock` and the cache up to date with the fresh instances; returns how many were not.

    As `dvc commit --force` does it, but for several targets in one pass: by itself each takes seconds. For that DVC
    reads parameters and files anew; what it has read is written only where it is what the instance's record says.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # no bars, no hints; errors come as exceptions
    try:
        with Repo() as repo, lock_repo(repo):
            _mend(repo)
            stages = {s.addressing: s for s in repo.index.stages if s.addressing in fresh}
            values = _values()
            new = {n: s for n, s in stages.items() if not _committed(repo, s, fresh[n], values)}
            for stage in new.values():
                stage.save(run_cache=False)
            still, values = (_fresh(parameters.load()), _values()) if new else ({}, {})
            odd = {n: what for n, s in new.items() if n in still and (what := _disagreement(s, still[n], values))}
            good = {n: s for n, s in new.items() if n in still and n not in odd}
            if good:
                for name, stage in good.items():
                    _forget_damaged(repo, stage, fresh[name])
                    _cache(repo, stage)
                artifacts.settle(Path(repo.cache.local.path))
                _write_lock(list(good.values()))
    except (DvcException, OSError) as error:
        raise UserError(f"dvc commit failed ({error}); mend that and run `ssimbad sync`") from None
    if left := sorted(new.keys() - still.keys()):
        print(f"sync: changed meanwhile and left out: {', '.join(left)}", flush=True)
    if odd:
        name, what = next(iter(odd.items()))
        raise UserError(f"{name}: DVC read {what} otherwise than its record; `touch {what}`, then `ssimbad sync` again")
    return len(good)


def _mend(repo: Repo) -> None:
    """Mend what DVC overwrites in place, and a kill or a power cut may leave in part: it would refuse all work.

    A damaged `dvc.lock` is copied aside, and the last committed one takes its place. The list of the running stages,
    when it cannot be read, keeps nobody off.

    Raises:
        UserError: `dvc.lock` has conflicts of a merge; they are the user's.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA
    from dvc.utils.strictyaml import validate

    lock, running = Path("dvc.lock").resolve(), Path(there(repo.tmp_dir)) / RWLOCK_FILE
    if lock.is_file() and b"\n<<<<<<< " in b"\n" + lock.read_bytes():
        raise UserError("dvc.lock: conflicts of a merge are left in it; settle them, then `ssimbad sync`")
    if _damaged(lock, _whole_lock):
        aside = unlike("dvc.lock.damaged", [path.name for path in Path().iterdir()])
        shutil.copyfile(lock, aside)
        _committed_lock(lock)
        print(f"sync: dvc.lock was damaged; a copy is {aside}", flush=True)
    by_link = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(running.with_name(RWLOCK_LOCK)), tmp_dir=str(repo.tmp_dir), hardlink_lock=by_link):
        if _damaged(running, lambda path: validate(json.loads(path.read_bytes()), SCHEMA)):
            running.unlink()


def _whole_lock(path: Path) -> None:
    """Raises what tells damage; a lock of another version is DVC's to judge."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml
    from dvc.utils.strictyaml import validate

    found = load_yaml(str(path))
    if not isinstance(found, dict) or found.get("schema", "2.0") == "2.0":
        validate(found, COMPILED_LOCKFILE_SCHEMA)


def _damaged(path: Path, read: Callable[[Path], object]) -> bool:
    """Whether a file that is there cannot be read as what it should be."""
    from dvc.utils.serialize import ParseError
    from dvc.utils.strictyaml import YAMLValidationError

    try:
        if path.is_file():
            read(path)
    except (ParseError, YAMLValidationError, *strict_yaml.FAULTS):
        return True
    return False


def _committed_lock(lock: Path) -> None:
    """Put back `dvc.lock` as git has it, where it does and that one is whole; else there is none."""
    last = subprocess.run(("git", "show", "HEAD:./dvc.lock"), capture_output=True)
    if last.returncode == 0:
        artifacts.write_bytes(lock, last.stdout)
    if last.returncode or _damaged(lock, _whole_lock):
        lock.unlink()


def _forget_damaged(repo: Repo, stage: PipelineStage, instance: Instance) -> None:
    """Delete from DVC's cache what has the name of these outputs, their record or their run, and not the bytes.

    A power cut or a kill leaves such; DVC asks for names alone, and would keep it.
    """
    for digest in {*records.read(instance)["outputs"].values(), records.md5(Path(instance.record))}:
        path = Path(repo.cache.local.oid_to_path(digest))
        if path.is_file() and records.md5(path) != digest:
            path.unlink()
    path, entry = _run(repo, stage)
    if _damaged(path, lambda path: _same(path, entry)):
        path.unlink()


def _run(repo: Repo, stage: PipelineStage) -> tuple[Path, dict]:
    """Where DVC notes a run, and what."""
    from dvc.stage.serialize import to_single_stage_lockfile
    from dvc.utils import dict_sha256

    entry, uncounted = to_single_stage_lockfile(stage), ["size", "nfiles"]
    asked = {**entry, "outs": [out["path"] for out in entry.get("outs", [])]}
    key, value = dict_sha256(asked, exclude=uncounted), dict_sha256(entry, exclude=uncounted)
    return Path(repo.stage_cache.cache_dir, key[:2], key, value), entry


def _same(path: Path, entry: dict) -> None:
    from dvc.utils.serialize import load_yaml

    if load_yaml(str(path)) != entry:
        raise ValueError(f"{path}: another run than its name says")


def _cache(repo: Repo, stage: PipelineStage) -> None:
    """Copy the outputs of a stage into DVC's cache, and note the run there.

    DVC then puts a copy of its own, which no disk has yet, in the place of each output: a power cut would take both. So
    outputs stay what they are, unless DVC's cache is told to share bytes with them by links.
    """
    from dvc.output import Output

    told = Output.commit

    def in_place(self: Output, filter_info: str | None = None, relink: bool = True) -> None:
        told(self, filter_info=filter_info, relink=False)

    if not {"hardlink", "symlink"} & set(repo.cache.local.cache_types):
        Output.commit = in_place
    try:
        repo.stage_cache.save(stage)
        stage.commit()
    finally:
        Output.commit = told
    for out in stage.outs:  # so that `dvc checkout` may remove them where a commit has none
        repo.state.save_link(out.fs_path, out.fs)


def _write_lock(stages: list[PipelineStage]) -> None:
    """Write the stages into dvc.lock as DVC does it, but to a new file that takes its place when it is whole."""
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import modify_yaml

    path = Path("dvc.lock").resolve()  # of a link, what it leads to
    with artifacts.replacing(path) as temporary:
        if path.exists():
            shutil.copy(path, temporary)  # with its permissions
        with modify_yaml(str(temporary)) as lock:
            lock.setdefault("schema", "2.0")
            entries = lock.setdefault("stages", {})
            for stage in stages:
                entries.update(to_lockfile(stage))


def _values() -> dict[str, object]:
    """{file: tree} of the files with parameters, as DVC reads them."""
    from dvc.utils.serialize import load_yaml

    return {file: load_yaml(file) for file in ("params.yaml", str(records.VERSIONS))}


def _committed(repo: Repo, stage: PipelineStage, instance: Instance, values: dict[str, object]) -> bool:
    """Whether DVC has this very result: its lock says what the record says, and its cache has the bytes."""
    if stage.cmd_changed or _disagreement(stage, instance, values):
        return False
    return all(repo.cache.local.exists(there(out.hash_info).value) for out in stage.outs)


def _disagreement(stage: PipelineStage, instance: Instance, values: dict[str, object]) -> str | None:
    """The first file that DVC knows otherwise than the instance's record or, of parameters, than it is now.

    What DVC knows is its lock's entry or, once saved, what will be written there. Folders it digests in its own way.
    """
    from dvc.dependency.param import ParamsDependency

    record = records.read(instance)
    expected = record["inputs"] | record.get("code", {}) | record["outputs"]
    expected[instance.record] = hashlib.md5(Path(instance.record).read_bytes()).hexdigest()
    for item in [*stage.deps, *stage.outs]:
        digest = there(item.hash_info)
        known = digest.value
        if isinstance(item, ParamsDependency):
            same = known == {key: _at(values[item.def_path], key) for key in item.params}
        else:
            same = digest.isdir or known == expected.get(item.def_path)
        if not (known and same):
            return item.def_path
    return None


def _at(tree: object, key: str) -> object:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def import_spools(status: str | None = None) -> None:
    """Bring the logbook up to date; a failure is told in one line and stops nothing."""
    try:
        from ssimbad.tracking import spool, store

        store.require_there(store.uri())
        if not status and not any(spool.ROOT.glob("*.jsonl")):
            return
        count = store.import_all(os.environ.get("SSIMBAD_PIPELINE"), status)
        print(f"sync: {count} runs -> {masked(store.uri())}", flush=True)
    except UserError as error:  # the logbook must never stop the work
        print(f"ssimbad: logbook not updated: {error}", file=sys.stderr)
