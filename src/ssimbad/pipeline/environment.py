"""Remove a virtual environment, and nothing else: `python src/ssimbad/pipeline/environment.py .venv`.

`make clean-env` runs this file by itself, with the standard library only: the package may be a part of what goes, or
only half there. What pip has installed stands in the RECORD of each package, what venv makes has names of its own.
Everything else is somebody's and stays; of a link to an environment that others use, too, only the link goes.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OF_VENV = re.compile(r"pyvenv\.cfg|\.installed|lib64|bin/(activate(\.c?sh|\.fish)?|Activate\.ps1|python[\d.]*|𝜋thon)")
_IGNORE = "# Created by venv"  # how its .gitignore begins; others may have one of their own
_COMPILED = re.compile(r"(.*/)__pycache__/([^/]+)\.(cpython|pypy)[^/]*\.pyc")
_SHOWN = 8  # of what is left, by name


def main(venv: Path) -> None:
    """Remove and say in one line what stays."""
    if venv.is_symlink():
        print(f"{venv}: only this link is removed; {venv.readlink()} stays as it is")
        venv.unlink()
    elif (venv / "pyvenv.cfg").is_file():
        named = _recorded(venv)
        entries = sorted(_entries(venv))
        _remove(venv, [name for name in entries if _is_environment(venv, name, named)])
        if left := [name for name in entries if os.path.lexists(venv / name)]:
            more = f" and {len(left) - _SHOWN} more" if left[_SHOWN:] else ""
            names = ", ".join(name if name.isprintable() else ascii(name) for name in left[:_SHOWN])
            print(f"{venv} stays, with what is not the environment's: {names}{more}")
    else:
        print(f"{venv}: no virtual environment, nothing removed")


def _entries(venv: Path) -> Iterator[str]:
    """Files, and links to files or folders, by their names from the environment's folder."""
    for at, folders, files in os.walk(venv):
        links = [name for name in folders if (Path(at) / name).is_symlink()]
        for name in [*files, *links]:
            yield (Path(at) / name).relative_to(venv).as_posix()


def _recorded(venv: Path) -> set[str]:
    """What the packages' RECORDs name. Of a package whose RECORD cannot be read nothing is known."""
    found: set[str] = set()
    for record in venv.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        root = record.parents[1].relative_to(venv)
        with suppress(OSError, ValueError, csv.Error), record.open(encoding="utf-8", newline="") as file:
            found |= {os.path.normpath(root / row[0]) for row in csv.reader(file) if row}
    return found


def _is_environment(venv: Path, name: str, recorded: set[str]) -> bool:
    if name == ".gitignore":
        with suppress(OSError):  # a link to nowhere, say
            return (venv / name).read_bytes().startswith(_IGNORE.encode())
        return False
    compiled = _COMPILED.fullmatch(name)
    source = "".join(compiled.group(1, 2)) + ".py" if compiled else name
    return source in recorded or name in recorded or bool(_OF_VENV.fullmatch(name))


def _remove(venv: Path, names: list[str]) -> None:
    """Files, and the folders that are empty then; last what a second call needs, should this one be cut off."""
    for name in sorted(names, key=lambda name: (name == "pyvenv.cfg", name.endswith("/RECORD"))):
        (venv / name).unlink()
    for at, _, _ in os.walk(venv, topdown=False):
        with suppress(OSError):  # it holds something else
            Path(at).rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
