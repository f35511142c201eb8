"""One training by several processes, one per device: how they find each other, start, agree and add up.

The first process leads. It alone holds the lock and writes outputs, states, logs and the logbook; the others compute
their rows of every global batch and are told by the leader what to train, or that there is nothing to do. They are
started from outside (torchrun, or srun with several tasks) or, where one process sees several devices, by the leader.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ssimbad.errors import ParameterError, UserError, first_line, there
from ssimbad.runtime import slurm
from ssimbad.runtime.interrupt import EXIT

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import Store

EXCHANGE_TIMEOUT = timedelta(minutes=30)  # for the slowest process in one exchange; a dead one ends the others sooner
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # in which processes that are started together find each other
LEADER_TIMEOUT = timedelta(days=2)  # followers wait while the leader takes the lock and hashes the inputs
GRACE = 5.0  # seconds in which the leader may end by itself after a follower has failed
_LAUNCHED = "SSIMBAD_STARTED_BY_LEADER"
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_ALONE = "if this process is alone, take RANK, WORLD_SIZE and SLURM_STEP_NUM_TASKS out of its environment"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of one training. `local_rank`: its number on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device | None = None

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def all_gather(self, values: Tensor) -> Tensor:
        """(n, …) on each process → (world_size · n, …), in the order of the ranks."""
        if self.world_size == 1:
            return values
        import torch
        from torch import distributed

        mine = values.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        with self.exchange():
            distributed.all_gather(parts, mine)
        return torch.cat(parts).to(values.device)

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Of each wish, whether one of the processes has it; the same answer on all."""
        if self.world_size == 1:
            return wishes
        import torch

        return tuple(self.all_gather(torch.tensor([wishes], dtype=torch.uint8)).bool().any(dim=0).tolist())

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """A process that dies breaks the exchanges of the others.

        Raises:
            UserError: that happened within the block; other errors pass.
        """
        from torch import distributed

        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, distributed.DistError) or "gloo" in str(error).lower()):
                raise
            reason = first_line(error)
            line = f"process {self.rank} of {self.world_size}: another process of this training was lost ({reason})"
            raise UserError(f"{line}; the same command goes on from the last state") from None


ALONE = ProcessGroup()


def from_environment() -> ProcessGroup:
    """What the environment says: torchrun's variables, or srun's where the step has several tasks.

    Raises:
        ParameterError: they make no sense, or say nothing of where the processes meet: leftovers, perhaps.
    """
    e = os.environ
    names = _TORCHRUN if e.get("WORLD_SIZE") and e.get("RANK") else slurm.TASK
    rank, world_size, local_rank = _number(names[0], 0), _number(names[1], 1), _number(names[2], 0)
    if world_size == 1:
        return ALONE
    said = ", ".join(f"{name}={e[name]}" for name in names if name in e)
    if not rank < world_size:
        raise ParameterError(f"{said}: no process of a group; {_ALONE}")
    if not (slurm.job_id() or (e.get("MASTER_ADDR") and e.get("MASTER_PORT"))):
        raise ParameterError(
            f"{said}, but MASTER_ADDR and MASTER_PORT are not set; start the processes with torchrun, or {_ALONE}"
        )
    return ProcessGroup(rank, world_size, local_rank)


def _number(name: str, default: int) -> int:
    given = os.environ.get(name) or str(default)
    if not (given.strip().isdecimal() and int(given) >= min(default, 1)):
        raise ParameterError(f"{name}={given}: expected a number; {_ALONE}")
    return int(given)


class Rendezvous:
    """Where the processes of one stage instance meet: the leader's side.

    Left without `group`, it tells the followers that there is nothing to do.
    """

    def __init__(self, group: ProcessGroup, name: str) -> None:
        self._group, self._name, self._store, self._published = group, name, None, False

    def __enter__(self) -> Rendezvous:
        if self._group.world_size > 1:
            self._store = _store(self._group, self._name)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._store is not None and not self._published:
            _publish(self._store, None, self._group.world_size)

    @contextmanager
    def group(
        self, command: str, batch: int, threads: int, key: str, message: dict[str, Any]
    ) -> Iterator[ProcessGroup]:
        """The process group for as long as the training lasts.

        Args:
            command: of the stage; repeated on each further device of this machine, where nobody else has started it.
            batch: images of one step; `key`: the parameter that says so.
            threads: shares into which each process divides its part of a batch on a CPU.
            message: JSON-like, what the followers need to know.

        Raises:
            ParameterError: the devices cannot share a batch equally.
        """
        from ssimbad.runtime import devices

        group = self._group
        if group.world_size == 1:
            group = replace(group, world_size=len(devices.visible()))
        if group.world_size == 1:
            yield ALONE
            return
        shares = group.world_size * (threads if devices.pick().type == "cpu" else 1)
        if batch % shares:
            raise ParameterError(
                f"{key}: {batch} images do not divide into {shares} equal shares for {group.world_size} devices; "
                f"choose a multiple of {shares}, or show the job fewer devices (CUDA_VISIBLE_DEVICES)"
            )
        self._published = True
        alone = self._store is None
        with launched(self._name, command, group.world_size) if alone else _awaited(self._store, group) as store:
            _publish(store, message, group.world_size)
            with _initialised(group, store) as joined:
                yield joined


