"""Floating-point operations of a method's networks, counted exactly without computing: tensors without data.

Counted as torch's own counter does (torch.utils.flop_counter): two per multiply-add of convolutions, matrix products
and attention; elementwise operations are left out.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ssimbad.methods import contract, registry
from ssimbad.methods.chain import ImageLoss
from ssimbad.methods.contract import Batch, Plan, Setup
from ssimbad.pairing import tps
from ssimbad.params.base import Sampler
from ssimbad.params.methods import Method, Train
from ssimbad.params.tree import Params

_META = torch.device("meta")
_ANY_PHI = {"form": "rational", "c": 0.3}  # which one is selected does not change the work


@dataclass(frozen=True)
class Work:
    """Of one image. `train`: one step with its gradients, all players; `colour`: the whole chain of the row's sampler.

    `parameters`: of the model; `trained`: of all players; `chain`: whether training goes through the sampling chain.
    """

    train: int
    colour: int
    call: int
    parameters: int
    trained: int
    chain: bool


class _Counter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
            # A table of noise levels: any rising numbers do.
            return torch.linspace(1, 2, args[0].numel(), dtype=args[0].dtype).reshape(args[0].shape)
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


class _Draws:
    def normal(self, *shape: int) -> Tensor:
        return torch.empty(1, *shape, device=_META)

    def uniform(self, *shape: int) -> Tensor:
        return torch.empty(1, *shape, dtype=torch.float64, device=_META)


def count(p: Params, method: Method, train: Train) -> Work:
    """The work of one image in one training stage of a method, and to colour one image with its weights.

    Feature networks of losses are left out: their weights are not there before the run.
    """
    model = _model(p, method)
    parties = contract.players(registry.module(method.kind), model, _plan(method, train, train.sampler), None)
    networks = [player.network.to(_META) for player in parties]
    rows = [_once(p, method, train, model, steps) for steps in ((1, 2) if train.sampler else (1,))]
    return Work(
        train=_at(chain(method, train), *(r[0] for r in rows)),
        colour=_at(train.sampler.steps if train.sampler else 1, *(r[1] for r in rows)),
        call=rows[0][1],
        parameters=_size(model),
        trained=sum(map(_size, networks)),
        chain=len(rows) > 1 and rows[0][0] != rows[1][0],
    )


def _model(p: Params, method: Method) -> nn.Module:
    config = registry.config(method)
    phi = getattr(config, "phi", None)
    setup = Setup(
        method.kind, config, p.network, p.noise, p.schedule.saturation, _ANY_PHI if phi == "selected" else phi
    )
    return registry.module(method.kind).build(setup).to(_META)


def _plan(method: Method, train: Train, sampler: Sampler | None) -> Plan:
    return Plan(train.objective, registry.options(method.kind, train.objective, train.options), sampler)


def chain(method: Method, train: Train) -> int:
    """Steps of the sampler through which the stage trains, where it does."""
    own = getattr(registry.options(method.kind, train.objective, train.options), "sampler", None)
    sampler = own or train.sampler
    return sampler.steps if sampler else 1


def _once(p: Params, method: Method, train: Train, model: nn.Module, steps: int) -> tuple[int, int]:
    """(training, colouring) with a chain of so many steps; the work grows in a straight line with them."""
    sampler = train.sampler and train.sampler.model_copy(update={"steps": steps})
    options = registry.options(method.kind, train.objective, train.options)
    if getattr(options, "sampler", None):
        options = options.model_copy(update={"sampler": options.sampler.model_copy(update={"steps": steps})})
    module, size = registry.module(method.kind), p.data.size
    law = tps.Law(p.references.low, p.references.high, p.references.shift, p.references.decimals)
    image, sketch = torch.empty(1, 3, size, size, device=_META), torch.empty(1, 1, size, size, device=_META)
    batch = Batch(image, sketch, image, tps.Warp.random(np.random.default_rng(0), 1, law))
    # Tensors without data know no autocast; it changes no count.
    with mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        return _run(module, model, Plan(train.objective, options, sampler), batch)


def _run(module: ModuleType, model: nn.Module, plan: Plan, batch: Batch) -> tuple[int, int]:
    # The losses of an image cannot do without their network; other terms are left out with it.
    looking = _distance if isinstance(plan.options, ImageLoss) else None
    with _Counter() as training:
        for player in contract.players(module, model, plan, looking):
            network = player.network.to(_META)
            losses = player.step(batch, _Draws())
            torch.autograd.grad(losses.loss, list(network.parameters()), materialize_grads=True)
    with _Counter() as colouring, torch.no_grad():
        module.colorize(model, batch.sketch, batch.target, lambda: torch.empty_like(batch.target), plan.sampler)
    return training.total, colouring.total


def _distance(image: Tensor, target: Tensor) -> Tensor:
    """In place of the feature network of a loss: (B,), and nothing that counts."""
    return (image - target).square().mean(dim=(1, 2, 3))


def _at(steps: int, first: int, second: int | None = None) -> int:
    return first if second is None else first + (steps - 1) * (second - first)


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
