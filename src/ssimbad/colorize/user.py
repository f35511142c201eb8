"""`ssimbad colorize`: somebody's own sketches, of any size and kind, after somebody's reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from ssimbad.colorize import answers, chunks, load
from ssimbad.errors import ParameterError, UserError
from ssimbad.faces import reading
from ssimbad.pairing import masks, resize
from ssimbad.params.base import MOST_STEPS, Colour, Sampler
from ssimbad.runtime import cores, devices

_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MAX_PIXELS = 100_000_000
_BLANK = 250
_CHUNK = 8


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
    if fit not in ("model", "sketch"):
        raise ParameterError(f"--fit {fit}: expected model or sketch")
    jobs = _pair(sketch, reference, out)
    answers.check(jobs, weights)
    device = devices.pick()
    loaded = load.trained(weights, device, channels_last=device.type == "cpu")
    how = _with_options(loaded, _colour(loaded, steps, sampler), options or {})
    takes, size = loaded.method.takes(how.options), loaded.setup.size
    if "sketch" not in takes:
        raise UserError(f"{weights}: these weights take no sketch; name weights that colour one")
    for option, path, name in (("--mask", mask, "mask"), ("--reference-mask", reference_mask, "reference_mask")):
        if path and name not in takes:
            raise ParameterError(f"{option}: these weights take no {name.replace('_', ' ')}; leave it out")
    figures, of_references = _beside(mask, [s for s, _, _ in jobs]), _beside(reference_mask, [r for _, r, _ in jobs])
    threads = cores.granted()
    together = _CHUNK * threads
    for start in range(0, len(jobs), together):
        part = jobs[start : start + together]
        greys = [_lines(s) for s, _, _ in part]
        given = {"sketch": torch.cat([to_model(grey, size) for grey in greys])}
        if "reference" in takes:
            given["reference"] = torch.cat([to_model(_colours(r), size) for _, r, _ in part])
        rows = range(start, start + len(part))
        if "mask" in takes:
            found = [_mask(figures[i], masks.of_sketch, grey) for i, grey in zip(rows, greys, strict=True)]
            given["mask"] = torch.cat([_to_share(mask, size) for mask in found])
        if "reference_mask" in takes:
            found = [
                _mask(of_references[i], masks.of_face, _colours(r)) for i, (_, r, _) in zip(rows, part, strict=True)
            ]
            given["reference_mask"] = torch.cat([_to_share(mask, size) for mask in found])
        images = chunks.colour(
            chunks.bound(loaded.method, loaded.model),
            given,
            [s.stem for s, _, _ in part],
            how,
            chunk=_CHUNK if len(jobs) > 1 else 1,
            seed=seed,
            device=device,
            threads=threads,
            precision="fp32",
            channels_last=device.type == "cpu",
        )
        for (_, _, target), grey, image in zip(part, greys, images, strict=True):
            answers.write(target, laid_over(image, grey) if fit == "sketch" else image)
            print(f"{target}", flush=True)


def _colour(loaded: load.Trained, steps: int | None, name: str | None) -> Colour:
    """As the weights were made for, but for what is asked otherwise."""
    known, own = loaded.method.samplers, loaded.colour.sampler
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise ParameterError(f"--steps {steps}: expected 1 to {MOST_STEPS}")
    if own is None:
        if name or steps:
            raise ParameterError("--sampler and --steps: these weights colour in one pass; leave them out")
        return loaded.colour
    if name is not None and name not in known:
        raise ParameterError(f"--sampler {name}: expected one of {', '.join(known)}")
    # eta and churn go with the name
    kept = own.model_dump() if name in (None, own.name) else {}
    name = name or own.name
    most = known[name].most or MOST_STEPS
    if steps is not None and steps > most:
        raise ParameterError(f"--steps {steps}: {name} has at most {most}")
    sampler = Sampler.model_validate({**kept, "name": name, "steps": steps or min(own.steps, most)})
    return loaded.colour.model_copy(update={"sampler": sampler})


def _with_options(loaded: load.Trained, how: Colour, options: Mapping[str, str]) -> Colour:
    """Raises ParameterError when the weights' method has no such option, or not with this value."""
    if not options:
        return how
    model = loaded.method.ColourOptions
    try:
        given = {key: yaml.safe_load(value) for key, value in options.items()}
        typed = model.model_validate(how.options.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(model.model_fields) or "none"
        said = first["msg"].removeprefix("Value error, ")
        raise ParameterError(f"--option {'.'.join(map(str, first['loc']))}: {said}; known options: {known}") from None
    return how.model_copy(update={"options": typed})


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


def _mask(path: Path | None, rule: Callable[[np.ndarray], np.ndarray], picture: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 255 = figure: the given one, at the picture's size, or by rule."""
    if path is None:
        return rule(picture)
    height, width = picture.shape[:2]
    grey = Image.fromarray(_colours(path)).convert("L")
    return np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))


