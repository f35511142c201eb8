"""`ssimbad export`: a row's weights as a folder that programs load without this repository's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.faces import manifest
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.methods.contract import PHI
from ssimbad.params.methods import needs
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths, records, rows
from ssimbad.pipeline.paths import Wildcards
from ssimbad.pipeline.table import Instance, instances
from ssimbad.reporting import card

ONNX, CARD = "model.onnx", "README.md"


def run(params: Params, row: str, out: Path, seed: int | None = None, onnx: bool = False, half: bool = False) -> str:
    """Write model.safetensors (with the parts that other trainings made), config.json, the model card README.md and, if
    asked, model.onnx.

    Args:
        half: tensors are stored as float16; who loads them computes in float32 all the same.

    Returns:
        what was written and where, in one line.

    Raises:
        ParameterError: no such row or seed, a row that takes no sketch or cannot be had as ONNX or in float16, or `out`
            is there.
        UserError: the weights are not fresh, so that the card would not tell how they were made.
    """
    w = _chosen(params, row, seed)
    kind, takes = params.methods[w["method"]].kind, rows.takes(params, w)
    if "sketch" not in takes:
        raise ParameterError(f"{row}: takes no sketch, and exported weights colour sketches; name another row")
    exported = registry.get(kind).exported
    if onnx and exported is None:
        able = ", ".join(name for name in registry.usable() if registry.get(name).exported)
        raise ParameterError(f"--onnx: kind {kind} cannot be had as ONNX; leave it out, or name a row of {able}")
    if out.exists() or out.is_symlink():
        raise ParameterError(f"--out {out}: there already, and nothing is replaced; name another folder")
    found, table = records.survey(params), instances(params)
    if late := found[_training(table, paths.owner(params, w), w["seed"]).name]:
        raise UserError(f"{row}: not fresh, its weights: {late}; run the pipeline first")

    import torch

    from ssimbad.colorize import graph, load
    from ssimbad.training import checkpoints

    config = _config(params, w)
    trained = load.trained(Path(paths.weights(params, w)), torch.device("cpu"), channels_last=False)
    with artifacts.new_folder(out) as folder:
        tensors = trained.model.state_dict()
        if half:
            tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
            if name := next((name for name, t in tensors.items() if not t.isfinite().all()), None):
                raise ParameterError(f"--half: {name} holds numbers that float16 does not know; leave it out")
            config["stored"] = "float16"
        checkpoints.write_weights(folder / load.TENSORS, tensors)
        if onnx and exported:
            colour = params.methods[w["method"]].colour[w["stage"]]
            call = exported(trained.model, trained.setup, colour)
            artifacts.write_bytes(folder / ONNX, graph.written(trained.model, call))
            config["onnx"] = graph.described(call, ONNX)
        artifacts.write_json(folder / load.CONFIG, config)
        artifacts.write_text(folder / CARD, card.text(_told(params, w, config, found, table)))
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return f"{row}: {', '.join(files)}, {sum(files.values()) / 1e6:.1f} MB -> {out}"


def _chosen(params: Params, row: str, seed: int | None) -> Wildcards:
    mine = rows.named(params, row)
    known = [w["seed"] for w in mine]
    if seed is not None and seed not in known:
        raise ParameterError(f"--seed {seed}: not among the seeds of params.yaml, {', '.join(map(str, known))}")
    return mine[0 if seed is None else known.index(seed)]


def _training(table: list[Instance], training: str, seed: int) -> Instance:
    method, _, slot = training.partition("/")
    return next(i for i in table if i.stage.name == slot and i.wildcards == {"method": method, "seed": seed})


def _config(params: Params, w: Wildcards) -> dict[str, Any]:
    """How the weights were made, as the JSON beside them says, and how this row colours."""
    made = artifacts.read_json(Path(paths.weights(params, w, "json")))
    colour = params.methods[w["method"]].colour[w["stage"]].model_dump(mode="json")
    return made | {"library_name": "ssimbad", "row": f"{w['method']}/{w['stage']}", "colour": colour}


def _told(
    params: Params, w: Wildcards, config: dict[str, Any], found: dict[str, str | None], table: list[Instance]
) -> card.Told:
    """What the card says: of the data, of all trainings behind the row, and of the evaluations that are fresh."""
    method, stage, source = w["method"], w["stage"], sources.of(params.data.source)
    judged = [i for i in table if i.stage.name == "evaluate" and w.items() <= i.wildcards.items() and not found[i.name]]
    names = [*reversed(_behind(params, paths.owner(params, w))), paths.owner(params, w)]
    return card.Told(
        config=config,
        label=params.methods[method].label,
        colour=params.methods[method].colour[stage].words,
        takes=rows.takes(params, w),
        source=sources.config(params.data.source, params.data.path).kind,
        faces={split: len(manifest.ids(Path(paths.MANIFEST), split)) for split in ("train", "val", "test")},
        native=params.data.native_size,
        styles=params.sketches.styles,
        companions=params.references.companions,
        licence=source.licence,
        credit=source.credit,
        trainings=[artifacts.read_json(Path(paths.model(name, w["seed"], "json"))) for name in names],
        summaries=[artifacts.read_json(Path(i.outputs["summary"])) for i in judged],
    )


def _behind(params: Params, training: str) -> list[str]:
    """The trainings from which one starts or whose weights are its parts, and theirs, each once, the nearest first."""
    method, _, slot = training.partition("/")
    own = [what for what in needs(params.methods, method, slot).values() if what != PHI]
    return list(dict.fromkeys([*own, *(below for one in own for below in _behind(params, one))]))
