"""Run one stage instance: skip it when fresh, restore a kept result, or compute, then write the record."""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ssimbad import artifacts, files
from ssimbad.errors import ParameterError, UserError
from ssimbad.params import tree as parameters
from ssimbad.params.tree import Params
from ssimbad.params.view import View
from ssimbad.pipeline import code, dvcfile, lock, records, written
from ssimbad.pipeline.table import STAGES, Instance, instances
from ssimbad.runtime import cores, distributed
from ssimbad.runtime.job import COST, Job
from ssimbad.tracking import live, spool, system

WORK = Path("work")
_KEPT = "kept"
_COMPLETE = "complete.json"  # in it: the digests of the files beside it
_LIBRARIES = "libraries.json"  # with which it was computed
_SHOWN = {".png", ".md", ".csv", ".json"}


def find(params: Params, stage: str, wildcards: dict[str, str]) -> Instance:
    """The instance that a command line names. Raises ParameterError listing what there is."""
    names = [s.name for s in STAGES]
    if stage not in names:
        raise ParameterError(f"stage {stage}: unknown; stages are {', '.join(names)}")
    group = [i for i in instances(params) if i.stage.name == stage]
    asked = {k: str(v) for k, v in wildcards.items()}
    for instance in group:
        if {k: str(v) for k, v in instance.wildcards.items()} == asked:
            return instance
    if not group:
        raise ParameterError(f"stage {stage}: not part of the pipeline with these parameters (params.yaml)")
    examples = "; ".join(i.command.removeprefix("ssimbad ") for i in group[:3])
    raise ParameterError(f"stage {stage}: no instance {asked or 'without wildcards'}; for example: {examples}")


def run(params: Params, instance: Instance, force: bool = False) -> None:
    """Bring one instance up to date, after waiting for another process that does so.

    Of several processes of one job the first does so, and the others help to train.

    Raises:
        UserError: the package that runs is not this checkout's, an input is missing or changed meanwhile, or the stage
            met a user's mistake; without a record of them, outputs count for nothing.
    """
    code.require_own()
    if "DVC_STAGE" in os.environ:
        _require_what_dvc_notes(params, instance)
    own = distributed.from_environment()
    if own.is_leader:
        _bring(params, instance, force, own)
    elif instance.stage.batch:
        _follow(params, instance, own)
    else:
        print(f"{instance.name}: left to the first of {own.world_size} processes", file=sys.stderr, flush=True)
    if "DVC_STAGE" in os.environ:
        _require_what_dvc_notes(params, instance)


def _require_what_dvc_notes(params: Params, instance: Instance) -> None:
    """DVC, which runs this command, will note what dvc.yaml and params.yaml say once it has ended.

    Raises:
        UserError: that is not what the stage works with.
    """
    now = parameters.load()
    dvcfile.require_current(now)
    same = [i for i in instances(now) if i.name == instance.name]
    if not same or records.resolved(same[0], now) != records.resolved(instance, params):
        raise UserError(f"{instance.name}: params.yaml changed while the stage ran; run `dvc repro` again")


def _bring(params: Params, instance: Instance, force: bool, own: distributed.ProcessGroup) -> None:
    """Bring one instance up to date as the only or the first of its processes."""
    with (
        distributed.Rendezvous(own if instance.stage.batch else distributed.ALONE, instance.name) as rendezvous,
        lock.held(WORK / instance.name, instance.name),
        records.hashes() as hashed,
        written.noted(instance.name, instance.outputs.values(), hashed) as put,
    ):
        if not force and records.stale(instance, params, hashed) is None:
            print(f"{instance.name}: up to date", flush=True)
            return
        code.require_unedited()
        given = _Given(params, instance, hashed)
        scratch = WORK / instance.name / records.fingerprint(given.basis)
        if not force and (made_with := _restore(instance, scratch / _KEPT)) is not None:
            print(f"{instance.name}: restored from {scratch / _KEPT}, nothing computed", flush=True)
            with _logged(instance, given.basis, restored="true") as log:
                given.require_unchanged()
                put.require_unchanged()
                _show(instance, log, put.md5s)
        else:
            made_with = records.libraries(instance)
            _compute(params, instance, scratch, given, rendezvous, put)
            if instance.stage.expensive:
                _keep(instance, scratch / _KEPT, made_with, put)
        put.require_unchanged()
        records.write(instance, given.basis, made_with, put.md5s)


