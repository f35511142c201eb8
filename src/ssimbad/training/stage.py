"""The stages that train: faces and what belongs to them → weights, how they were made, and the training curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssimbad import artifacts
from ssimbad.colorize import chunks, load
from ssimbad.errors import there
from ssimbad.faces import manifest
from ssimbad.features import registry as features
from ssimbad.methods import registry
from ssimbad.methods.contract import MASKS, PHI, Batch, Features, Method, Plan, Player, Setup, Shared
from ssimbad.metrics.psnr import psnr
from ssimbad.pairing import resize, tps
from ssimbad.params.methods import Method as Block
from ssimbad.params.methods import Train
from ssimbad.params.tree import Params
from ssimbad.runtime import devices
from ssimbad.runtime.job import Job
from ssimbad.seeding import derive
from ssimbad.training import checkpoints, loop, pictures
from ssimbad.training.feed import Feed

Paths = dict[str, Path]


def run(params: Params, inputs: Paths, outputs: Paths, job: Job) -> None:
    """Train one slot of a method and write its weights."""
    device = job.group.device or devices.pick()
    block = params.methods[job.method]
    train: Train = getattr(block, job.stage)
    method = registry.get(block.kind)
    setup = _setup(params, block, method, inputs, job.stage)
    # Not by the method's name: rows of one seed share first weights, order and noise, and so compare in pairs.
    seed = derive(job.seed, job.stage)
    model = _model(setup, inputs, seed, device, params)
    plan = Plan(train.objective, train.options)
    warp_config = params.references if "reference" in method.inputs else None
    feed = Feed(
        artifacts.read_array(inputs["train"]),
        artifacts.read_array(inputs["train_sketches"]) if "train_sketches" in inputs else None,
        params.data.size,
        warp_config,
        seed,
        device,
        params.training.channels_last,
        "face" in method.inputs,
        artifacts.read_array(inputs["train_masks"]) if "train_masks" in inputs else None,
        [name for name in MASKS if name in method.inputs],
        artifacts.read_array(inputs["companions"]) if "companions" in inputs else None,
        params.references.companions if "companions" in inputs else 0.0,
    )
    feature_network = features.among(inputs, device)
    trained = _players(method, model, plan, feature_network, seed)
    validate, picture = None, None
    if train.validation:
        validate, picture = _validator(params, inputs, setup, train, job, device)
    if params.training.compile:
        if device.type == "cuda":
            devices.compiled(model)
        else:
            job.say(f"{job.name}: training.compile is for GPUs and left out on this {device.type.upper()}")
    state = loop.TrainState(model, trained, train, params.training, job.name, load.parts(setup))
    seconds, images = loop.fit(state, feed, validate, seed, job, job.scratch.name, picture)
    if not job.group.is_leader:
        return
    remarks = method.remarks(setup.config, plan.options, feature_network is not None)
    # Where the parameters do not say it, the weights do.
    measured = {"precision": state.precision} if params.training.precision == "auto" else {}
    if train.validation and method.measures:
        measured["measures"] = _measures(params, inputs, setup, state, device)
    _write(state, setup, train, remarks, measured, outputs, job)
    _note_cost(job, seconds, images, _count(model), device, state.precision)
    job.say(f"{job.name}: {train.images} images -> {outputs['weights']}")


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _players(method: Method, model: nn.Module, plan: Plan, feature_network: Features | None, seed: int) -> list[Player]:
    """The model and, where the method has them, its opponents: freshly initialised, where the model is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "opponents"))
        trained = method.parties(model, plan, feature_network)
    device = next(model.parameters()).device
    for player in trained:
        player.network.to(device)
    return trained


def _setup(params: Params, block: Block, method: Method, inputs: Paths, slot: str) -> Setup:
    shared = Shared(**{key: attrgetter(key)(params) for key in method.reads})
    needed = {
        name: artifacts.read_json(inputs["phi_star"])["phi"]
        if what == PHI
        else load.part(inputs[name], inputs[f"{name}_made"])
        for name, what in method.needs(block.config, slot).items()
    }
    return Setup(block.kind, block.config, params.data.size, shared, needed)


def _model(setup: Setup, inputs: Paths, seed: int, device: torch.device, params: Params) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        model = registry.built(setup)
    if "start" in inputs:
        weights, _ = checkpoints.read_tensors(inputs["start"])
        checkpoints.load_into(model, weights, inputs["start"], load.parts(setup))
    load.fill(model, setup)
    return devices.placed(model, device, params.training.channels_last)


def _validation_faces(params: Params, inputs: Paths, method: Method) -> tuple[list[str], dict[str, Tensor], np.ndarray]:
    """The ids, what the method is given of these faces, and the faces, (N, S, S, 3) uint8."""
    ids = manifest.ids(inputs["manifest"], "val")
    faces, size = manifest.images(inputs["val"], ids), params.data.size
    given: dict[str, Tensor] = {}
    if "reference" in method.inputs:
        # In float64, as the stage references warps, and through bytes: what the test set will look like.
        warped = tps.warp(resize.to_unit(faces).double(), tps.draw(params.references.seed, ids, params.references))
        given["reference"] = resize.to_unit(resize.area(resize.to_bytes(warped), size))
    if "val_sketches" in inputs:
        given["sketch"] = resize.to_unit(resize.area(artifacts.read_array(inputs["val_sketches"]), size))
    if "mask" in method.inputs:
        given["mask"] = resize.to_share(resize.area(artifacts.read_array(inputs["val_masks"]), size))
    if "reference_mask" in method.inputs:
        masks = artifacts.read_array(inputs["val_masks"])
        warped = tps.warp(resize.to_unit(masks).double(), tps.draw(params.references.seed, ids, params.references))
        given["reference_mask"] = resize.to_share(resize.area(resize.to_bytes(warped), size))
    target = resize.area(faces, size)
    if "face" in method.inputs:
        given["face"] = resize.to_unit(target)
    return ids, given, target


