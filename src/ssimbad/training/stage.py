"""Stages pretrain and finetune: faces and sketches (and phi) → weights, how they were made, and the training curve."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssimbad import artifacts
from ssimbad.colorize import chunks
from ssimbad.faces import manifest
from ssimbad.features import registry as features
from ssimbad.methods import registry
from ssimbad.methods.contract import Plan, Player, Setup, players
from ssimbad.metrics.psnr import psnr
from ssimbad.pairing import resize, tps
from ssimbad.params.methods import Train
from ssimbad.params.view import View
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job
from ssimbad.seeding import derive
from ssimbad.training import checkpoints, loop
from ssimbad.training.feed import Feed

Paths = dict[str, Path]


def run(params: View, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Train one method's stage and write the weights with which it colours."""
    device = job.team.device or devices.pick()
    method = params.methods[job.method]
    train: Train = method[job.stage]
    setup = _setup(params, method, inputs)
    # Not by the method's name: rows of one seed share first weights, order and noise, and so compare in pairs.
    seed = derive(job.seed, job.stage)
    model, plan = _model(setup, train, inputs, seed, device, params)
    law = tps.Law(params.references.low, params.references.high, params.references.shift, params.references.decimals)
    feed = Feed(
        artifacts.read_array(inputs["train"]),
        artifacts.read_array(inputs["train_sketches"]),
        params.data.size,
        law,
        seed,
        device,
        params.training.channels_last,
    )
    looking = features.among(inputs, device)
    parties = _players(setup, model, plan, looking, seed)
    validate = _validator(params, inputs, setup, train, law, job, device) if train.validate_images else None
    going = loop.Run(model, parties, train, params.training, job.name)
    seconds, images = loop.fit(going, feed, validate, seed, job, key=job.scratch.name)
    if not job.team.leads:
        return
    remarks = registry.remarks(setup.kind, setup.config, plan.options, looking is not None)
    _write(going, setup, train, params.data.size, remarks, outputs, job)
    parameters = sum(p.numel() for p in model.parameters())
    _note_cost(job, seconds, images, parameters, devices.name(device))
    job.say(f"{job.name}: {train.images} images -> {outputs['weights']}")


def _players(setup: Setup, model: nn.Module, plan: Plan, looking: Any, seed: int) -> list[Player]:
    """The model and, where the method has them, its opponents: freshly initialised, where the model is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "opponents"))
        parties = players(registry.module(setup.kind), model, plan, looking)
    device = next(model.parameters()).device
    for player in parties:
        player.network.to(device)
    return parties


def _setup(params: View, method: View, inputs: Paths) -> Setup:
    config = registry.module(method.kind).Config.model_validate(method.config)
    phi = getattr(config, "phi", None)
    if phi == "selected":
        phi = artifacts.read_json(inputs["phi_star"])["phi"]
    return Setup(method.kind, config, params.network, params.noise, params.schedule.saturation, phi)


def _model(
    setup: Setup, train: Train, inputs: Paths, seed: int, device: torch.device, params: View
) -> tuple[nn.Module, Plan]:
    module = registry.module(setup.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        model = module.build(setup)
    if "start" in inputs:
        weights, _ = checkpoints.read_tensors(inputs["start"])
        checkpoints.load_into(model, weights, inputs["start"])
    memory = torch.channels_last if params.training.channels_last else torch.contiguous_format
    options = registry.options(setup.kind, train.objective, train.options)
    return model.to(device, memory_format=memory), Plan(train.objective, options, train.sampler)


def _validator(
    params: View, inputs: Paths, setup: Setup, train: Train, law: tps.Law, job: Job, device: torch.device
) -> Any:
    """A function weights → mean PSNR of the validation faces, coloured from their own warps by the row's sampler."""
    ids = manifest.ids(inputs["manifest"], "val")
    faces = manifest.images(inputs["val"], ids)
    # In float64, as the stage references warps, and through bytes: what the test set will look like.
    warped = tps.warp(resize.to_unit(faces).double(), tps.draw(params.references.seed, ids, law))
    references = resize.to_unit(resize.area(resize.to_bytes(warped), params.data.size))
    sketches = resize.to_unit(resize.area(artifacts.read_array(inputs["val_sketches"]), params.data.size))
    target = resize.area(faces, params.data.size)
    module = registry.module(setup.kind)
    judge = module.build(setup).to(device)

    # An equal number of rows on each device, the last ones repeated.
    share = -(-len(ids) // job.team.world)
    mine = [min(i, len(ids) - 1) for i in range(job.team.rank * share, (job.team.rank + 1) * share)]

    def validate(weights: dict[str, Tensor]) -> float:
        judge.load_state_dict(weights)
        images = chunks.colour(
            partial(module.colorize, judge), sketches[mine], references[mine], [ids[i] for i in mine], train.sampler,
            chunk=train.batch, seed=params.references.seed, device=device, threads=params.training.threads,
            precision=params.training.precision, channels_last=params.training.channels_last,
        )  # fmt: skip
        values = job.team.gathered(torch.from_numpy(psnr(images, target[mine])))
        return float(values.numpy()[: len(ids)].mean())

    return validate


def _write(
    going: loop.Run, setup: Setup, train: Train, size: int, remarks: list[str], outputs: Paths, job: Job
) -> None:
    weights = going.best or going.ema
    checkpoints.write_weights(outputs["weights"], weights)
    made = {
        "setup": setup.to_json(),
        "method": job.method,
        "stage": job.stage,
        "seed": job.seed,
        "train": train.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in going.model.parameters()),
        "images": going.seen,
        "remarks": remarks,
        "size": size,
        "validation_psnr": going.best_psnr if going.best else None,
    }
    artifacts.write_json(outputs["made"], made)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("images", "split", "name", "value"))
    writer.writerows((seen, split, name, f"{value:.6g}") for seen, split, name, value in going.rows)
    artifacts.write_text(outputs["curve"], text.getvalue())


def _note_cost(job: Job, seconds: float, images: int, parameters: int, device: str) -> None:
    """Times are no outputs: they go to an undeclared file that the cost table reads."""
    if images:
        job.note_cost(
            phase="train",
            images=images,
            seconds=seconds,
            images_per_second=images / seconds,
            parameters=parameters,
            device=device,
            devices=job.team.world,
        )
