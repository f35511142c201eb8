"""Places at which the walk can stop a command: around a stage, before its record, and where DVC is told."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ssimbad.pipeline import lock, records, runner, sync


def point(who: str, where: str) -> None:
    """Stand still here, once, if the walk has asked for it, until it says go on or kills."""
    if os.environ.get("WALK_STOP") != f"{who} {where}":
        return
    with socket.socket(socket.AF_UNIX) as gate, suppress(OSError):  # an error: somebody else stands here
        gate.connect("\0" + os.environ["WALK_GATE"])
        gate.recv(1)


def install() -> None:
    """Set the points in the pipeline and in DVC, and leave out what only takes time."""
    from dvc.dvcfile import Lockfile
    from dvc.stage import Stage

    def stage(*arguments: object) -> str:
        return next(a for a in arguments if hasattr(a, "wildcards")).stage.name

    def command(*arguments: object) -> str:
        return "sync" if sys.argv[1:2] == ["sync"] else Path(sys.argv[0]).name

    _set(runner, "call", stage, before="start", after="end")
    _set(records, "write", stage, before="record")
    _set(records, "survey", command, after="surveyed")
    _set(Stage, "save", command, before="save")
    _set(Lockfile, "dump_stages", command, before="dump")
    lock.GLANCE = 0.1
    sync.import_spools = lambda status=None: None  # the logbook has tests of its own


def _set(place: object, name: str, who: Callable[..., str], before: str = "", after: str = "") -> None:
    function = getattr(place, name)

    @functools.wraps(function)
    def pointed(*arguments, **named):
        point(who(*arguments), before)
        found = function(*arguments, **named)
        point(who(*arguments), after)
        return found

    setattr(place, name, pointed)
