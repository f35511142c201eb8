"""What no other checker looks for in the files of this repository: `python .ci/files.py [FILE...]`, by default all.

- no file above 1 MiB but the weights of the package, 6 MB, which pip brings where no DVC is: bytes that stages make
  belong to DVC;
- no path of somebody's machine in a text;
- YAML that every reader reads alike: UTF-8, each key once;
- no address in a lock: where packages come from is the business of whoever installs them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ssimbad import strict_yaml
from ssimbad.errors import ParameterError

LARGEST = 1 << 20
SHIPPED, LARGEST_SHIPPED = Path("src/ssimbad/starter/model.safetensors"), 6_000_000
_OF_A_MACHINE = re.compile(r"(?<![\w.~$}/-])/(?:home|Users|root|work|tmp|mnt|scratch)/[\w.]+|\b[A-Z]:\\Users\\\w+")


def faults(path: Path) -> Iterator[str]:
    """What is wrong with one file, each as `path: what`, or `path:line: what`."""
    if path.stat().st_size > (LARGEST_SHIPPED if path == SHIPPED else LARGEST):
        yield f"{path}: larger than {'6 MB' if path == SHIPPED else '1 MiB'}"
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        if found := _OF_A_MACHINE.search(line):
            yield f"{path}:{number}: {found[0]} is a path of one machine"
        if path.suffix == ".lock" and "://" in line:
            yield f"{path}:{number}: an address in a lock"
    if path.suffix in (".yaml", ".yml"):
        try:
            strict_yaml.parse(text, str(path))
        except ParameterError as error:
            yield str(error)


def tracked() -> list[Path]:
    """The files that git has or would take, those of a downloaded archive without git."""
    try:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(listed, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        made = {".venv", ".snakemake", ".git", "work", "site"}
        return [p for p in Path().rglob("*") if p.is_file() and not made & set(p.parts)]
    return [path for name in done.stdout.split(b"\0") if name and (path := Path(name.decode())).is_file()]


if __name__ == "__main__":
    found = [fault for path in [*map(Path, sys.argv[1:])] or tracked() for fault in faults(path)]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
