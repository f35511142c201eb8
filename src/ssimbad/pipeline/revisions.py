"""Files as they were at a revision of this repository, also those that DVC has and git has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssimbad.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def files(revision: str) -> AbstractFileSystem:
    """The file system of a revision, read-only; paths are relative to the repository root.

    Raises:
        UserError: no such revision, or no repository.
    """
    from dvc.api import DVCFileSystem

    try:
        found = DVCFileSystem(".", rev=revision)
        found.ls("")  # it looks for the revision only when it is asked for something
    except Exception as error:
        raise UserError(f"{revision}: no revision of this repository ({error})") from None
    return found
