"""`ssimbad gc`: remove what nothing here needs any more, so that a checkout in which one works does not grow for ever.

What grows: under work/ the kept results and states of parameters of the past, a folder per fingerprint, and the spools
that are in the logbook; in .state/ what is remembered of files that are gone; logs of SLURM. A result stays that is
fresh or would be by today's parameters, that a branch, here or fetched, or a tag names in its dvc.lock, and of each
instance the newest others. Only files of the forms that the stages write are touched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssimbad import artifacts, strict_yaml
from ssimbad.errors import ParameterError, UserError
from ssimbad.files import exists
from ssimbad.params.tree import Params
from ssimbad.pipeline import cleaning, records, snakefile
from ssimbad.pipeline.table import Instance, instances
from ssimbad.tracking import store

_DAY, _HOUR = 86400, 3600
"""Seconds. What has been written to within an hour may be that of a stage that has begun since it was looked."""
_RUN = re.compile("[0-9a-f]{64}")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def run(params: Params, keep: int = 1, days: float = 30, cache: bool = False, dry: bool = False) -> None:
    """Remove what is not needed, and say in a line each how much of what.

    Args:
        keep: of each instance so many results of other parameters stay, the newest.
        days: spools that are in the logbook, and logs of SLURM, stay for so long.
        cache: also what DVC's cache holds, and DVC remembers, besides the workspace, all branches and all tags.
        dry: say it, and remove nothing.

    Raises:
        ParameterError: a number is below zero.
        UserError: a stage or a Snakemake run is under way, the cache is not this checkout's alone, or nobody knows what
            branches and tags name; nothing removed.
    """
    for name, value in (("keep", keep), ("days", days)):
        if not value >= 0:  # nor is NaN
            raise ParameterError(f"--{name} {value:g}: expected 0 or more")
    snakefile.require_idle("nothing removed")
    if cache:
        _require_own_cache()
    old = time.time() - days * _DAY
    outdated, unfinished = set(_outdated(params, keep)), cleaning.unfinished(params)
    young = unfinished - _older(unfinished, time.time() - _HOUR)
    groups = {
        "kept results and states of other parameters": outdated - young,
        "what killed processes left half-written": unfinished - outdated - young,
        f"spools in the logbook for over {days:g} days": _imported(old),
        f"logs of SLURM of over {days:g} days": _older(cleaning.slurm_logs(), old),
    }
    for what, files in groups.items():
        size = sum(info.st_size for info in cleaning.looks(files).values())
        if not dry:
            cleaning.remove(files)
        print(f"gc: {what}: {len(files):,} files, {size / 1e6:,.1f} MB{' (nothing removed: --dry-run)' if dry else ''}")
    if not dry:
        _forget()
    if cache:
        _collect_cache(dry)
        _forget_runs(dry)


def _outdated(params: Params, keep: int) -> Iterator[Path]:
    """Files of the folders work/<instance>/<fingerprint> that nothing asks for."""
    pinned, (needed, untold) = _pinned(), _needed(params)
    there = {name: folders for name, folders in cleaning.scratches().items() if folders}
    if left := sorted(untold & there.keys()):
        print(f"gc: left alone, as inputs are missing and nobody can tell which is needed: {', '.join(left)}")
    for name in sorted(there.keys() - untold):
        others = [f for f in there[name] if f.name not in needed.get(name, set()) and pinned.isdisjoint(_digests(f))]
        for folder in sorted(others, key=_written, reverse=True)[keep:]:
            yield from cleaning.scratch_files(folder)


def _written(folder: Path) -> float:
    """When the last thing in it was, in seconds of the clock."""
    return max((p.lstat().st_mtime for p in folder.rglob("*") if p.is_file()), default=0.0)


def _needed(params: Params) -> tuple[dict[str, set[str]], set[str]]:
    """By instance the fingerprints of what is there by its record, and of what these parameters ask for; and the
    instances of which the latter cannot be told: an input is missing, as after `ssimbad clean results`."""
    found: dict[str, set[str]] = {}
    untold = set()
    with records.hashes() as hashed:
        for instance in [i for i in instances(params) if i.stage.expensive]:
            try:
                bases = [_recorded(instance), records.made_from(instance, params, hashed)]
            except UserError:
                untold.add(instance.name)
            else:
                found[instance.name] = {records.fingerprint(basis) for basis in bases if basis}
    return found, untold


def _recorded(instance: Instance) -> Mapping[str, object]:
    """What a record says that its instance was made from, as `records.made_from` has it; {} without one."""
    try:
        record = records.read(instance)
    except (OSError, ValueError):
        return {}
    return {key: record[key] for key in ("command", "params", "inputs", "version", "code") if key in record}


def _digests(folder: Path) -> set[str]:
    """Of the outputs that a kept result consists of; the small files beside them say how it was made."""
    about = ("complete.json", "libraries.json", f"{folder.parent.name}.json")
    return {records.md5(p) for p in (folder / "kept").glob("*") if p.is_file() and p.name not in about}


def _pinned() -> set[str]:
    """The md5s that dvc.lock names in the workspace, at the tips of all branches, here and fetched, and in all tags: of
    outputs, and of what they were made from.

    Raises:
        UserError: git does not answer, or a dvc.lock cannot be read, so that nobody knows what is pinned.
    """
    locks = _committed_locks()
    if os.path.lexists("dvc.lock"):
        locks["dvc.lock"] = Path("dvc.lock").read_bytes()
    return {md5 for where, data in locks.items() for md5 in _locked(where, data)}


def _committed_locks() -> dict[str, bytes]:
    """By its name for messages each different dvc.lock of a branch or tag; {} where no repository is at all."""
    places = [Path.cwd(), *Path.cwd().parents]
    if "GIT_DIR" not in os.environ and not any(os.path.lexists(place / ".git") for place in places):
        return {}
    form = "--format=%(objectname) %(refname) %(objecttype) %(*objecttype)"
    told = _git("for-each-ref", form, "refs/heads", "refs/tags", "refs/remotes")
    lines = [line.split() for line in told.splitlines()]
    tips = {line[0]: line[1].decode("utf-8", "replace") for line in lines if line[-1] != b"blob"}  # which has no files
    found = {}
    for tip, ref in tips.items():
        if entry := _git("ls-tree", tip.decode(), "dvc.lock"):
            found.setdefault(entry.split()[2].decode(), ref)
    return {f"dvc.lock of {ref}": _git("cat-file", "blob", blob) for blob, ref in found.items()}


def _git(*words: str) -> bytes:
    """What git says. Raises UserError where it fails, or passes over a branch or tag that it cannot read."""
    try:
        done = subprocess.run(("git", *words), capture_output=True, env=os.environ | {"LC_ALL": "C"})
    except OSError as error:
        raise UserError(f"git, which knows branches and tags: {error.strerror}; nothing removed: install it") from None
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode or "broken ref" in said:
        raise UserError(f"git does not tell what branches and tags need: {said}; nothing removed: mend that first")
    return done.stdout


def _locked(where: str, data: bytes) -> set[str]:
    """The md5s in a dvc.lock. Raises UserError when it cannot be read."""
    try:
        stages = ((yaml.load(data, _Loader) or {}).get("stages") or {}).values()
        return {md5 for stage in stages for md5 in _md5s(stage)}
    except strict_yaml.FAULTS as error:
        raise UserError(f"{where}: cannot be read ({type(error).__name__}); nothing removed: mend it first") from None


def _md5s(stage: Mapping[str, Any]) -> set[str]:
    """Of what a stage reads and writes, by DVC's word: that of dvc.lock, or of the memory of runs."""
    read = {file["md5"] for file in stage.get("deps", ()) if "md5" in file}
    return read | {file["md5"] for file in stage.get("outs", ())}


