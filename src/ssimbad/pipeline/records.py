"""Content records: what each stage instance was made from, and whether that is still so.

The stage command writes `records/<instance>.json` as its last act. An instance is fresh when everything in its record
(command, parameters, version, md5 of every input, source file and output) equals what is there now, and all
instances upstream are fresh. No times and no engine's private memory are asked. The libraries' versions are written
beside it: other ones are told (`ssimbad status`), and make nothing stale.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ssimbad import artifacts, extras, files, strict_yaml
from ssimbad.errors import ParameterError, UserError
from ssimbad.methods import registry
from ssimbad.params.base import SLOTS
from ssimbad.params.tree import Params
from ssimbad.params.view import lookup
from ssimbad.pipeline import code
from ssimbad.pipeline.table import Instance, Stage, instances

STATE = Path(".state")
VERSIONS = code.VERSIONS
MEMO = STATE / "md5.json"
"""What `Hashes` remembers of files, from one command to the next."""
_GRAIN = 2_000_000_000  # ns; within it a file system may give two writes one time


def md5(path: Path) -> str:
    """Hex digest of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        error.filename = error.filename or str(path)  # which is not said of what was open already
        raise


def gone(error: OSError) -> bool:
    """Whether it says that a file has gone, as all do that an engine makes anew, whoever looks at them."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # the last by file servers, of open files


class Hashes:
    """md5 of files and folders, remembered by a file's state, so that a second look costs a stat."""

    def __init__(self) -> None:
        try:
            known = artifacts.parsed_json(MEMO)
        except (OSError, ValueError):
            known = None
        known = known if isinstance(known, dict) else {}
        self._known: dict[str, list[int | str]] = {path: look for path, look in known.items() if _is_look(look)}
        self._changed = False

    def md5(self, path: str) -> str:
        """Hex digest of a file, or, with the ending `.dir`, of the names and digests of all that is in a folder."""
        place = Path(path)
        if place.is_dir():
            # A pipe or a broken link has no digest, but those who read the folder meet it.
            digests = {name: self.md5(str(p)) if p.is_file() else "-" for name, p in files.below(place).items()}
            listing = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
            return hashlib.md5(listing.encode()).hexdigest() + ".dir"
        now, state = time.time_ns(), list(files.state(place))
        known, changed = self._known.get(path, []), state[2]
        # What was looked at right after its last change may have been changed once more at the same time of the clock.
        match known:
            case [*before, int(when), str(digest)] if before == state and when - changed > _GRAIN:
                return digest
        digest = md5(place)
        self._known[path] = [*state, now, digest]
        self._changed = True
        return digest

    def md5_of_what_is_there(self, path: str) -> str | None:
        """The same; None where nothing is, or nothing that can be read."""
        try:
            return self.md5(path)
        except OSError:
            return None

    def save(self) -> None:
        if self._changed:
            artifacts.write_text(MEMO, json.dumps(self._known))


def _is_look(value: object) -> bool:
    """Whether it is what `Hashes` remembers of a file: its state, when that was looked at, its digest."""
    match value:
        case [int(), int(), int(), int(), int(), str()]:
            return True
    return False


@contextmanager
def hashes() -> Iterator[Hashes]:
    found = Hashes()
    try:
        yield found
    finally:
        found.save()


@cache
def _versions(text: str) -> Any:
    return strict_yaml.parse(text, str(VERSIONS))


def version(stage: Stage) -> int:
    """The hand-raised version of an expensive stage (workflow/versions.yaml).

    Raises:
        UserError: the file is missing, no YAML, has a key twice, or no whole number for the stage.
    """
    try:
        found = _versions(strict_yaml.read(VERSIONS))[stage.name if has_version(stage) else "pretrain"]
    except ParameterError as error:
        raise ParameterError(f"{error}; mend it, or restore the file from git") from None
    except (OSError, KeyError, TypeError):
        found = None
    if type(found) is not int:
        raise UserError(f"{VERSIONS}: no version for stage {stage.name}; restore the file from git")
    return found


def has_version(stage: Stage) -> bool:
    """Whether a stage has a version of its own; trainings that methods bring have that of `pretrain`."""
    return stage.expensive and stage.name not in set(registry.slots()) - set(SLOTS)


def sources(instance: Instance) -> tuple[str, ...]:
    """Source files a cheap stage depends on; none for an expensive one, which has a version."""
    return () if instance.stage.expensive else code.closure(instance.stage.run)


class Basis(TypedDict):
    """What an instance is made from."""

    command: str
    params: dict[str, object]
    inputs: dict[str, str]
    """{file: md5}"""
    version: NotRequired[int]
    code: NotRequired[dict[str, str]]