@contextmanager
def follow(group: ProcessGroup, name: str) -> Iterator[tuple[dict[str, Any], ProcessGroup] | None]:
    """For a follower of the stage instance: the leader's message and its group, or None when there is nothing to do."""
    if os.environ.get(_LAUNCHED):
        threading.Thread(target=_end_with_leader, daemon=True).start()
    store = _store(group, name)
    store.add("arrived", 1)
    try:
        store.wait(["message"], LEADER_TIMEOUT)
        message = json.loads(store.get("message"))
        store.add("received", 1)
    except RuntimeError as error:
        reason = first_line(error)
        line = f"{name}: the first of {group.world_size} processes was lost before the training began ({reason})"
        raise UserError(f"{line}; run the same command again") from None
    if message is None:
        yield None
    else:
        with _initialised(group, store) as joined:
            yield message, joined


def _publish(store: Store, message: dict[str, Any] | None, world_size: int) -> None:
    """Set the message; with nothing to do, stay until all have received it: the store may end with this process."""
    store.set("message", json.dumps(message))
    end = time.monotonic() + 60
    while message is None and store.add("received", 0) < world_size - 1 and time.monotonic() < end:
        time.sleep(0.05)


def _store(group: ProcessGroup, name: str) -> Store:
    """Where the processes leave each other notes; the leader, or torchrun's agent, keeps it."""
    from torch import distributed

    host, port = _address()
    keeps = group.is_leader and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    who = f"{name}: process {group.rank} of {group.world_size}"
    if not os.environ.get(_LAUNCHED):
        print(f"{who} waits for the others at {host}:{port}", file=sys.stderr, flush=True)
    try:
        store = distributed.TCPStore(host, port, None, keeps, RENDEZVOUS_TIMEOUT, wait_for_workers=False)
    except (RuntimeError, distributed.DistError) as error:
        reason = first_line(error)
        raise UserError(f"{who}: nobody met at {host}:{port} ({reason}); {_ALONE}") from None
    store.set_timeout(EXCHANGE_TIMEOUT)
    return distributed.PrefixStore(_prefix(name), store)


def _prefix(name: str) -> str:
    """Notes of another training, or of torchrun's attempt before this one, are not for us."""
    return f"ssimbad/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _address() -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT, or the first node of the SLURM job and a port for its step."""
    e = os.environ
    host, port = e.get("MASTER_ADDR"), e.get("MASTER_PORT")
    job = slurm.job_id()
    if job and not host and not (host := slurm.first_node()):
        known = f"the nodes of this SLURM job ({slurm.nodes()}) are not known"
        raise ParameterError(f"{known}; set MASTER_ADDR, or {_ALONE}")
    if job and not port:
        step = 1009 * _number("SLURM_STEP_ID", 0)
        return there(host), 20000 + (_number("SLURM_JOB_ID", 0) + step) % 20000
    return there(host), _number("MASTER_PORT", 0)


@contextmanager
def _awaited(store: Store, group: ProcessGroup) -> Iterator[Store]:
    """Followers that torchrun or srun has started, and will end with the leader."""
    end = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while (arrived := store.add("arrived", 0)) < group.world_size - 1:
        if time.monotonic() > end:
            _publish(store, None, arrived + 1)
            minutes = RENDEZVOUS_TIMEOUT.total_seconds() / 60
            others = f"{arrived} of {group.world_size - 1} other processes"
            raise UserError(f"{others} came within {minutes:.0f} minutes; {_ALONE}")
        time.sleep(0.1)
    yield store


@contextmanager
def launched(name: str, command: str, world_size: int) -> Iterator[Store]:
    """One process for each further device of this machine, for as long as the block lasts.

    Args:
        name: of the stage instance; `command`: what each of them runs, `ssimbad …`.
        world_size: of all processes, this one among them.

    Yields:
        Where they leave each other notes; it is reached from this machine alone.
    """
    from torch import distributed

    listener = socket.create_server(("127.0.0.1", 0))  # by itself the store listens on all addresses
    port = listener.getsockname()[1]
    store = distributed.TCPStore(
        "127.0.0.1", port, None, True, EXCHANGE_TIMEOUT, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(world_size), _LAUNCHED: "1"}
    program = [sys.executable, "-c", "from ssimbad.cli import main; main()", *command.split()[1:]]
    processes = [
        subprocess.Popen(
            program,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            # Nothing is written to it: it ends when the leader ends, however that happens.
            stdin=subprocess.PIPE,
        )
        for rank in range(1, world_size)
    ]
    done = threading.Event()
    guard = threading.Thread(target=_end_with_followers, args=(processes, done), daemon=True)
    guard.start()
    try:
        yield distributed.PrefixStore(_prefix(name), store)
        for process in processes:
            process.wait(timeout=60)
    finally:
        done.set()
        for process in processes:
            there(process.stdin).close()


def _end_with_followers(processes: list[subprocess.Popen], done: threading.Event) -> None:
    """A follower that fails would leave the leader waiting for its gradients."""
    while not done.wait(0.5):
        failed = [p for p in processes if p.poll() not in (None, 0, EXIT)]
        if failed and not done.wait(GRACE):
            line = f"ssimbad: process {processes.index(failed[0]) + 1} ended with code {failed[0].returncode}; "
            print(line + "the same command goes on from the last state", file=sys.stderr, flush=True)
            os._exit(1)


def _end_with_leader() -> None:
    os.read(0, 1)  # returns at the end of the pipe; Python's own stdin would hold a lock at this process's end
    os._exit(EXIT)


@contextmanager
def _initialised(group: ProcessGroup, store: Store) -> Iterator[ProcessGroup]:
    """The process group: NCCL between GPUs, Gloo between CPUs."""
    import torch
    from torch import distributed

    from ssimbad.runtime import devices

    device = devices.pick(group.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with group.exchange():
        distributed.init_process_group(
            distributed.get_default_backend_for_device(device),
            store=store,
            rank=group.rank,
            world_size=group.world_size,
            timeout=EXCHANGE_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    try:
        yield replace(group, device=device)
    finally:
        distributed.destroy_process_group()