def _imported(before: float) -> set[Path]:
    """Spools that an import moved to where they are so long ago; none where the logbook that took them is not there.

    The move changes what is said of a file (ctime), and not when it was written (mtime).
    """
    try:
        store.require_there(store.uri())
    except UserError as error:
        print(f"gc: imported spools left alone: {error}")
        return set()
    return {file for file, info in cleaning.looks(cleaning.imported_spools()).items() if info.st_ctime < before}


def _older(files: Iterable[Path], than: float) -> set[Path]:
    return {file for file, info in cleaning.looks(files).items() if info.st_mtime < than}


def _forget() -> None:
    """Drop from the memory of digests what is said of files that are gone."""
    try:
        known = artifacts.parsed_json(records.MEMO)
    except (OSError, ValueError):
        return
    if isinstance(known, dict):
        there = {path: look for path, look in known.items() if exists(path)}
        if len(there) < len(known):
            artifacts.write_text(records.MEMO, json.dumps(there))
        print(f"gc: digests remembered of files that are gone: {len(known) - len(there):,}")


def _require_own_cache() -> None:
    """Raise where DVC's cache may serve others, whose branches nobody knows here."""
    place = _cache().resolve()
    if not place.is_relative_to(Path(".dvc").resolve()):
        raise UserError(
            f"--cache: DVC's cache {place} lies outside of this checkout and may serve others; nothing removed: use"
            " `dvc gc --workspace --all-branches --all-tags --projects …` and name them all"
        )


def _cache() -> Path:
    done = subprocess.run(("dvc", "cache", "dir"), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--cache: DVC does not say where its cache is ({done.stderr.strip()}); nothing removed")
    return Path(os.path.relpath(done.stdout.strip()))


def _collect_cache(dry: bool) -> None:
    """What DVC itself removes."""
    words = ["dvc", "gc", "--workspace", "--all-branches", "--all-tags", "--force", *(["--dry"] if dry else [])]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc gc failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no word'}")
    said = [line for line in done.stdout.splitlines() if line.endswith("repo cache.")]
    print(f"gc: DVC's cache: {said[-1] if said else 'nothing to remove'}")


def _forget_runs(dry: bool) -> None:
    """Of each run DVC remembers what it read and wrote, to take the same again, and never forgets it by itself."""
    pinned = _pinned()
    remembered = [path for path in (_cache() / "runs").glob("*/*/*") if _RUN.fullmatch(path.name) and path.is_file()]
    found = [path for path in remembered if not _is_pinned(path, pinned)]
    size = sum(path.stat().st_size for path in found)
    if not dry:
        cleaning.remove(found)
    print(f"gc: runs that DVC remembers, of other files: {len(found):,} ({size / 1e6:,.1f} MB)")


def _is_pinned(run: Path, pinned: set[str]) -> bool:
    try:
        return _md5s(yaml.load(run.read_bytes(), _Loader)) <= pinned
    except strict_yaml.FAULTS:
        return False  # damaged: DVC does not take it either