def _logged(instance: Instance, basis: records.Basis, **tags: str) -> AbstractContextManager[spool.Spool]:
    """The logbook's entry of one bringing up to date."""
    spool_id = f"{instance.name}-{uuid.uuid4().hex[:12]}"
    tags |= {k: str(v) for k, v in instance.wildcards.items()} | {"stage": instance.stage.name}
    return spool.opened(spool_id, instance.name, tags, basis["params"], basis["inputs"], live.sinks(spool_id))


class _Given:
    """What an instance is computed from, and whether it is still what it was when it was looked at."""

    def __init__(self, params: Params, instance: Instance, hashed: records.Hashes) -> None:
        self._params, self._instance, self._hashed = params, instance, hashed
        # Seen before it is hashed: whatever is put there from now on, and be it taken back, is noticed.
        self._seen = files.Seen([*instance.files, *records.sources(instance)])
        self.basis = records.made_from(instance, params, hashed)
        self.confirmed = False

    def confirm(self) -> None:
        """What was read so far is what was hashed: a state that is saved now belongs to this fingerprint.

        Raises:
            UserError: an input was touched.
        """
        if file := self._seen.touched():
            self._refuse(f"{file} was touched")
        self.confirmed = True

    def require_unchanged(self) -> None:
        """Raises UserError when an input was touched, or anything else has changed."""
        if file := self._seen.touched():
            self._refuse(f"{file} was touched")
        if change := records.changes(self.basis, records.made_from(self._instance, self._params, self._hashed)):
            self._refuse(change)

    def _refuse(self, why: str) -> NoReturn:
        text = "an input changed while the stage ran; run the same command again"
        raise UserError(f"{self._instance.name}: {text} ({why})")


def _compute(
    params: Params,
    instance: Instance,
    scratch: Path,
    given: _Given,
    rendezvous: distributed.Rendezvous,
    put: written.Written,
) -> None:
    """Run the stage; its outputs then belong to what was given.

    Raises:
        UserError: they do not, since something was touched meanwhile.
    """
    before = set(scratch.glob("*"))
    with _logged(instance, given.basis) as log:
        with system.sampled(log), _process_group(params, instance, scratch, given.basis, rendezvous) as group:
            job = job_of(instance, scratch)
            call(params, instance, replace(job, log=log, group=group, confirm=given.confirm))
        missing = sorted(set(instance.outputs.values()) - put.md5s.keys())
        if missing:
            raise RuntimeError(f"{instance.name} ended without writing {missing}")
        try:
            given.require_unchanged()
        except BaseException:
            if not given.confirmed:
                _drop(set(scratch.glob("*")) - before)
            raise
        put.require_unchanged()
        _show(instance, log, put.md5s)


def _drop(states: set[Path]) -> None:
    """Remove what a stage left to go on from, without having asked whether its inputs were still the same."""
    for path in states:
        if path.is_file():
            path.unlink()


def compute_apart(params: Params, instance: Instance, folder: Path, hashed: records.Hashes) -> dict[str, Path]:
    """Compute an instance from its inputs once more, with everything that it writes in `folder`.

    No lock, no record, no entry in the logbook, and no use of a kept result or of a state.

    Returns:
        {output: where it was written instead}.
    """
    basis = records.made_from(instance, params, hashed)
    elsewhere = replace(instance, outputs={name: str(folder / path) for name, path in instance.outputs.items()})
    scratch = folder / "scratch"
    with (
        distributed.Rendezvous(distributed.ALONE, instance.name) as rendezvous,
        _process_group(params, instance, scratch, basis, rendezvous) as group,
    ):
        call(params, elsewhere, replace(job_of(instance, scratch), group=group, costs=folder / "cost"))
    return {path: Path(elsewhere.outputs[name]) for name, path in instance.outputs.items()}


def _process_group(
    params: Params, instance: Instance, scratch: Path, basis: records.Basis, rendezvous: distributed.Rendezvous
) -> AbstractContextManager[distributed.ProcessGroup]:
    if instance.stage.batch is None:
        return nullcontext(distributed.ALONE)
    key = f"methods.{instance.wildcards['method']}.{instance.stage.name}.batch"
    message = {"scratch": str(scratch), "params": basis["params"]}
    batch = instance.stage.batch(params, instance.wildcards)
    return rendezvous.group(instance.command, batch, params.training.threads, key, message)


