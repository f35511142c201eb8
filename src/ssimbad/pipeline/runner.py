"""Run one stage instance: skip it when fresh, restore a kept result, or compute, then write the record."""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssimbad import artifacts, team
from ssimbad.errors import ParameterError, UserError
from ssimbad.job import COST, Job
from ssimbad.params import Params, View
from ssimbad.pipeline import lock, records
from ssimbad.pipeline.table import STAGES, Instance, instances
from ssimbad.tracking import live, spool, system

WORK = Path("work")
_KEPT = "kept"
_COMPLETE = "complete.json"  # in it: the digests of the files beside it
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


def threads() -> int:
    """Cores granted to this process: what the engine says, else all."""
    return int(os.environ.get("SSIMBAD_THREADS") or os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def run(params: Params, instance: Instance, force: bool = False) -> None:
    """Bring one instance up to date, after waiting for another process that does so.

    Of several processes of one job the first does so, and the others help to train.

    Raises:
        UserError: an input is missing, or the stage met a user's mistake; existing outputs are left as they were.
    """
    here = team.here()
    if not here.leads:
        if instance.stage.batch:
            _follow(params, instance, here)
        return
    with (
        team.Call(here if instance.stage.batch else team.ALONE, instance.name) as call,
        lock.held(WORK / instance.name, instance.name),
        records.hashes() as hashed,
    ):
        if not force and records.stale(instance, params, hashed) is None:
            print(f"{instance.name}: up to date", flush=True)
            return
        basis = records.made_from(instance, params, hashed)
        scratch = WORK / instance.name / records.fingerprint(basis)
        if not force and _restore(instance, scratch / _KEPT):
            print(f"{instance.name}: restored from {scratch / _KEPT}, nothing computed", flush=True)
            with _logged(instance, basis, restored="true") as log:
                _show(instance, log, hashed)
        else:
            _compute(params, instance, scratch, basis, call, hashed)
            if instance.stage.expensive:
                _keep(instance, scratch / _KEPT)
        if records.made_from(instance, params, hashed) != basis:
            raise UserError(f"{instance.name}: an input changed while the stage ran; run the same command again")
        records.write(instance, basis, hashed)


def _logged(instance: Instance, basis: dict[str, Any], **tags: str) -> AbstractContextManager[spool.Spool]:
    """The logbook's entry of one bringing up to date."""
    spool_id = f"{instance.name}-{uuid.uuid4().hex[:12]}"
    tags |= {k: str(v) for k, v in instance.wildcards.items()} | {"stage": instance.stage.name}
    return spool.opened(spool_id, instance.name, tags, basis["params"], basis["inputs"], live.sinks(spool_id))


def _compute(
    params: Params,
    instance: Instance,
    scratch: Path,
    basis: dict[str, Any],
    call: team.Call,
    hashed: records.Hashes,
) -> None:
    with (
        _logged(instance, basis) as log,
        system.sampled(log),
        _team(params, instance, scratch, basis, call) as together,
    ):
        _stage(params, instance, replace(_job(instance, scratch), log=log, team=together))
        missing = [path for path in instance.outputs.values() if not Path(path).exists()]
        if missing:
            raise RuntimeError(f"{instance.name} ended without writing {missing}")
        _show(instance, log, hashed)


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
        team.Call(team.ALONE, instance.name) as call,
        _team(params, instance, scratch, basis, call) as together,
    ):
        _stage(params, elsewhere, replace(_job(instance, scratch), team=together, costs=folder / "cost"))
    return {path: Path(elsewhere.outputs[name]) for name, path in instance.outputs.items()}


def _team(
    params: Params, instance: Instance, scratch: Path, basis: dict[str, Any], call: team.Call
) -> AbstractContextManager[team.Team]:
    if instance.stage.batch is None:
        return nullcontext(team.ALONE)
    key = f"methods.{instance.wildcards['method']}.{instance.stage.name}.batch"
    word = {"scratch": str(scratch), "params": basis["params"]}
    batch = instance.stage.batch(params, instance.wildcards)
    return call.train(instance.command, batch, params.training.threads, key, word)


def _follow(params: Params, instance: Instance, here: team.Team) -> None:
    """Help the leader to train: no lock, no record, no output."""
    with team.followed(here, instance.name) as told:
        if told is None:
            return
        word, together = told
        if word["params"] != records.resolved(instance, params):
            raise UserError("params.yaml changed while the processes of this training started; run the command again")
        _stage(params, instance, replace(_job(instance, Path(word["scratch"])), team=together))


def _job(instance: Instance, scratch: Path) -> Job:
    w = instance.wildcards
    return Job(
        stage=instance.stage.name,
        scratch=scratch,
        threads=threads(),
        method=w.get("method"),
        of=w.get("stage"),
        seed=w.get("seed"),
        setting=w.get("setting"),
    )


def _stage(params: Params, instance: Instance, job: Job) -> None:
    module, function = instance.stage.run.split(":")
    inputs = {k: Path(v) if isinstance(v, str) else [Path(f) for f in v] for k, v in instance.inputs.items()}
    outputs = {k: Path(v) for k, v in instance.outputs.items()}
    getattr(importlib.import_module(module), function)(View(params, instance.params), inputs, outputs, job)


def _show(instance: Instance, log: spool.Spool, hashed: records.Hashes) -> None:
    """Small results into the logbook, of weights only where they are and their digest; of every output its md5."""
    log.tags(**{f"output_md5/{path}": hashed.md5(path) for path in instance.outputs.values()})
    for path in instance.outputs.values():
        if path.endswith(".safetensors"):
            log.tags(model_path=path, model_sha256=artifacts.sha256(Path(path)))
        elif path.startswith("reports/") and Path(path).suffix in _SHOWN:
            log.artifact(path, Path(path).parent.name)
        elif path.endswith(".csv") and path.startswith("models/"):
            log.artifact(path, "curves")


def _keep(instance: Instance, kept: Path) -> None:
    """Keep the finished result; only then is the state it was resumed from of no more use."""
    complete = kept / _COMPLETE
    complete.unlink(missing_ok=True)
    for name, path in instance.outputs.items():
        artifacts.copy(Path(path), kept / name)
    cost = _cost(instance)
    if cost.exists():
        artifacts.copy(cost, kept / cost.name)
    artifacts.write_json(complete, {name: artifacts.sha256(kept / name) for name in instance.outputs})
    for path in kept.parent.iterdir():
        if path != kept:
            path.unlink()


def _restore(instance: Instance, kept: Path) -> bool:
    """Bring a kept result back, if there is a whole one."""
    if not (instance.stage.expensive and (kept / _COMPLETE).exists()):
        return False
    if not _whole(instance, kept):
        print(f"{kept}: the kept result is damaged; {instance.name} is computed again", file=sys.stderr, flush=True)
        return False
    for name, path in instance.outputs.items():
        artifacts.copy(kept / name, Path(path))
    cost = _cost(instance)
    if (kept / cost.name).exists():
        artifacts.copy(kept / cost.name, cost)
    else:
        cost.unlink(missing_ok=True)  # of another result
    return True


def _whole(instance: Instance, kept: Path) -> bool:
    try:
        digests = artifacts.read_json(kept / _COMPLETE)
        return digests == {name: artifacts.sha256(kept / name) for name in instance.outputs}
    except (UserError, FileNotFoundError):
        return False


def _cost(instance: Instance) -> Path:
    """What it cost: no output, but of this very result."""
    return COST / f"{instance.name}.json"
