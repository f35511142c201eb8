"""What a command has put in the places of its outputs: the md5 of each file, noted before the file stands there.

The record is made from these, not from what lies there in the end, which may be somebody else's. And whoever cleans up
(cleaning.py) knows by them what a stage has left that was stopped before its record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.pipeline import records

NOTES = records.STATE / "written"
PAGE = "reports/index.html"
SUMMARY = [*(f"reports/tables/cost.{ending}" for ending in ("csv", "md", "tex")), PAGE]
"""What `ssimbad results` writes: outputs of no stage, since they hold times and whatever else is there."""


class Written:
    """The outputs of one command, as far as it has written them."""

    def __init__(self, name: str, outputs: Iterable[str], hashed: records.Hashes) -> None:
        self._name, self._notes, self._hashed = name, NOTES / f"{name}.json", hashed
        self._spelled = {str(Path(path)): path for path in outputs}
        self._earlier = read(self._notes)
        self.md5s: dict[str, str] = {}

    def note(self, temporary: Path, path: Path) -> None:
        """See `artifacts.witnessed`."""
        if output := self._spelled.get(str(path)):
            self.md5s[output] = records.md5(temporary)
            artifacts.write_json(self._notes, self._earlier | self.md5s)

    def require(self, output: str, md5: str | None) -> None:
        """Raises UserError when that is not the md5 of what was written there."""
        if self.md5s[output] != md5:
            text = "an output changed while the stage ran; run the same command again"
            raise UserError(f"{self._name}: {text} ({output} is not what was written there)")

    def require_unchanged(self) -> None:
        """Raises UserError naming an output that is not, or no more, what was written there."""
        for output in self.md5s:
            self.require(output, self._hashed.md5_of_what_is_there(output))


@contextmanager
def noted(name: str, outputs: Iterable[str], hashed: records.Hashes) -> Iterator[Written]:
    """Note what this process writes to `outputs` while the block lasts, on disk in the command's own file too."""
    found = Written(name, outputs, hashed)
    with artifacts.witnessed(found.note):
        yield found


def read(notes: Path) -> dict[str, str]:
    """{output: md5} of one command's notes; what is none is nothing, since that much is only not known."""
    try:
        found = artifacts.parsed_json(notes)
    except (OSError, ValueError):
        return {}
    words = found.items() if isinstance(found, dict) else []
    return {output: md5 for output, md5 in words if isinstance(md5, str)}
