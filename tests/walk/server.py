"""Commands without their start-up: a process that has imported Snakemake, DVC and this package forks one child each.

A command still is a process of its own, with its own folder, environment and files, and can be killed like one. The
stages that the engines start come here too, through a small `ssimbad` on the PATH. Sockets are in Linux's abstract
namespace, where a long temporary folder does not matter.

    python -m tests.walk.server SOCKET toys|real LEARNT
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

_CHECKOUT = ("ssimbad.toy", "tests.")  # not the same in every call

# The client: the first message names the child, the second is its exit status.
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    call = {{"argv": [{name!r}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ), "group": os.getpgrp()}}
    socket.send_fds(server, [json.dumps(call).encode()], [0, 1, 2])
    server.recv(100)
    sys.exit(int(server.recv(100) or 137))
"""


def write_client(path: Path, address: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CLIENT.format(python=sys.executable, address="\0" + address, name=path.name))
    path.chmod(0o755)


def _command(name: str) -> Callable[[], object]:
    if name == "snakemake":
        from snakemake.cli import main

        return main
    if name == "dvc":
        from dvc.cli import main as dvc

        return lambda: sys.exit(dvc(sys.argv[1:]))
    if name == "judge":
        from tests.walk.oracle import main as judge

        return judge
    from ssimbad.cli import main as ssimbad

    return ssimbad


def _become(call: dict, files: list[int]) -> None:
    """This child takes the caller's place: group, folder, environment, files."""
    os.setpgid(0, call["group"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    sys.argv = call["argv"]


def _run(call: dict, prepare: Callable[[], None] | None, learnt: Path) -> int:
    known = set(sys.modules)
    try:
        if prepare:
            prepare()
        _command(call["argv"][0])()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with learnt.open("a") as file:
        file.writelines(f"{name}\n" for name in set(sys.modules) - known if not name.startswith(_CHECKOUT))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _learn(learnt: Path) -> None:
    """Import what the children so far had to import themselves."""
    if learnt.exists():
        names = sorted(learnt.read_text().split())
        learnt.unlink()
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        assert threading.active_count() == 1, "a process with threads cannot fork"


def serve(address: str, learnt: Path, prepare: Callable[[], None] | None) -> None:
    """Fork a child for every call, until standard input ends."""
    faulthandler.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    sys.dont_write_bytecode = True  # two edits of one file within a second look alike to Python's cache
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + address)
        listening.listen(64)
        while select.select([listening, sys.stdin], [], [])[0] == [listening]:  # until the caller is gone
            connection, _ = listening.accept()
            text, files, _, _ = socket.recv_fds(connection, 1 << 18, 3)
            _learn(learnt)
            if text and os.fork() == 0:
                listening.close()
                call = json.loads(text)
                _become(call, files)
                connection.send(str(os.getpid()).encode())
                code = _run(call, prepare, learnt)
                with contextlib.suppress(OSError):
                    connection.send(str(code).encode())
                os._exit(code)
            connection.close()
            for file in files:
                os.close(file)


if __name__ == "__main__":
    from tests.walk import points

    points.install()
    prepare = None
    if sys.argv[2] == "toys":
        from tests.walk import toys

        toys.install()
        prepare = toys.prepare
    serve(sys.argv[1], Path(sys.argv[3]), prepare)
