"""`ssimbad preset`: a preset becomes params.yaml, whole, and what stood there is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import HOME, ParameterError
from ssimbad.params import overlay
from ssimbad.params import tree as params
from ssimbad.pipeline import code, dvcfile, edits, snakefile

FILE = Path("params.yaml")
FOLDER = Path("presets")


def activate(name: str, unless_active: bool = False) -> None:
    """Make presets/`name`.yaml the active params.yaml and bring dvc.yaml in line.

    A params.yaml that is neither a preset's file nor committed is somebody's work: a copy of it is kept and named.

    Args:
        unless_active: leave a params.yaml alone whose key `preset` is `name`, whatever else was edited in it.

    Raises:
        UserError: the package that runs is not this checkout's, or something runs here with other parameters.
        ParameterError: no such preset, or, with `unless_active`, a params.yaml that does not say which one it is.
    """
    code.require_own()
    source = FOLDER / f"{name}.yaml"
    presets = sorted(FOLDER.glob("*.yaml"))
    if source not in presets:
        known = ", ".join(sorted(p.stem for p in presets))
        raise ParameterError(f"preset {name}: no file {source}; presets are {known or f'missing: {HOME}'}")
    if unless_active and FILE.exists() and _active(name) == name:
        return
    loaded, text = params.load(source), overlay.whole(source)
    if not (FILE.exists() and FILE.read_bytes() == text.encode()):
        snakefile.require_idle(f"{FILE}: not replaced, since what runs here reads it")
    copy = None
    if FILE.exists() and FILE.read_bytes() not in _texts(presets):
        copy = edits.keep(FILE)
    artifacts.write_text(FILE, text)
    dvcfile.write(loaded)
    print(f"{source} -> params.yaml, dvc.yaml" + (f"; your params.yaml is kept as {copy}" if copy else ""))


def _texts(presets: list[Path]) -> Iterator[bytes]:
    """Of all presets, as they stand in params.yaml when they are active."""
    for path in presets:
        with suppress(OSError, ParameterError):  # a damaged one is no copy of what is there
            yield overlay.whole(path).encode()


def _active(wanted: str) -> str:
    try:
        return params.load(FILE).preset
    except ParameterError as error:
        raise ParameterError(
            f"{error}; mend it, or replace it with `ssimbad preset {wanted}`, which keeps a copy"
        ) from None
