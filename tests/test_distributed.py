"""Data-parallel training: the same losses for any number of processes, one stop for all, and one who writes."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.runtime import devices, distributed
from ssimbad.training import checkpoints

from .conftest import ROOT, make_house, miniature
from .waiting import until

RUN = [sys.executable, "-c", "from ssimbad.cli import main; main()", "stage"]
PRETRAIN = ["pretrain", "method=ssimbad", "seed=0"]
WEIGHTS = Path("models/ssimbad/pretrain/seed-0.safetensors")


def workshop(folder: Path, **train) -> Path:
    """A miniature house with training data made by hand; validation on, so that it is shared too."""
    tree = miniature()
    method = tree["methods"]["ssimbad"]
    method["config"]["phi"] = {"form": "rational", "c": 0.3}
    validation = {"every": 32, "colour": {"sampler": {"name": "euler", "steps": 2}}}
    method["pretrain"] |= {"images": 64, "validation": validation} | train
    tree["data"]["val"] = 5
    make_house(folder, tree)
    generator = np.random.default_rng(0)
    lines = []
    for split, count in (("train", 20), ("val", 5)):
        faces = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        artifacts.write_array(folder / f"data/faces/{split}.npy", faces)
        artifacts.write_array(folder / f"data/sketches/{split}.npy", faces[..., 0])
        lines += [f"{split}-{i},{split}" for i in range(count)]
    artifacts.write_text(folder / "data/faces/manifest.csv", "\n".join(["id,split", *lines]) + "\n")
    return folder


def start(folder: Path, *words: str, devices: str = "cpu", **environment: str) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {"PYTHONPATH": str(ROOT / "src"), "SSIMBAD_DEVICE": devices, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [*RUN, *(words or PRETRAIN)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """stdout and stderr of a process that ends with this code."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    assert "Fatal" not in err
    return out + err


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read_tensors(folder / WEIGHTS)[0]


def curve(folder: Path) -> dict[tuple[str, str, str], float]:
    rows = csv.DictReader((folder / WEIGHTS.with_suffix(".csv")).open())
    return {(r["images"], r["split"], r["name"]): float(r["value"]) for r in rows}


def alike(one: Path, other: Path) -> None:
    expected, found = curve(one), curve(other)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-4, abs=1e-6), key
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(other)[name], rtol=1e-3, atol=1e-5), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = workshop(tmp_path_factory.mktemp("alone") / "house")
    ended(start(folder))
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = workshop(tmp_path_factory.mktemp("together") / "house")
    said = ended(start(folder, devices="cpu,cpu"))
    assert said.count("64 images -> ") == 1
    return folder


def test_two_processes_give_the_losses_of_one(alone, together):
    alike(alone, together)
    names = {name for _, _, name in curve(alone)}
    assert {"loss", "gradient_norm", "psnr", "loss_sigma_0"} <= names


