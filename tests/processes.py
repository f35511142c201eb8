"""One training by several processes of this machine, each of which writes what it ends with; see test_exchange.py."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed, nn

from ssimbad.errors import UserError
from ssimbad.methods.contract import Losses, Player
from ssimbad.runtime.distributed import ALONE, ProcessGroup
from ssimbad.training import loop

from .small import COMMON, CPU, TRAIN, feed, job

BATCH = TRAIN.model_copy(update={"images": 48, "batch": 12})
WAYS = {
    "after": {"exchange": "after", "micro_batch": 2},
    "overlapped": {"exchange": "overlapped", "micro_batch": 2},
    "bf16": {"exchange": "bf16", "micro_batch": 2},
    "threads": {"exchange": "overlapped", "threads": 2},
}


class Painter(nn.Module):
    """A picture that is walked in two steps, each with a loss of its own, through a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1).to(memory_format=torch.channels_last)
        # Large enough for its gradient to be added up in pieces, each beginning with another process.
        self.mix = nn.Sequential(nn.Linear(48, 1024), nn.Linear(1024, 48))
        self.idle = nn.Linear(4, 4)  # no loss ever meets it
        self.fixed = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.layer(x)
        return x + self.layer(x) + self.mix(x.permute(0, 2, 1, 3).flatten(2)).unflatten(2, (3, 16)).permute(0, 2, 1, 3)


class Opponents:
    """A painter, and a critic that moves first; each sees the other's network in its loss."""

    def __init__(self, stop_after: int = 0) -> None:
        self.painter, self.critic = Painter(), nn.Conv2d(3, 1, 3)
        self.players = [Player(self.critic, self.judge, "critic"), Player(self.painter, self.walk)]
        self._left = stop_after

    def judge(self, batch, rng):
        per_image = (self.critic(self.painter(batch.target)) + 1 - self.critic(batch.target)).square().mean((1, 2, 3))
        return Losses(per_image.mean(), per_image.detach(), None)

    def walk(self, batch, rng):
        x = batch.target + rng.normal(*batch.target.shape[1:])
        for number in range(2):
            x = self.painter(x)
            per_image = (x - batch.target).square().mean((1, 2, 3)) + self.critic(x).square().mean((1, 2, 3))
            if self._left == 1:
                raise KeyboardInterrupt
            self._left -= number
            before = self.critic.weight.grad
            yield Losses(per_image.mean(), per_image.detach(), None, {"last": torch.tensor(float(number))})
            assert self.critic.weight.grad is before, "a loss has left a gradient in another network"
            x = x.detach()


def trained(folder: Path, ways: dict, group: ProcessGroup = ALONE, stop_after: int = 0) -> dict | None:
    """Weights and curve as tensors; `stop_after` so many parts of batches it breaks off, as a kill would."""
    torch.manual_seed(group.rank)  # and so others than the leader's, which count
    party = Opponents(stop_after)
    for mine, first in zip(party.painter.fixed.parameters(), (0.5, 0.25), strict=True):
        mine.data.fill_(first + group.rank)
    state = loop.TrainState(party.painter, party.players, BATCH, COMMON.model_copy(update=ways))
    try:
        loop.fit(state, feed(), None, 5, replace(job(folder), group=group), "key")
    except KeyboardInterrupt:
        return None
    found = {f"critic.{k}": v for k, v in party.critic.state_dict().items()} | party.painter.state_dict()
    curve = torch.tensor([value for *_, value in state.rows], dtype=torch.float64)
    return {k: v.contiguous() for k, v in found.items()} | {"curve": curve}


class Breaking(Opponents):
    """In the third batch a loss is not finite."""

    batches = 0

    def walk(self, batch, rng):
        self.batches += 1
        for losses in super().walk(batch, rng):
            yield replace(losses, loss=losses.loss * float("nan")) if self.batches == 3 else losses


def broken(folder: Path, group: ProcessGroup) -> str:
    """What a process says of it, where the clock of one is far ahead of the others'."""
    torch.manual_seed(0)
    party, common = Breaking(), COMMON.model_copy(update={"log_images": 1000, "state_images": 1000})
    state = loop.TrainState(party.painter, party.players, BATCH, common, "pretrain-x")
    loop.STATE_SECONDS = 0.0 if group.rank == 1 else 900.0
    try:
        loop.fit(state, feed(), None, 5, replace(job(folder), group=group), "key")
    except UserError as error:
        return f"{error} ({len(list(folder.glob('state-*')))} states)"
    return "nothing"


def run(rank: int, world_size: int, folder: Path) -> None:
    """Train in all ways, and once more with a kill in the middle."""
    torch.set_num_threads(1)
    logging.disable()
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    group = ProcessGroup(rank, world_size, rank, CPU)
    for name, ways in WAYS.items():
        save_file(trained(folder / name, ways, group), folder / f"{name}-{rank}.safetensors")
    assert trained(folder / "killed", WAYS["overlapped"], group, stop_after=6) is None
    distributed.barrier()
    save_file(trained(folder / "killed", WAYS["overlapped"], group), folder / f"resumed-{rank}.safetensors")
    distributed.barrier()
    (folder / f"broken-{rank}.txt").write_text(broken(folder / "broken", group))
    distributed.destroy_process_group()