def _follow(params: Params, instance: Instance, own: distributed.ProcessGroup) -> None:
    """Help the leader to train: no lock, no record, no output."""
    with distributed.follow(own, instance.name) as received:
        if received is None:
            return
        message, group = received
        if message["params"] != records.resolved(instance, params):
            raise UserError("params.yaml changed while the processes of this training started; run the command again")
        call(params, instance, replace(job_of(instance, Path(message["scratch"])), group=group))


def job_of(instance: Instance, scratch: Path) -> Job:
    """What a stage is told of the instance that it computes, with the cores of this process.

    Raises:
        ParameterError: the environment names no number of cores.
    """
    w = instance.wildcards
    return Job(
        stage=instance.stage.name,
        scratch=scratch,
        threads=cores.granted(),
        method=w.get("method", ""),
        of=w.get("stage", ""),
        seed=w.get("seed"),
        setting=w.get("setting", ""),
        shard=w.get("shard"),
    )


def call(params: Params, instance: Instance, job: Job) -> None:
    """Call the stage's function, and nothing else: no lock, no record, no logbook. It sees the declared parameters."""
    module, function = instance.stage.run.split(":")
    inputs = {k: Path(v) if isinstance(v, str) else [Path(f) for f in v] for k, v in instance.inputs.items()}
    outputs = {k: Path(v) for k, v in instance.outputs.items()}
    getattr(importlib.import_module(module), function)(View(params, instance.params), inputs, outputs, job)


def _show(instance: Instance, log: spool.Spool, md5s: dict[str, str]) -> None:
    """Small results into the logbook, of weights only where they are and their digest; of every output its md5."""
    log.tags(**{f"output_md5/{path}": md5 for path, md5 in md5s.items()})
    for path in instance.outputs.values():
        if path.endswith(".safetensors"):
            log.tags(model_path=path, model_sha256=artifacts.sha256(Path(path)))
        elif path.startswith("reports/") and Path(path).suffix in _SHOWN:
            log.artifact(path, Path(path).parent.name)
        elif path.endswith(".csv") and path.startswith("models/"):
            log.artifact(path, "curves")


def _keep(instance: Instance, kept: Path, made_with: dict[str, str], put: written.Written) -> None:
    """Keep the finished result; only then is the state it was resumed from of no more use.

    Raises:
        UserError: what lies there is not what the stage has written.
    """
    complete = kept / _COMPLETE
    complete.unlink(missing_ok=True)
    for name, path in instance.outputs.items():
        artifacts.copy(Path(path), kept / name)
        put.require(path, records.md5(kept / name))
    cost = _cost(instance)
    if cost.exists():
        artifacts.copy(cost, kept / cost.name)
    artifacts.write_json(kept / _LIBRARIES, made_with)
    artifacts.write_json(complete, {name: artifacts.sha256(kept / name) for name in instance.outputs})
    for path in [*kept.parent.glob("state-*"), *kept.parent.glob(".state-*")]:
        path.unlink()


def _restore(instance: Instance, kept: Path) -> dict[str, str] | None:
    """Bring a kept result back, if there is a whole one: the libraries that made it, {} where they are not known."""
    if not (instance.stage.expensive and (kept / _COMPLETE).exists()):
        return None
    try:
        digests = artifacts.read_json(kept / _COMPLETE)
        for name, path in instance.outputs.items():
            artifacts.copy(kept / name, Path(path), expected=str(digests[name]))
    except (UserError, FileNotFoundError, LookupError, TypeError):
        print(f"{kept}: the kept result is damaged; {instance.name} is computed again", file=sys.stderr, flush=True)
        return None
    cost = _cost(instance)
    if (kept / cost.name).exists():
        artifacts.copy(kept / cost.name, cost)
    else:
        cost.unlink(missing_ok=True)  # of another result
    made_with = kept / _LIBRARIES
    return artifacts.read_json(made_with) if made_with.exists() else {}


def _cost(instance: Instance) -> Path:
    """What it cost: no output, but of this very result."""
    return COST / f"{instance.name}.json"
