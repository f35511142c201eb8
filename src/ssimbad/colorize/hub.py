"""Exported weights from elsewhere: a folder here, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ssimbad.colorize import load
from ssimbad.errors import UserError, first_line


def folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of that name, or `load.STARTER`; else the hub's repository `OWNER/NAME`, fetched once into its cache.

    Args:
        revision: branch, tag or commit of the repository.

    Raises:
        UserError: there is neither, or the hub cannot be reached.
    """
    if Path(name).is_dir() or Path(name) == load.STARTER:
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=[load.TENSORS, load.CONFIG]))
    except Exception as error:  # the library's own, and those of whatever client it uses
        raise UserError(
            f"{name}: no folder here, and not to be had from the hub ({first_line(error)}); name a folder that"
            " `ssimbad export` wrote, or a repository, OWNER/NAME"
        ) from None
