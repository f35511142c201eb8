"""`ssimbad evaluate`: two folders of pictures by all metrics, paired by name as in the study's own scripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError
from ssimbad.faces import reading
from ssimbad.metrics import measure, registry
from ssimbad.metrics.contract import Given, Lines
from ssimbad.pairing import xdog
from ssimbad.params.blocks import Evaluation, Sketches
from ssimbad.runtime import cores

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
MAX_PIXELS = 100_000_000
# As in presets/paper.yaml (a test holds them to it).
SKETCHES = Sketches(sigmas=[0.3, 0.4, 0.5], k=3.5, p=10.0, epsilon=0.01, phi=1e9, seed=0)
EVALUATION = Evaluation(bootstrap=10000, confidence=0.95, seed=0)


def run(
    real: Path,
    generated: Path,
    size: int | None = None,
    sketches: Path | None = None,
    references: Path | None = None,
    networks: dict[str, Path] | None = None,
) -> str:
    """The table of all metrics of the generated pictures against the real ones, for print.

    Args:
        size: bring every picture to this side as the stage faces does (centre square, bicubic); None: as they are.
        sketches, references: folders for the metrics that need them, with the same names.
        networks: weights files of feature networks; what looks through one that is not here is a dash.

    Raises:
        UserError: names without a partner, pictures of different sizes, a file that is no picture, or weights that are
            not the published ones. ParameterError: a size of no picture.
    """
    if size is not None and not 1 <= size <= 4096:
        raise ParameterError(f"--size {size}: expected 1 to 4096 pixels")
    files = pictures(generated)
    images = _read(files.values(), size)
    targets, shown = (
        _read(_partners(folder, files, generated), size, images.shape[1:3]) if folder else None
        for folder in (real, references)
    )
    lines = None
    if sketches:
        sheets = _read(_partners(sketches, files, generated), size, images.shape[1:3], grey=True)
        lines = Lines(sheets, xdog.draw_sigma(list(files), SKETCHES.seed, SKETCHES), SKETCHES)
    asked = networks or {}
    for name, path in asked.items():
        _require_published(name, path)
    absent = {name: f"no weights given (--{name} FILE)" for name in registry.networks() if name not in asked}
    absent |= {"lines": "no sketches given (--sketches DIR)", "references": "no references given (--references DIR)"}
    looked, _ = measure.load_networks(asked, asked, cores.granted())
    given = Given(images, targets, targets, shown, lines, looked, absent, EVALUATION.seed)
    _, entries = measure.every(registry.metrics(), given, EVALUATION, cores.granted())
    return _table(entries)


def pictures(folder: Path) -> dict[str, Path]:
    """{name without its ending: file} of a folder's pictures, sorted; umlauts in one piece, however they are spelt.

    Raises:
        UserError: it is no folder, there is no picture in it, two have one name, or one is no file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder; name one with pictures in it")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS):
        if path.exists() and not path.is_file():  # a pipe would never end
            raise UserError(f"{path}: not a file; take it away")
        name = unicodedata.normalize("NFC", path.stem)  # macOS writes umlauts in two pieces
        if name in found:
            raise UserError(f"{found[name]} and {path} have one name; take one of them away")
        found[name] = path
    if not found:
        raise UserError(f"{folder}: no picture in this folder (looked for {', '.join(sorted(ENDINGS))})")
    return found


def _partners(folder: Path, wanted: dict[str, Path], of: Path) -> list[Path]:
    """The pictures of a folder in the order of the names wanted: the same names, no fewer and no more."""
    found = pictures(folder)
    for here, missing, there in ((of, wanted.keys() - found.keys(), folder), (folder, found.keys() - wanted, of)):
        if missing:
            first = (wanted if here == of else found)[min(missing)]
            raise UserError(f"{first}: no picture of that name in {there} ({len(missing)} without a partner)")
    return [found[name] for name in wanted]


def _read(
    paths: Iterable[Path], size: int | None, sides: tuple[int, int] | None = None, grey: bool = False
) -> np.ndarray:
    """(N, H, W, 3) uint8 on white paper, or (N, H, W) when grey. Sides: those of the pictures they belong to."""
    images: list[np.ndarray] = []
    for path in paths:
        image = _one(path, size, grey)
        sides = sides or image.shape[:2]
        if image.shape[:2] != sides:
            (height, width), (h, w) = sides, image.shape[:2]
            raise UserError(f"{path}: {w}×{h} pixels, the others {width}×{height}; give --size N to bring all to N×N")
        images.append(image)
    return np.stack(images)


def _one(path: Path, size: int | None, grey: bool) -> np.ndarray:
    try:
        data = path.read_bytes()
        if size is not None:
            return (reading.normalise_grey if grey else reading.normalise)(data, size, MAX_PIXELS)[0]
        image = reading.opaque(data, MAX_PIXELS)
        return np.asarray(image.convert("L") if grey else image)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except reading.Unreadable as error:
        raise UserError(f"{path}: {error.reason}; mend it or take it away") from None


def _require_published(name: str, path: Path) -> None:
    from ssimbad.features import registry as features

    if not path.is_file():
        raise UserError(f"{path}: not there; --{name} takes the published weights file")
    if (found := artifacts.sha256(path)) != (wanted := features.module(name).SHA256):
        measured = " or ".join(metric.label for metric in registry.metrics() if name in metric.needs)
        raise UserError(
            f"{path}: sha256 {found}, not that of the published weights ({wanted}); no number from other weights is"
            f" called {measured}, so leave --{name} out or give the published file"
        )


def _table(entries: dict[str, measure.Entry]) -> str:
    rows = []
    for metric in registry.metrics():
        if metric.id not in entries:  # optional, of what two folders cannot have
            continue
        entry = entries[metric.id]
        ends = [metric.shown(entry[key]) for key in ("ci_low", "ci_high")]
        interval = "" if entry["ci_low"] is None else f"[{', '.join(ends)}]"
        detail = f" ({entry['scales']} scales)" if "scales" in entry else ""
        name = f"{metric.label}{detail} {metric.better}"
        rows.append((name, metric.shown(entry["value"]), interval, entry["n"], entry.get("reason", "")))
    return tabulate(
        rows, headers=("metric", "value", "95 % interval", "n", "why not"), disable_numparse=True,
        colalign=("left", "right", "left", "right", "left"),
    )  # fmt: skip