def _to_share(mask: np.ndarray, size: int) -> Tensor:
    """(H, W) uint8 → (1, 1, size, size) float32 in [0, 1], padded to square as background."""
    return (1 - to_model(255 - mask, size)) / 2


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _colours(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 on white paper."""
    try:
        return np.asarray(reading.opaque(_read(path), _MAX_PIXELS))
    except reading.Unreadable as error:
        raise UserError(f"{path}: {error.reason}; give a picture in one of {', '.join(reading.FORMATS)}") from None


def _lines(path: Path) -> np.ndarray:
    """(H, W) uint8: dark lines on white paper, whatever kind of sketch it is."""
    grey = np.asarray(Image.fromarray(_colours(path)).convert("L"))
    if grey.min() > _BLANK:  # white lines on transparent paper are gone on white
        alpha = reading.transparency(_read(path))
        grey = 255 - alpha if alpha is not None and alpha.max() > alpha.min() else grey
    return dark_on_white(grey)


def dark_on_white(grey: np.ndarray) -> np.ndarray:
    """(H, W) uint8 → the same with its paper at 255 and its darkest lines at 0.

    A mostly dark picture is taken for a negative and inverted. Pencil grey is stretched to black, since the networks
    have learnt from black lines.
    """
    if np.median(grey) < 128:
        grey = 255 - grey
    paper, ink = float(np.median(grey)), float(np.percentile(grey, 0.5))
    if paper - ink < 1:
        return np.full_like(grey, 255)
    return np.clip(np.rint((grey - ink) / (paper - ink) * 255), 0, 255).astype(np.uint8)


def _padded(array: np.ndarray) -> np.ndarray:
    """Padded to a square, centred: by white paper for a sketch, by its own edge for a reference."""
    height, width = array.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    pads = [(top, side - height - top), (left, side - width - left)] + [(0, 0)] * (array.ndim - 2)
    if array.ndim == 2:
        return np.pad(array, pads, constant_values=255)
    return np.pad(array, pads, mode="edge")


def to_model(array: np.ndarray, size: int) -> Tensor:
    """(H, W) or (H, W, 3) uint8 → (1, 1 or 3, size, size) float32 in [-1, 1], padded to square, antialiased."""
    square = _padded(array)
    # Area averaging when it shrinks, as in training.
    how = Image.Resampling.BOX if len(square) > size else Image.Resampling.BICUBIC
    return resize.to_unit(np.asarray(Image.fromarray(square).resize((size, size), how))[None])


def laid_over(answer: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The answer (S, S, 3) at the sketch's own size (H, W), its lines multiplied over it."""
    height, width = grey.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    large = Image.fromarray(answer).resize((side, side), Image.Resampling.BICUBIC)
    colours = np.asarray(large)[top : top + height, left : left + width]
    return np.rint(colours.astype(np.float64) * (grey[..., None] / 255.0)).astype(np.uint8)
