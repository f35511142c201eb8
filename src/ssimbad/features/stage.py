"""Stage weights: the feature networks' files, fetched or copied, and accepted by their SHA-256 alone."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.params.blocks import WeightFile
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job

BLOCK = 1 << 20
TIMEOUT = 30
"""Seconds without a byte after which the download is given up."""


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Bring the file of every network named in `outputs` (inception, alexnet, vgg19 …). A file that is right is kept.

    Raises:
        UserError: it cannot be had, or is another file; the message names the remedy.
    """
    for name, target in outputs.items():
        fetch(getattr(params.weights, name), name, target, job)


def fetch(entry: WeightFile, name: str, target: Path, job: Job) -> None:
    """Copy `entry.path`, or else download `entry.url`, to `target` if its SHA-256 is `entry.sha256`.

    Raises:
        UserError: see `run`.
    """
    if target.is_file() and artifacts.sha256(target) == entry.sha256:
        artifacts.stands(target)
        job.say(f"weights: {name} is there already: {target}")
        return
    source = entry.path or entry.url
    try:
        with artifacts.replacing(target) as temporary:
            with _open(entry) as stream, temporary.open("wb") as file:
                found = _copy(stream, file, job)
            if found != entry.sha256:
                raise UserError(
                    f"weights.{name}: {source} has sha256 {found}, expected {entry.sha256};"
                    f" set weights.{name}.path to a copy of the right file"
                )
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise UserError(
            f"weights.{name}: {source} cannot be had ({reason}); set weights.{name}.path to a copy,"
            " or weights.enabled to false"
        ) from None
    job.say(f"weights: {name} -> {target}")


def _open(entry: WeightFile) -> BinaryIO:
    if entry.path:
        return Path(entry.path).open("rb")
    return urllib.request.urlopen(entry.url, timeout=TIMEOUT)


def _copy(stream: BinaryIO, file: BinaryIO, job: Job) -> str:
    """Copy block by block with a bar in megabytes; the SHA-256 of what went through."""
    digest = hashlib.sha256()
    headers = getattr(stream, "headers", {})  # of what is fetched
    length = int(headers.get("Content-Length") or 0)
    with job.progress(length // BLOCK, "MiB") as bar:
        for block in _blocks(stream):
            digest.update(block)
            file.write(block)
            bar.update(round(len(block) / BLOCK, 2))
    return digest.hexdigest()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block