def test_the_leader_alone_writes(together):
    assert len(list((together / "work/spool").glob("*.jsonl"))) == 1
    assert not list((together / "work").rglob("state-*"))
    assert not list((together / "work").rglob("lock.json"))
    assert (together / "records/pretrain-ssimbad-seed-0.json").exists()


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launched(folder: Path, *words: str, world: int = 2) -> list[subprocess.Popen]:
    """As torchrun starts them, on one node or on several."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(world)}
    return [start(folder, *words, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(world)]


@pytest.mark.slow
def test_processes_from_outside_do_the_same_and_leave_when_there_is_nothing_to_do(alone, tmp_path):
    folder = workshop(tmp_path / "house")
    for process in launched(folder):
        ended(process)
    alike(alone, folder)
    before = (folder / WEIGHTS).stat().st_mtime_ns
    leader, follower = launched(folder)
    assert "up to date" in ended(leader)
    assert len(ended(follower).splitlines()) == 1  # that it waits for the others
    assert (folder / WEIGHTS).stat().st_mtime_ns == before
    (folder / "data/faces/manifest.csv").unlink()
    leader, follower = launched(folder)
    assert "manifest.csv is missing" in ended(leader, 1)
    assert len(ended(follower).splitlines()) == 1


@pytest.mark.slow
def test_torchrun_on_two_nodes(alone, tmp_path):
    """The command of docs/scaling.md, with one process per node; both nodes are this machine."""
    folder = workshop(tmp_path / "house")
    address = f"127.0.0.1:{free_port()}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "--rdzv-id=1", "--no-python"]
    command = [*torchrun, str(Path(sys.executable).with_name("ssimbad")), "stage", *PRETRAIN]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "SSIMBAD_DEVICE": "cpu"}
    nodes = [subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(node.communicate(timeout=120)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0]
    assert said.count("64 images -> ") == 1
    alike(alone, folder)


def test_srun_says_who_is_who(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert distributed.from_environment() == distributed.ALONE
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert distributed.from_environment() == distributed.ProcessGroup(rank=3, world_size=4, local_rank=1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.from_environment() == distributed.ProcessGroup(rank=0, world_size=2)


FREE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", **FREE}, "RANK=2, WORLD_SIZE=2: no process of a group"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **FREE}, "RANK=-1: expected a number"),
        ({"RANK": "first", "WORLD_SIZE": "2", **FREE}, "RANK=first: expected a number"),
        ({"RANK": "0", "WORLD_SIZE": "0", **FREE}, "WORLD_SIZE=0: expected a number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x", **FREE}, "LOCAL_RANK=x: expected a number"),
        ({"SLURM_STEP_NUM_TASKS": "2(x2)", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS=2(x2): expected a number"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
    ],
)
def test_leftovers_in_the_environment_are_one_line_that_names_them(monkeypatch, left, said):
    for name in [n for n in os.environ if n.startswith(("SLURM", "MASTER", "RANK", "WORLD", "LOCAL_RANK"))]:
        monkeypatch.delenv(name)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=re.escape(said)) as caught:
        distributed.from_environment()
    assert "if this process is alone" in str(caught.value)


@pytest.mark.parametrize(
    "left",
    [
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "3"},
        {"WORLD_SIZE": "4"},
        {"RANK": "", "WORLD_SIZE": ""},
        {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "29500", "LOCAL_RANK": "2"},
        # the shells of sbatch and of salloc, with and without a step of their own
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},
    ],
)
def test_one_process_is_alone_whatever_shell_it_was_started_in(monkeypatch, left):
    for name in [n for n in os.environ if n.startswith(("SLURM", "MASTER", "RANK", "WORLD", "LOCAL_RANK"))]:
        monkeypatch.delenv(name)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert distributed.from_environment() == distributed.ALONE


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_whom_nobody_meets_ends_in_one_line(tmp_path, rank):
    """It waits for ten minutes, here for two seconds."""
    folder = workshop(tmp_path / "house")
    patience = "from datetime import timedelta; from ssimbad.runtime import distributed; "
    patience += "distributed.RENDEZVOUS_TIMEOUT = timedelta(seconds=2); "
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {"PYTHONPATH": str(ROOT / "src"), "SSIMBAD_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    env |= {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", patience + RUN[2], "stage", *PRETRAIN]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if "ssimbad" in line]
    assert f"process {rank} of 2 waits for the others at 127.0.0.1" in lines[0]
    assert "if this process is alone, take RANK" in lines[-1]
    assert "Traceback" not in done.stderr


def test_what_a_process_leaves_to_the_first_it_says(tmp_path):
    folder = workshop(tmp_path / "house")
    said = ended(start(folder, "sketches", RANK="1", WORLD_SIZE="2", **FREE))
    assert said == "sketches: left to the first of 2 processes\n"


def states(folder: Path) -> list[Path]:
    return sorted((folder / "work").rglob("state-*.safetensors"))


def children(process: subprocess.Popen) -> list[int]:
    import psutil

    return [p.pid for p in psutil.Process(process.pid).children()]


def gone(pids: list[int], seconds: float = 20) -> bool:
    import psutil

    return not psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=seconds)[1]


LONG = {"images": 480, "validation": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = workshop(tmp_path_factory.mktemp("whole") / "house", **LONG)
    ended(start(folder, devices="cpu,cpu"))
    return folder


@pytest.mark.slow
def test_killed_with_its_leader_it_resumes_to_the_same_bits(whole, tmp_path):
    folder = workshop(tmp_path / "house", **LONG)
    leader = start(folder, devices="cpu,cpu")
    until(lambda: states(folder), 90, "a state", leader)
    helpers = children(leader)
    assert helpers
    leader.kill()
    leader.wait()
    assert gone(helpers)
    assert not (folder / WEIGHTS).exists()
    assert "resumed at" in ended(start(folder, devices="cpu,cpu"))
    assert all(torch.equal(v, weights(folder)[k]) for k, v in weights(whole).items())


@pytest.mark.slow
def test_sigterm_to_one_stops_all_at_the_same_step(whole, tmp_path):
    folder = workshop(tmp_path / "house", **LONG)
    leader = start(folder, devices="cpu,cpu")
    until(lambda: states(folder), 90, "a state", leader)
    os.kill(children(leader)[0], signal.SIGTERM)
    assert "another process of this training was asked to stop" in ended(leader, 75)
    ended(start(folder, devices="cpu"))  # and one device may finish what two began
    alike(whole, folder)


@pytest.mark.slow
def test_a_lost_process_ends_the_training_in_order(tmp_path):
    folder = workshop(tmp_path / "house", **LONG)
    leader = start(folder, devices="cpu,cpu")
    until(lambda: states(folder), 90, "a state", leader)
    os.kill(children(leader)[0], signal.SIGKILL)
    said = ended(leader, 1)
    assert said.strip().splitlines()[-1].endswith("the same command goes on from the last state")
    assert states(folder)
    assert not (folder / WEIGHTS).exists()


def test_a_batch_that_does_not_divide_is_one_line(tmp_path):
    folder = workshop(tmp_path / "house")
    said = ended(start(folder, devices="cpu,cpu,cpu"), 2)
    assert said.strip().splitlines() == [
        "ssimbad: methods.ssimbad.pretrain.batch: 8 images do not divide into 3 equal shares for 3 devices; "
        "choose a multiple of 3, or show the job fewer devices (CUDA_VISIBLE_DEVICES)"
    ]


def test_devices_are_those_named(monkeypatch):
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu,cpu")
    assert devices.visible() == [torch.device("cpu")] * 2
    monkeypatch.setenv("SSIMBAD_DEVICE", "cpu,gpu9")
    with pytest.raises(UserError, match="SSIMBAD_DEVICE"):
        devices.visible()


def test_the_meeting_place_of_one_machine_is_reached_from_this_machine_alone():
    before = {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    with distributed.launched("pretrain", "ssimbad stage pretrain", 1) as store:
        opened = {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN} - before
        assert {address.ip for address in opened} == {"127.0.0.1"}
        store.set("a", "b")
        assert store.get("a") == b"b"