class Record(Basis):
    """What a record says: also with which versions of libraries, and what came of it, {file: md5}."""

    libraries: NotRequired[dict[str, str]]
    outputs: NotRequired[dict[str, str]]


def resolved(instance: Instance, params: Params) -> dict[str, object]:
    """The declared parameters' values, by dotted key."""
    return {key: lookup(params, key) for key in sorted(instance.params)}


def made_from(instance: Instance, params: Params, hashed: Hashes) -> Basis:
    """What the instance would be made from now. Raises UserError naming a missing input."""
    missing = [f for f in instance.files if not Path(f).exists()]
    if missing:
        raise UserError(f"{instance.name}: input {missing[0]} is missing; run the stage that makes it, or `dvc pull`")
    basis: Basis = {
        "command": instance.command,
        "params": resolved(instance, params),
        "inputs": {f: hashed.md5(f) for f in sorted(instance.files)},
    }
    if instance.stage.expensive:
        basis["version"] = version(instance.stage)
    others = {
        name: hashed.md5(str(file)) for kind in _kinds(instance, params) for name, file in code.outside(kind).items()
    }
    if found := {f: hashed.md5(f) for f in sources(instance)} | others:
        basis["code"] = found
    return basis


def _kinds(instance: Instance, params: Params) -> set[str]:
    """Kinds of the methods whose code an instance runs."""
    names = params.methods if "methods" in instance.params else [instance.wildcards.get("method")]
    return {params.methods[name].kind for name in names if name in params.methods}


def fingerprint(basis: Mapping[str, object]) -> str:
    """12 hex digits of everything an expensive result depends on."""
    return hashlib.md5(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:12]


@cache
def installed(name: str) -> str | None:
    """The version of a distribution; None when it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def libraries(instance: Instance) -> dict[str, str]:
    """{name: version} of Python (its minor version) and of the installed libraries behind the stage's code."""
    found: dict[str, str | None] = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for module in code.libraries(code.closure(instance.stage.run)):
        found |= {name: installed(name) for name in extras.DISTRIBUTIONS.get(module, [module])}
    return {name: version for name, version in found.items() if version}


def write(instance: Instance, basis: Basis, made_with: dict[str, str], outputs: dict[str, str]) -> None:
    """The last act of a stage: its outputs are complete.

    Args:
        made_with: libraries of the computation, which for a kept result may have been others than today's; {}: unknown.
        outputs: {file: md5} as the stage has written them, whatever lies there by now.
    """
    artifacts.write_json(Path(instance.record), {**basis, "libraries": made_with, "outputs": outputs})


def read(instance: Instance) -> Record:
    """Its record. Raises ValueError when it is none, OSError when there is none."""
    record = artifacts.parsed_json(Path(instance.record))
    parts = ("params", "inputs", "code", "outputs", "libraries")
    if not (isinstance(record, dict) and all(isinstance(record.get(part, {}), dict) for part in parts)):
        raise ValueError(f"{instance.record}: no record")
    return record


def other_libraries(instance: Instance) -> str | None:
    """`made with torch 2.13.0, now 2.14.1`; None where no record names other versions than today's."""
    now = libraries(instance)
    try:
        made_with = read(instance).get("libraries", {})
    except (OSError, ValueError):
        return None
    changed = [f"{name} {old}, now {now[name]}" for name, old in made_with.items() if now.get(name, old) != old]
    return f"made with {'; '.join(changed)}" if changed else None


def changes(old: Basis, new: Basis) -> str | None:
    """The first difference between two of what an instance is, or was, made from."""
    version = ({"version": old.get("version")}, {"version": new.get("version")}, "stage")
    command = ({"command": old.get("command")}, {"command": new.get("command")}, "the")
    groups = (("params", "parameter"), ("inputs", "input"), ("code", "code"))
    reasons = [_differences(old.get(key, {}), new.get(key, {}), what) for key, what in groups]
    return next(filter(None, [*reasons, _differences(*version), _differences(*command)]), None)


def _differences(old: Mapping[str, object], new: Mapping[str, object], what: str) -> str | None:
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
        record = read(instance)
        basis = made_from(instance, params, hashed)
        outputs = {f: hashed.md5(f) for f in instance.outputs.values()}
    except ValueError:
        return f"record {instance.record} is unreadable"
    except UserError as error:
        return str(error)
    except OSError as error:
        if not gone(error):
            raise
        return f"{error.filename} is missing"
    return changes(record, basis) or _differences(record.get("outputs", {}), outputs, "output")


def survey(params: Params) -> dict[str, str | None]:
    """Per instance: None when fresh, else the reason; upstream before downstream.

    Raises:
        UserError: the package that runs is not this checkout's.
    """
    code.require_own()
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
