"""Floating-point operations of a method's networks, counted exactly without computing: tensors without data.

Counted as torch's own counter does (torch.utils.flop_counter): two per multiply-add of convolutions, matrix products
and attention; elementwise operations are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ssimbad.colorize import load
from ssimbad.errors import there
from ssimbad.methods import registry
from ssimbad.methods.chain import ImageLoss
from ssimbad.methods.contract import MASKS, PHI, Batch, Features, Method, Part, Plan, Setup, Shared
from ssimbad.pairing import tps
from ssimbad.params.base import Colour, Sampler
from ssimbad.params.methods import lender, needs
from ssimbad.params.tree import Params
from ssimbad.training.exchange import trainable

_META = torch.device("meta")
_ANY_PHI = {"form": "rational", "c": 0.3}  # which one is selected does not change the work


@dataclass(frozen=True)
class Work:
    """Of one image in a training: `train`, one step with its gradients, all players, the whole chain if there is one.

    `parameters`: of the model; `trained`: of all players; `chain`: steps of the sampler through which it trains, or 1.
    """

    train: int
    parameters: int
    trained: int
    chain: int


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


def training(p: Params, name: str, slot: str) -> Work:
    """The work of one image in one training of a method.

    Feature networks of losses are left out: their weights are not there before the run.
    """
    method, train = registry.get(p.methods[name].kind), p.methods[name].trainings[slot]
    model, sampler = model_of(p, name, slot), getattr(train.options, "sampler", None)

    def once(steps: int) -> int:
        options = train.options
        if sampler:
            options = options.model_copy(update={"sampler": sampler.model_copy(update={"steps": steps})})
        return count_training(method, model, Plan(train.objective, options), batch_of(p, method.inputs))

    parties = method.parties(model, Plan(train.objective, train.options), None)
    return Work(
        train=_along(once, sampler),
        parameters=_size(model),
        trained=sum(parameter.numel() for player in parties for parameter in trainable(player.network)),
        chain=sampler.steps if sampler else 1,
    )


def colouring(p: Params, name: str, colour: Colour, stage: str) -> int:
    """Operations to colour one image once, with weights of that stage of a method."""
    owner = lender(p.methods, name)
    method, model = registry.get(p.methods[owner].kind), model_of(p, owner, stage)

    def once(steps: int) -> int:
        how = colour
        if colour.sampler:
            how = colour.model_copy(update={"sampler": colour.sampler.model_copy(update={"steps": steps})})
        return count_colouring(method, model, how, batch_of(p, method.takes(how.options)))

    return _along(once, colour.sampler)


def _along(once: Callable[[int], int], sampler: Sampler | None) -> int:
    """The work of a sampler's steps, which grows in a straight line with them."""
    if sampler is None:
        return once(1)
    first = once(1)
    return first + (sampler.steps - 1) * (once(2) - first) if sampler.steps > 1 else first


def model_of(p: Params, name: str, slot: str) -> nn.Module:
    """The model of a training, without data; of its finished parts no gradient is taken."""
    setup = _setup(p, name, slot)
    model = registry.built(setup).to(_META)
    for part in load.parts(setup):  # finished: no gradient, no moments
        model.get_submodule(part.rstrip(".")).requires_grad_(False)
    return model


def _setup(p: Params, name: str, slot: str) -> Setup:
    block = p.methods[name]
    shared = Shared(**{key: attrgetter(key)(p) for key in registry.get(block.kind).reads})
    needed: dict[str, Part | Mapping[str, Any]] = {}
    for part, what in needs(p.methods, name, slot).items():
        if what == PHI:
            needed[part] = _ANY_PHI
        elif part != "start":
            needed[part] = Part("", "", registry.described(_setup(p, *what.split("/"))))
    return Setup(block.kind, block.config, p.data.size, shared, needed)


def batch_of(p: Params, inputs: tuple[str, ...]) -> Batch:
    """One image, (1, 3, S, S) with S = data.size, and of what may be given with it the `inputs`, without data."""
    size = p.data.size
    image, sketch = torch.empty(1, 3, size, size, device=_META), torch.empty(1, 1, size, size, device=_META)
    given = {"sketch": sketch, "reference": image, "face": image, **dict.fromkeys(MASKS, sketch)}
    warp = tps.Warp.random(np.random.default_rng(0), 1, p.references)
    return replace(Batch(target=image, warp=warp), **{name: given[name] for name in inputs})


def count_training(method: Method, model: nn.Module, plan: Plan, batch: Batch) -> int:
    """Operations of one step of all players with its gradients, as it runs: none is taken from a straight line."""
    # The losses of an image cannot do without their network; other terms are left out with it.
    features = cast("Features", _distance) if isinstance(plan.options, ImageLoss) else None
    with _Counter() as counted:
        for player in method.parties(model, plan, features):
            network = player.network.to(_META)
            wanted = [p for p in network.parameters() if p.requires_grad]
            for losses in player.losses(batch, _Draws()):
                torch.autograd.grad(losses.loss, wanted, materialize_grads=True)
    return counted.total


def count_colouring(method: Method, model: nn.Module, colour: Colour, batch: Batch) -> int:
    """Operations to colour the image of the batch once, as it runs; of a mean of several answers those of one."""
    with _Counter() as counted, torch.no_grad():
        there(method.colorize)(model, batch, lambda *shape: torch.empty(1, *shape, device=_META), colour, None)
    return counted.total


def _distance(image: Tensor, target: Tensor) -> Tensor:
    """In place of the feature network of a loss: (B,), and nothing that counts."""
    return (image - target).square().mean(dim=(1, 2, 3))


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
