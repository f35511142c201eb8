"""What the user has written into a file that a command is about to replace is kept: by git, or as a copy beside it."""

from __future__ import annotations

import subprocess
from itertools import count
from pathlib import Path

from ssimbad import artifacts


def keep(path: Path) -> Path | None:
    """A copy of `path` beside it, `<name>.<n>.bak` with the first free n; None where git has these very bytes.

    An older copy is never replaced; one that holds the same bytes serves again.

    Raises:
        OSError: the file cannot be read, or the copy not be written; then there is no copy.
    """
    data = path.read_bytes()
    if data == _committed(path):
        return None
    for n in count(1):
        copy = path.with_name(f"{path.name}.{n}.bak")
        try:
            copy.touch(exist_ok=False)
        except FileExistsError:
            if copy.is_file() and copy.read_bytes() == data:
                return copy
        else:
            return _filled(copy, data)
    raise AssertionError("count never ends")


def _filled(copy: Path, data: bytes) -> Path:
    try:
        artifacts.write_bytes(copy, data)
    except OSError:
        copy.unlink()
        raise
    return copy


def _committed(path: Path) -> bytes | None:
    """The bytes of `path` in git's last commit; None without git, without a commit, or for a file it does not have."""
    try:
        done = subprocess.run(
            ["git", "cat-file", "blob", f"HEAD:./{path.name}"],
            cwd=path.parent,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
