"""A checkout that a walk goes through, its engines, and what they say of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..conftest import ROOT
from . import server

BIN = Path(sys.executable).parent
_GIT = {f"GIT_{who}_{what}": "t@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Server:
    """The process that forks all commands (server.py), and the environment in which its clients are found."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._address = f"walk-{uuid.uuid4().hex}"
        server.write_client(folder / "bin/ssimbad", self._address)
        self.environment = {
            **os.environ, **_GIT,
            "PATH": os.pathsep.join([str(folder / "bin"), str(BIN), os.environ["PATH"]]),
            "SSIMBAD_DEVICE": "cpu", "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "advice.detachedHead", "GIT_CONFIG_VALUE_0": "false",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.walk.server", self._address, kind, str(folder / "learnt")],
            cwd=ROOT, env={**self.environment, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def started(self, house: Path, argv: tuple[str, ...], environment: dict[str, str]) -> Command:
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the command closes it
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        while True:
            try:
                connection.connect("\0" + self._address)
                break
            except ConnectionRefusedError:
                assert self._process.poll() is None, f"the server has ended with {self._process.returncode}"
                select.select([], [], [], 0.05)
        call = {"argv": argv, "cwd": str(house), "env": {**self.environment, **environment}, "group": 0}
        with open(os.devnull) as nothing:  # noqa: PTH123
            socket.send_fds(connection, [json.dumps(call).encode()], [nothing.fileno(), said.fileno(), said.fileno()])
        return Command(argv, int(connection.recv(100)), connection, said)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Command:
    """One that runs; its process is the first of a group of its own."""

    argv: tuple[str, ...]
    pid: int
    connection: socket.socket
    said: object

    def ended(self) -> tuple[int, str]:
        """Wait; exit status and all that was said."""
        code = int(self.connection.recv(100) or 137)
        self.connection.close()
        self.said.seek(0)
        text = self.said.read()
        self.said.close()
        return code, text

    def kill(self, alone: bool) -> None:
        """`kill -9` of the command, or of all that it has started as well."""
        (os.kill if alone else os.killpg)(self.pid, signal.SIGKILL)
        self.ended()

    def gone(self) -> None:
        """Wait until nothing is left that the command has started."""
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.killpg(self.pid, 0)
                select.select([], [], [], 0.02)


class Gate:
    """Where a command stops that has been asked to stop at a point."""

    def __init__(self) -> None:
        self.address = f"gate-{uuid.uuid4().hex}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind("\0" + self.address)
        self._listening.listen()
        self._stopped = None

    def reached(self, command: Command) -> bool:
        """Wait until somebody stands here, or the command has ended; then nobody else stops."""
        ready, _, _ = select.select([self._listening, command.connection], [], [])
        if self._listening in ready:
            self._stopped, _ = self._listening.accept()
        self._listening.close()
        return self._stopped is not None

    def open(self) -> None:
        if self._stopped:
            self._stopped.close()


@dataclass(frozen=True)
class Views:
    """Which instances each of the three calls fresh, and per instance the outputs that are not what they must be."""

    records: set[str]
    dvc: set[str]
    snakemake: set[str] | None
    wrong: dict[str, list[str]]
    possible: bool
    told: bool

    @property
    def names(self) -> set[str]:
        return set(self.wrong)


class House:
    """A checkout."""

    def __init__(self, folder: Path, served: Server) -> None:
        self.folder, self._served = folder, served
        self._views: Views | None = None

    def touched(self) -> None:
        """Something is not as it was."""
        self._views = None

    def start(self, *argv: str, **environment: str) -> Command:
        self.touched()
        return self._served.started(self.folder, argv, environment)

    def run(self, *argv: str) -> tuple[int, str]:
        return self.start(*argv).ended()

    def must(self, *argv: str) -> str:
        code, said = self.run(*argv)
        assert code == 0, f"{' '.join(argv)} ended with {code}:\n{said[-3000:]}"
        return said

    def git(self, *argv: str) -> str:
        self.touched()
        return subprocess.run(
            ["git", *argv], cwd=self.folder, env=self._served.environment, check=True, capture_output=True, text=True
        ).stdout

    def commands(self, stage: str) -> list[list[str]]:
        """Of the stage's instances, as DVC knows them."""
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"].values()
        return [s["cmd"].split() for s in stages if s["cmd"].split()[2] == stage]

    def tags(self) -> list[str]:
        """From the oldest to the newest."""
        return self.git("tag", "--sort=v:refname").split()

    def views(self, memo: Path) -> Views:
        """Asked once for each state of the checkout."""
        if self._views is None:
            self._views = self._asked(memo)
        return self._views

    def _asked(self, memo: Path) -> Views:
        judge = self.start("judge", str(memo))
        rows = [line.split(maxsplit=1) for line in self.must("ssimbad", "status").splitlines()]
        dvc, snakemake = self.start("dvc", "status", "--json"), self.start("snakemake", "-n", "all")
        code, said = judge.ended()
        assert code == 0, said
        judged = json.loads(said)
        return Views(
            records={name for name, reason in rows if reason.startswith("fresh")},
            dvc=self._by_dvc(*dvc.ended()),
            snakemake=_by_snakemake(*snakemake.ended(), set(judged["wrong"])),
            **judged,
        )

    def _by_dvc(self, code: int, said: str) -> set[str]:
        """Stages of dvc.yaml that are not reported, and come from such stages only."""
        if code:
            return set()
        changed = json.loads(said[said.index("{") :])
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"]
        maker = {out if isinstance(out, str) else next(iter(out)): n for n, s in stages.items() for out in s["outs"]}
        fresh: set[str] = set()
        for name, stage in stages.items():  # upstream before downstream
            if name not in changed and {maker[d] for d in stage["deps"] if d in maker} <= fresh:
                fresh.add(name)
        return fresh


def _by_snakemake(code: int, said: str, names: set[str]) -> set[str] | None:
    """Instances without a planned job; None when it has no plan, as where an input is missing."""
    if code:
        assert "Traceback" not in said, said
        return None
    return names - set(re.findall(r"\.state/(\S+)\.ok$", said, re.MULTILINE))
