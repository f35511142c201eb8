"""Stage fetch: a source from elsewhere, stored once as an archive; what follows needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import UserError, there
from ssimbad.faces.sources import registry, store
from ssimbad.files import unlike
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job


def run(params: Params, inputs: Mapping[str, Path], outputs: Mapping[str, Path], job: Job) -> None:
    """Write every file of the source into `zip`, as it comes.

    Raises:
        UserError: it cannot be had, or holds nothing.
    """
    source = params.data.source
    kind = registry.of(source)
    files = there(kind.fetch)(source, store.image_bytes(params.data.max_pixels), lambda line: job.say(f"fetch: {line}"))
    count = 0

    def counted() -> Iterator[tuple[str, bytes]]:
        nonlocal count
        taken: set[str] = set()
        for name, data in files:
            taken.add(name := unlike(inside(name), taken))
            count += 1
            yield name, data
        if not count:
            raise UserError("data.source: holds no picture; check it")

    artifacts.write_zip(outputs["zip"], counted())
    job.say(f"fetch: {count} files -> {outputs['zip']}")


def inside(name: str) -> str:
    """A name that cannot lead out of the archive; what is no UTF-8 in it is spelled with backslashes."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts).replace(":", "_").encode("utf-8", "backslashreplace").decode()
