"""Shares of a batch: of every method and objective there is, the gradient does not depend on their number."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from operator import attrgetter
from typing import Literal, get_args, get_origin

import lpips
import numpy as np
import pytest
import torch

from ssimbad.features.clip import Distance
from ssimbad.methods import contract, registry
from ssimbad.methods.contract import Part, Plan, Setup
from ssimbad.networks.clip import ImageTower
from ssimbad.networks.vgg import VGG19
from ssimbad.params.tree import Params
from ssimbad.training.feed import BatchRng, Feed, Shard
from ssimbad.training.parallel import data_parallel

from .conftest import miniature
from .small import CPU, WARP, HostReads

BATCH, SIZE = 8, 32
PHI = {"form": "rational", "c": 0.3}


def rows():
    """The first block of every kind in demo-all's miniature."""
    found = {}
    for name, method in Params.model_validate(miniature("demo-all")).methods.items():
        found.setdefault(method.kind, (name, method))
    return found


def choices(options):
    """Every combination of what the options of an objective let one choose by name."""
    named = {k: get_args(f.annotation) for k, f in options.model_fields.items() if get_origin(f.annotation) is Literal}
    return [dict(zip(named, values, strict=True)) for values in itertools.product(*named.values())]


def objectives():
    """(kind, objective, choices) of all that the methods can be told to optimise."""
    return [
        (kind, objective, choice)
        for kind in registry.kinds()
        for objective, options in registry.get(kind).objectives.items()
        for choice in choices(options)
    ]


@cache
def seen_through(features):
    """The feature network that a loss asks for, with random weights."""
    torch.manual_seed(3)
    if features == "vgg19":
        network = VGG19().to_empty(device=CPU)
        network.mean, network.std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=(2 / max(1, parameter[0].numel())) ** 0.5)
        return network.requires_grad_(False)
    if features in ("alexnet", "vgg16"):  # for both the smaller: the loss is one function
        with warnings.catch_warnings():  # lpips asks torchvision for "no weights" by a deprecated name
            warnings.simplefilter("ignore", UserWarning)
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)
        return lambda image, target: network(image, target).flatten()
    if features == "clip":
        tower = ImageTower(width=64, patch=8, grid=2, blocks=1, hidden=64, embedding=8)
        for parameter in tower.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return Distance(tower).eval().requires_grad_(False)
    assert features is None, f"a feature network that this test does not know: {features}"
    return None


def whole(tree, method, needed):
    own = registry.get(method.kind)
    return Setup(method.kind, method.config, SIZE, {key: attrgetter(key)(tree) for key in own.reads}, needed)


def part(tree, method, what):
    """Another training's model, as a part."""
    owner, _, slot = what.partition("/")
    return Part("", "", registry.described(whole(tree, tree.methods[owner] if slot else method, {})))


def trained(kind, objective, choice):
    """Who trains, from seeded weights."""
    assert kind in rows(), f"presets/demo-all.yaml has no row of kind {kind}"
    _, method = rows()[kind]
    tree = Params.model_validate(miniature("demo-all"))
    own = registry.get(kind)
    slots = {**{s: (t.objective,) for s, t in method.trainings.items()}, **own.slots}
    slot = next((slot for slot, found in slots.items() if objective in found), "pretrain")
    wanted = own.needs(method.config, slot)
    needed = {name: PHI if what == contract.PHI else part(tree, method, what) for name, what in wanted.items()}
    setup = whole(tree, method, needed)
    options = options_of(kind, method, objective, choice)
    torch.manual_seed(0)
    model = registry.built(setup)
    feature_network = seen_through(getattr(options, "features", None))
    return own.parties(model, Plan(objective, options), feature_network)


def options_of(kind, method, objective, choice):
    """What the first training says of its objective, or of another one what must be said; and the choice."""
    model, train = registry.get(kind).objectives[objective], next(iter(method.trainings.values()))
    must = {"sampler": next(iter(method.colour.values())).sampler} if "sampler" in model.model_fields else {}
    return model.model_validate((train.options.model_dump() if train.objective == objective else must) | choice)


def feed():
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
    faces = coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    masked = {"masks": faces[..., 1], "masked": list(contract.MASKS)}
    return Feed(faces, faces[..., 0], SIZE, WARP, 5, CPU, True, shown=True, **masked)


def gradients(player, shares):
    """All gradients of a player in one vector, from so many shares of one batch."""
    data = feed()

    def work(shard):
        return player.losses(data.batch(0, BATCH, shard), BatchRng(1, BATCH, shard, CPU))

    with data_parallel(shares) as parallel:
        list(parallel.gradients(player.network, work))
    return torch.cat([p.grad.double().flatten() for p in player.network.parameters() if p.requires_grad])


@pytest.mark.parametrize(("kind", "objective", "choice"), objectives(), ids=str)
def test_gradients_do_not_depend_on_the_number_of_shares(kind, objective, choice):
    for player in trained(kind, objective, choice):
        whole = gradients(player, 1)
        assert whole.norm() > 0
        for shares in (2, 4, 8):
            gap = (gradients(player, shares) - whole).norm() / whole.norm()
            # Rounding is 1e-6, and 2e-5 through an inversion and back; a mean over a share's own count is over 1e-3.
            assert gap < 1e-4, f"{player.name or 'model'}, {shares} shares: {gap:.1e}"


@pytest.mark.parametrize(("kind", "objective", "choice"), objectives(), ids=str)
def test_the_host_waits_for_no_number_of_the_device_in_a_step(kind, objective, choice):
    for player in trained(kind, objective, choice):
        batch, rng = feed().batch(0, BATCH, Shard()), BatchRng(1, BATCH, Shard(), CPU)
        with HostReads() as reads:
            for losses in player.losses(batch, rng):
                losses.loss.backward()
        assert reads.count == 0, player.name
