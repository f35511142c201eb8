"""`ssimbad colorize`: somebody's own sketches, of any size and kind, after somebody's reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from ssimbad.colorize import answers
from ssimbad.colorize.painter import Painter
from ssimbad.colorize.pictures import Wrong
from ssimbad.errors import ParameterError, UserError
from ssimbad.runtime import cores, devices, pool

_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def run(
    sketch: Path,
    reference: Path,
    weights: Path,
    out: Path,
    fit: str = "model",
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    mask: Path | None = None,
    reference_mask: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Colour one sketch or a folder of them; one reference serves all, a folder of references goes by equal names.

    Args:
        fit: "model" answers at the model's size; "sketch" at the sketch's own size, its lines laid over.
        mask, reference_mask: of the figures (white) in the sketch and in the reference, for weights that take them, or
            folders with equal names; without, they are found by rules (pairing/masks.py).
        options: of the weights' colour options, as text, those that are to be otherwise.

    Raises:
        UserError: an input is missing or no picture; ParameterError: the options do not fit each other, or an answer
            would replace an input, another answer or a file of another origin.
    """
    jobs = _pair(sketch, reference, out)
    answers.check(jobs, weights)
    painter = Painter(weights)
    figures, of_references = _beside(mask, [s for s, _, _ in jobs]), _beside(reference_mask, [r for _, r, _ in jobs])
    chosen = {key: _value(text) for key, text in (options or {}).items()}

    def colour(painter: Painter, i: int) -> None:
        files = {"sketch": jobs[i][0], "reference": jobs[i][1], "mask": figures[i], "reference_mask": of_references[i]}
        try:
            answer = painter.colour(
                **{name: path and _read(path) for name, path in files.items()},
                fit=fit, steps=steps, sampler=sampler, seed=seed, options=chosen,
            )  # fmt: skip
        except Wrong as wrong:
            picture = wrong.code == 1 and files.get(wrong.argument)
            if picture:
                raise UserError(wrong.named(str(picture))) from None
            raise ParameterError(wrong.named(flag(wrong.argument))) from None
        answers.write(jobs[i][2], answer.image)

    artists = [painter] * len(devices.workers([painter.device], cores.granted()))
    for (_, _, target), _ in zip(jobs, pool.ordered_map(colour, range(len(jobs)), artists), strict=True):
        print(f"{target}", flush=True)


def _pair(sketch: Path, reference: Path, out: Path) -> list[tuple[Path, Path, Path]]:
    """(sketch, reference, answer) of each picture to colour."""
    if not sketch.is_dir():
        if out.is_dir():
            out = out / f"{sketch.stem}.png"
        if reference.is_dir():
            raise ParameterError(f"--reference {reference}: a folder, but the sketch is one file; name one picture")
        if out.suffix.lower() != ".png":
            raise ParameterError(f"--out {out}: the answer is a PNG; give it the ending .png")
        return [(sketch, reference, out)]
    sketches = sorted(p for p in sketch.iterdir() if p.suffix.lower() in _ENDINGS)
    if not sketches:
        raise UserError(f"{sketch}: no picture in this folder (looked for {', '.join(sorted(_ENDINGS))})")
    if out.is_file() or out.suffix.lower() == ".png":
        raise ParameterError(f"--out {out}: the sketches are a folder, so name a folder for the answers")
    if not reference.is_dir():
        return [(s, reference, out / f"{s.stem}.png") for s in sketches]
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(p for p in reference.iterdir() if p.suffix.lower() in _ENDINGS):
        by_stem.setdefault(path.stem, []).append(path)
    lacking = [s.name for s in sketches if s.stem not in by_stem]
    if lacking:
        raise UserError(f"{reference}: no reference named like {lacking[0]} ({len(lacking)} lacking)")
    for s in sketches:
        if len(named := by_stem[s.stem]) > 1:
            raise ParameterError(f"{named[0]} and {named[1]} are both named like {s}; take one of them away")
    return [(s, by_stem[s.stem][0], out / f"{s.stem}.png") for s in sketches]


def _beside(masks: Path | None, pictures: list[Path]) -> list[Path | None]:
    """The mask of each picture: the one file, or that of equal name in the folder; None where none is given.

    Raises:
        UserError: the folder lacks one; ParameterError: one file for several pictures.
    """
    if masks is None:
        return [None] * len(pictures)
    if not masks.is_dir():
        if len(set(pictures)) > 1:
            raise ParameterError(f"{masks}: one mask for {len(set(pictures))} pictures; name a folder with equal names")
        return [masks] * len(pictures)
    by_stem = {p.stem: p for p in sorted(masks.iterdir(), reverse=True) if p.suffix.lower() in _ENDINGS}
    if lacking := [p.name for p in pictures if p.stem not in by_stem]:
        raise UserError(f"{masks}: no mask named like {lacking[0]} ({len(lacking)} lacking)")
    return [by_stem[p.stem] for p in pictures]


def flag(argument: str) -> str:
    """By which the command line gives an argument of the painter."""
    return f"--{'option' if argument == 'options' else argument.replace('_', '-')}"


def _value(text: str) -> object:
    """Of an option, as YAML reads it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