def _validator(
    params: Params, inputs: Paths, setup: Setup, train: Train, job: Job, device: torch.device
) -> tuple[Callable[[dict[str, Tensor]], float], Callable[[dict[str, Tensor]], np.ndarray] | None]:
    """Two functions of weights: the mean value of the validation faces (what the method scores, else the PSNR of its
    answers), and a picture of the first of them where the training is a row and `training.grid` asks for it."""
    method = registry.get(setup.kind)
    ids, given, target = _validation_faces(params, inputs, method)
    asked = there(train.validation).colour
    colour = asked
    if colour is None and job.stage not in method.rowless:  # for pictures alone
        colour = registry.colour_of(setup.kind, setup.config, train)
    network, parts = registry.built(setup), load.parts(setup)
    load.fill(network, setup)
    network.to(device)
    precision = devices.precision(params.training.precision, device)

    # An equal number of rows on each device, the last ones repeated.
    share = -(-len(ids) // job.group.world_size)
    mine = [min(i, len(ids) - 1) for i in range(job.group.rank * share, (job.group.rank + 1) * share)]
    own = {name: images[mine] for name, images in given.items()}

    def coloured(rows: list[int]) -> np.ndarray:
        return chunks.colour(
            chunks.bound(method, network), {name: images[rows] for name, images in given.items()},
            [ids[i] for i in rows], there(colour),
            chunk=train.batch, seed=params.references.seed, device=device, threads=params.training.threads,
            precision=precision, channels_last=params.training.channels_last,
        )  # fmt: skip

    def validate(weights: dict[str, Tensor]) -> float:
        checkpoints.load_into(network, weights, inputs["val"], parts)
        if asked:
            values = psnr(coloured(mine), target[mine])
        else:
            values = _scores(method, network, own, target[mine], train, device)
        return float(job.group.all_gather(torch.from_numpy(values)).numpy()[: len(ids)].mean())

    def picture(weights: dict[str, Tensor]) -> np.ndarray:
        checkpoints.load_into(network, weights, inputs["val"], parts)
        shown = list(range(there(params.training.grid).images))
        conditions = [resize.to_bytes(given[name][shown]) for name in ("sketch", "reference") if name in given]
        return pictures.tiled([*conditions, coloured(shown), target[shown]])

    return validate, picture if colour and params.training.grid else None


@torch.inference_mode()
def _scores(
    method: Method, model: nn.Module, given: dict[str, Tensor], target: np.ndarray, train: Train, device: torch.device
) -> np.ndarray:
    """(N,) float64 of the method's own measure, a batch at a time."""
    batches = _batches(given, target, train.batch, device)
    return torch.cat([there(method.score)(model, batch).double().cpu() for batch in batches]).numpy()


def _batches(given: dict[str, Tensor], target: np.ndarray, size: int, device: torch.device) -> Iterator[Batch]:
    images = resize.to_unit(target)
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        batch = Batch(target=images[part].to(device))
        yield replace(batch, **{name: x[part].to(device) for name, x in given.items()})


@torch.inference_mode()
def _measures(
    params: Params, inputs: Paths, setup: Setup, state: loop.TrainState, device: torch.device
) -> dict[str, float]:
    """What the method says of its finished weights, over the validation faces."""
    method = registry.get(setup.kind)
    _, given, target = _validation_faces(params, inputs, method)
    network = registry.built(setup)
    load.fill(network, setup)
    checkpoints.load_into(network, state.best or state.ema, inputs["val"], load.parts(setup))
    batches = _batches(given, target, state.train.batch, device)
    return dict(there(method.measures)(network.to(device).eval(), batches))


def _write(
    state: loop.TrainState,
    setup: Setup,
    train: Train,
    remarks: list[str],
    more: Mapping[str, object],
    outputs: Paths,
    job: Job,
) -> None:
    checkpoints.write_weights(outputs["weights"], state.best or state.ema)
    made = {
        "setup": registry.described(setup),
        "method": job.method,
        "stage": job.stage,
        "seed": job.seed,
        "train": train.model_dump(mode="json"),
        "colour": registry.colour_of(setup.kind, setup.config, train).model_dump(mode="json"),
        "parameters": _count(state.model),
        "images": state.seen,
        "remarks": remarks,
        "validation": state.best_psnr if state.best else None,
        **more,
    }
    artifacts.write_json(outputs["made"], made)
    rows = ((seen, split, name, f"{value:.6g}") for seen, split, name, value in state.rows)
    artifacts.write_csv(outputs["curve"], ("images", "split", "name", "value"), rows)


def _note_cost(job: Job, seconds: float, images: int, parameters: int, device: torch.device, precision: str) -> None:
    """Times are no outputs: they go to an undeclared file that the cost table reads."""
    if images:
        job.note_cost(
            phase="train",
            images=images,
            seconds=seconds,
            images_per_second=images / seconds,
            parameters=parameters,
            device=devices.name(device),
            precision=precision,
            devices=job.group.world_size,
        )
