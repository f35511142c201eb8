"""Content records: what each stage instance was made from, and whether that is still so.

The stage command writes `records/<instance>.json` as its last act. An instance is fresh when everything in its record
(command, parameters, version, md5 of every input, source file and output) equals what is there now, and all
instances upstream are fresh. No times and no engine's private memory are asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.params import Params, lookup
from ssimbad.pipeline import code
from ssimbad.pipeline.table import Instance, instances

STATE = Path(".state")
VERSIONS = Path("workflow/versions.yaml")
_MEMO = STATE / "md5.json"


class Hashes:
    """md5 of files and folders, remembered by (size, mtime, inode) so that a second look costs a stat."""

    def __init__(self) -> None:
        try:
            self._known = json.loads(_MEMO.read_text())
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def md5(self, path: str) -> str:
        """Hex digest of a file, or of a folder's sorted relative names and digests with the ending `.dir`."""
        place = Path(path)
        if place.is_dir():
            files = sorted(p for p in place.rglob("*") if p.is_file())
            listing = "".join(f"{p.relative_to(place).as_posix()}:{self.md5(str(p))}\n" for p in files)
            return hashlib.md5(listing.encode()).hexdigest() + ".dir"
        stat = place.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(path)
        if known and known[:3] == state:
            return known[3]
        digest = artifacts.md5(place)
        self._known[path] = [*state, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        if self._changed:
            artifacts.write_text(_MEMO, json.dumps(self._known))


@contextmanager
def hashes() -> Iterator[Hashes]:
    found = Hashes()
    try:
        yield found
    finally:
        found.save()


@cache
def _versions(text: str) -> dict[str, int]:
    return yaml.safe_load(text)


def version(stage: str) -> int:
    """The hand-raised version of an expensive stage (workflow/versions.yaml)."""
    try:
        return _versions(VERSIONS.read_text())[stage]
    except (OSError, KeyError, TypeError):
        raise UserError(f"{VERSIONS}: no version for stage {stage}; restore the file from git") from None


def sources(instance: Instance) -> tuple[str, ...]:
    """Source files a cheap stage depends on; none for an expensive one, which has a version."""
    return () if instance.stage.expensive else code.closure(instance.stage.run)


def resolved(instance: Instance, params: Params) -> dict[str, Any]:
    """The declared parameters' values, by dotted key."""
    return {key: lookup(params, key) for key in sorted(instance.params)}


def made_from(instance: Instance, params: Params, hashed: Hashes) -> dict[str, Any]:
    """What the instance would be made from now. Raises UserError naming a missing input."""
    missing = [f for f in instance.files if not Path(f).exists()]
    if missing:
        raise UserError(f"{instance.name}: input {missing[0]} is missing; run the stage that makes it, or `dvc pull`")
    basis: dict[str, Any] = {
        "command": instance.command,
        "params": resolved(instance, params),
        "inputs": {f: hashed.md5(f) for f in sorted(instance.files)},
    }
    if lost := [f for f in sources(instance) if not Path(f).exists()]:
        raise UserError(f"{lost[0]} is missing: the installed package is not this checkout's; run `make install`")
    if instance.stage.expensive:
        basis["version"] = version(instance.stage.name)
    else:
        basis["code"] = {f: hashed.md5(f) for f in sources(instance)}
    return basis


def fingerprint(basis: dict[str, Any]) -> str:
    """12 hex digits of everything an expensive result depends on."""
    return hashlib.md5(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:12]


def write(instance: Instance, basis: dict[str, Any], hashed: Hashes) -> None:
    """The last act of a stage: its outputs are complete."""
    outputs = {f: hashed.md5(f) for f in sorted(instance.outputs.values())}
    artifacts.write_json(Path(instance.record), {**basis, "outputs": outputs})


def _differences(old: dict[str, Any], new: dict[str, Any], what: str) -> str | None:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{what} {key} changed"
    return None


def stale(instance: Instance, params: Params, hashed: Hashes) -> str | None:
    """None when the instance is fresh by itself, else the reason why not."""
    for file in [*instance.outputs.values(), instance.record]:
        if not Path(file).exists():
            return f"output {file} is missing"
    try:
        record = json.loads(Path(instance.record).read_text())
        basis = made_from(instance, params, hashed)
    except ValueError:
        return f"record {instance.record} is unreadable"
    except UserError as error:
        return str(error)
    outputs = {f: hashed.md5(f) for f in instance.outputs.values()}
    reasons = (
        _differences(record.get("params", {}), basis["params"], "parameter"),
        _differences(record.get("inputs", {}), basis["inputs"], "input"),
        _differences(record.get("code", {}), basis.get("code", {}), "code"),
        _differences({"version": record.get("version")}, {"version": basis.get("version")}, "stage"),
        _differences({"command": record.get("command")}, {"command": basis["command"]}, "the"),
        _differences(record.get("outputs", {}), outputs, "output"),
    )
    return next((r for r in reasons if r), None)


def survey(params: Params) -> dict[str, str | None]:
    """Per instance: None when fresh, else the reason; upstream before downstream."""
    found: dict[str, str | None] = {}
    with hashes() as hashed:
        for instance in instances(params):
            reason = stale(instance, params, hashed)
            late = next((u for u in instance.upstream if found[u]), None)
            found[instance.name] = reason or (f"upstream {late} is not fresh" if late else None)
    return found


def reconcile(params: Params) -> dict[str, str | None]:
    """Make Snakemake's markers tell the truth: `.state/<instance>.ok` exists exactly for the fresh instances."""
    found = survey(params)
    STATE.mkdir(exist_ok=True)
    fresh = {f".state/{name}.ok" for name, reason in found.items() if reason is None}
    for marker in STATE.glob("*.ok"):
        if str(marker) not in fresh:
            marker.unlink(missing_ok=True)
    for marker in fresh:
        if not os.path.exists(marker):  # noqa: PTH110 - plain strings are what the engines use
            Path(marker).touch()
    return found
