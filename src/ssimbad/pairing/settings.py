"""The settings in which answers are made and judged: what is shown, what it is judged against, and who can have it.

Everything that depends on a setting reads this table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One way to show and to judge."""

    name: str
    words: str
    """For titles of tables."""
    archive: str
    """Name of the answers' archive; settings that show the same share one."""
    reference: str | None
    """Which stored references are shown; None: none is."""
    target: str | None
    """Which stored images the answers are judged against: `test` (the sketch's own face), `true` (the sketch's shape in
    the reference's colours), or None where single answers have no target and only sets can be compared."""
    sets: bool
    """Whether the set of answers is compared with the set of test faces (FID, KID)."""
    takes: tuple[str, ...] = ()
    """Inputs of a method without which it cannot be had."""
    without: tuple[str, ...] = ()
    """Inputs of a method with which it makes no sense."""
    listed: bool = True
    """Whether the main tables have it; the others are controls."""

    @property
    def asks(self) -> set[str]:
        """What the data must have: true `answers`, as only rendered faces have; `scenes` behind the faces."""
        needs = {"answers": self.target == "true", "scenes": self.reference == "scene"}
        return {what for what, needed in needs.items() if needed}


_ALL = (
    Setting("same", "same reference", "same", "same", "test", True, ("sketch",), without=("face",)),
    Setting(
        "cross",
        "cross reference against the sketch's own face, the published protocol",
        "cross", "cross", "test", True, ("sketch", "reference"), without=("face",),
    ),
    Setting(
        "cross-true",
        "cross reference against the true answer, the sketch's shape in the reference's colours",
        "cross", "cross", "true", False, ("sketch", "reference"), without=("face",),
    ),
    Setting(
        "cross-other",
        "somebody else's reference against the true answer of the right one",
        "other", "other", "true", False, ("sketch", "reference"), without=("face",), listed=False,
    ),
    Setting(
        "scene",
        "the other's landscape without a figure as reference, against the sketch's shape in the other's colours",
        "scene", "scene", "true", False, ("sketch", "reference"), without=("face",),
    ),
    Setting("free", "without a sketch: faces of its own", "free", None, None, True, without=("sketch", "face")),
    Setting("restored", "the face itself, restored from a degraded copy", "restored", None, "test", True, ("face",)),
)  # fmt: skip
SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _ALL}
LISTED: dict[str, str] = {setting.name: setting.words for setting in _ALL if setting.listed}
"""Of the main tables, with their words."""
PICTURED = ("same", "cross", "scene", "free", "restored")
"""Archives that are shown as grids of pictures."""
ARCHIVES: dict[str, Setting] = {setting.archive: setting for setting in reversed(_ALL)}
"""By the name of the archive, one of the settings that share it."""


def judged(inputs: Sequence[str], has: Collection[str]) -> list[Setting]:
    """Settings in which a method with these inputs is judged, on data that have this (`Setting.asks`)."""
    return [
        setting
        for setting in _ALL
        if set(setting.takes) <= set(inputs) and not set(setting.without) & set(inputs) and setting.asks <= set(has)
    ]


def coloured(inputs: Sequence[str], has: Collection[str]) -> list[str]:
    """Archives that have to be made for `judged`, each once."""
    return list(dict.fromkeys(setting.archive for setting in judged(inputs, has)))


def order(names: Iterable[str]) -> list[str]:
    """Names of settings in the table's order."""
    known = list(SETTINGS)
    return sorted(names, key=known.index)
