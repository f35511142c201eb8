"""The mean gradient of several processes: whenever and however it is exchanged, one training comes of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing, nn

from ssimbad.errors import ParameterError, UserError
from ssimbad.runtime.distributed import ProcessGroup
from ssimbad.training.exchange import Exchange

from . import processes

WORLD = 3  # with two, sums are the same in any order


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What each process ends with, by the way of exchange."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(processes.run, args=(WORLD, folder), nprocs=WORLD)
    names = (*processes.WAYS, "resumed")
    found = {name: [load_file(folder / f"{name}-{rank}.safetensors") for rank in range(WORLD)] for name in names}
    return found | {"broken": [(folder / f"broken-{rank}.txt").read_text() for rank in range(WORLD)]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return processes.trained(tmp_path_factory.mktemp("alone"), {})


def close(one, other, **tolerance):
    assert one.keys() == other.keys()
    return all(torch.allclose(value, other[name], **tolerance) for name, value in one.items())


def equal(one, other):
    return close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("way", [*processes.WAYS, "resumed"])
def test_all_processes_end_in_the_same_bits(ends, way):
    assert all(equal(ends[way][0], other) for other in ends[way][1:])


@pytest.mark.parametrize("way", ["after", "overlapped", "threads"])
def test_several_processes_end_where_one_does(ends, alone, way):
    assert close(ends[way][0], alone, rtol=1e-4, atol=1e-6)


def test_what_no_loss_meets_has_a_gradient_of_zero_everywhere(ends, alone):
    """It decays, as in one process."""
    for name in ("idle.weight", "idle.bias", "fixed.weight"):
        assert torch.equal(ends["overlapped"][0][name], alone[name])


def test_overlapping_changes_no_bit(ends):
    assert equal(ends["after"][0], ends["overlapped"][0])


def test_a_resumed_training_ends_in_the_same_bits(ends):
    """So the buckets of a training's first step are those of any other."""
    assert equal(ends["overlapped"][0], ends["resumed"][0])


def test_all_processes_tell_a_loss_that_is_not_finite_whatever_their_clocks_say(ends):
    said = "pretrain-x: the loss is not finite after 24 images; lower the learning_rate of this stage (2 states)"
    assert ends["broken"] == [said] * WORLD


def test_bf16_rounds_what_is_exchanged(ends):
    assert close(ends["bf16"][0], ends["overlapped"][0], rtol=5e-2, atol=5e-3)
    assert not close(ends["bf16"][0], ends["overlapped"][0], rtol=1e-5, atol=1e-7)


def test_only_the_loss_of_a_process_is_called_so():
    group = ProcessGroup(1, 2)
    with pytest.raises(UserError, match="process 1 of 2: another process of this training was lost"), group.exchange():
        raise RuntimeError("[…/third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection reset by peer")
    with pytest.raises(UserError, match="was lost"), group.exchange():
        raise distributed.DistBackendError("NCCL error")
    with pytest.raises(RuntimeError, match="must match"), group.exchange():
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")


def test_a_pytorch_that_cannot_round_says_so_in_one_line(monkeypatch):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(ParameterError, match=r"training\.exchange: bf16: .*; take overlapped"):
            Exchange(nn.Linear(2, 2), ProcessGroup(), bf16=True)
    finally:
        distributed.destroy_process_group()
