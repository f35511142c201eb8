"""Weights and resumable state as safetensors: plain arrays and JSON text, nothing that could run.

A state holds what cannot be re-derived: weights, EMA, optimiser moments, the curve so far and the best weights.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ssimbad import artifacts
from ssimbad.errors import UserError

_KEPT_STATES = 2
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}
"""As safetensors names them: those with which torch can do all that is done here."""
_SIDES, _NUMBERS = 8, 1 << 48  # of a tensor, more than any network has; torch fails beyond its own limits


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """{name: tensor} → .safetensors, the same bytes for the same weights. Raises UserError when they are not finite."""
    _write(path, dict(sorted(weights.items())), {"format": "pt"})


def write_kept(scratch: Path, kept: list[tuple[int, float, dict[str, Tensor]]]) -> Path:
    """Weights that were good on validation too: [(images, value, weights)] → `<images>-<value>.safetensors`.

    Returns:
        Their folder, which holds no others.
    """
    folder = scratch / "best"
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for seen, value, weights in kept:
        write_weights(folder / f"{seen:012d}-{value:.3f}.safetensors", weights)
    return folder


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        _finite(tensors)
    except ValueError as error:
        raise UserError(f"{path}: not written, {error}; lower the learning_rate of this stage") from None
    artifacts.write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def _finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text of a .safetensors file. Raises UserError when it is missing, no such file, or not finite."""
    with _told(path):
        return _tensors(path)


def read_names(path: Path) -> list[str]:
    """Of the tensors in a .safetensors file, without reading them. Raises UserError as `read_tensors`."""
    with _told(path), _opened(path) as file:
        return list(file.keys())


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; train it (`ssimbad status`) or fetch it (`dvc pull`)") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); delete it and run its stage again") from None
    except ValueError as error:
        raise UserError(f"{path}: no usable weights ({error}); delete it and train again, at a lower rate") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():  # opening a pipe would wait for ever
        raise SafetensorError("no plain file") if path.exists() else FileNotFoundError(str(path))
    with safe_open(path, framework="pt") as file:
        yield file


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            _require_usable(name, file.get_slice(name))
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    _finite(tensors)
    return tensors, metadata


def _require_usable(name: str, described: Any) -> None:
    """Raise SafetensorError for what a valid file can hold and no network here, before torch is given it."""
    if described.get_dtype() not in _DTYPES:
        raise SafetensorError(f"{name!r:.60} is of type {described.get_dtype()}, known: {', '.join(sorted(_DTYPES))}")
    shape = described.get_shape()
    # An empty tensor takes no byte of the file, and says any other side.
    if len(shape) > _SIDES or math.prod(max(side, 1) for side in shape) > _NUMBERS:
        raise SafetensorError(f"{name!r:.60} is of a shape that no network has")


def load_into(model: nn.Module, weights: dict[str, Tensor], path: Path, but: tuple[str, ...] = ()) -> None:
    """Fill a model with weights, `but` for tensors with such prefixes. Raises UserError when they do not fit it."""
    rest = {name: tensor for name, tensor in model.state_dict().items() if but and name.startswith(but)}
    try:
        model.load_state_dict(rest | weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: weights of another network ({reason}); check `network` in params.yaml") from None


def write_state(folder: Path, seen: int, groups: dict[str, dict[str, Tensor]], facts: Mapping[str, object]) -> None:
    """Save {group: {name: tensor}} and JSON-like facts after `seen` images; the two newest states are kept.

    Raises:
        UserError: a tensor is not finite; the states that are there stay.
    """
    tensors = {f"{g}/{k}": v for g, ts in groups.items() for k, v in ts.items()}
    _write(folder / f"state-{seen:012d}.safetensors", tensors, {"facts": json.dumps(facts)})
    for old in _states(folder)[:-_KEPT_STATES]:
        old.unlink(missing_ok=True)


def latest_state(folder: Path, key: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest whole state, or None. What a killed process left unfinished is removed.

    Raises:
        UserError: a state belongs to another configuration than `key`, or the file system does not give it out.
    """
    for left in folder.glob(".state-*.tmp"):
        left.unlink(missing_ok=True)
    for path in reversed(_states(folder)):
        try:
            tensors, metadata = _tensors(path)
            facts = json.loads(metadata["facts"])
        except FileNotFoundError:
            continue  # another process of this training has removed it
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}); mend that, or remove it to begin anew") from None
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            # Left there it would count as one of the two that are kept, and the next good one be dropped for it.
            print(f"{path}: no whole state ({error}), removed", file=sys.stderr, flush=True)
            path.unlink(missing_ok=True)
            continue
        if facts.get("key") != key:
            raise UserError(f"{path}: state of another configuration ({facts.get('key')}); remove the folder {folder}")
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        return groups, facts
    return None


def clear(folder: Path) -> None:
    """Remove the states of a training that has ended."""
    for path in _states(folder):
        path.unlink()


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.safetensors"))


def moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by `<parameter number>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(v) for i, s in state.items() for name, v in s.items()}


def restore_moments(optimiser: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Undo `moments`. The fused optimiser reads memory in order, so each tensor is laid out as its parameter is."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        number, _, rest = name.partition(".")
        like = parameters[int(number)]
        placed = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(number), {})[rest] = placed
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
