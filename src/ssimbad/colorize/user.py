"""`ssimbad colorize`: somebody's own sketches, of any size and kind, after somebody's reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssimbad import artifacts, strict_yaml
from ssimbad.colorize import answers, at_hand, folders, load, recipe
from ssimbad.colorize.painter import Answer, Painter
from ssimbad.colorize.pictures import Wrong
from ssimbad.errors import ParameterError, UserError, shown
from ssimbad.runtime import cores, devices, pool

SOME_FAILED = 3
"""Exit status where some sketches of a folder could not be coloured."""
_PAPER = 250  # a level of the drawing as it is seen
_WRITTEN = {"out": "image", "show_lines": "seen", "layers": "layer", "ora": "raster"}
"""By the option that names the place: what of an answer goes there."""
_ENDINGS = {"ora": ".ora"}  # of all others .png


@dataclass(frozen=True)
class Job:
    """The files of one sketch."""

    sketch: Path
    references: Sequence[Path]
    mask: Path | None
    reference_masks: Sequence[Path] | None
    places: Mapping[str, Path]
    """By the keys of `_WRITTEN`."""

    @property
    def inputs(self) -> Mapping[str, Sequence[Path]]:
        """By the painter's arguments."""
        found = {
            "sketch": [self.sketch],
            "reference": self.references,
            "reference_mask": self.reference_masks,
            "mask": [self.mask] if self.mask else None,
        }
        return {name: paths for name, paths in found.items() if paths}


def command(given: Mapping[str, Any], repeated: Path | None = None, note: Path | None = None) -> None:
    """`ssimbad colorize`: by what is named here, else by what a .json tells, else by the best weights here.

    Args:
        given: arguments of `run`, None where nothing is said.
        repeated: the .json of an earlier answer, of the page or of `note`.
        note: where such a .json is written, once all is coloured.

    Raises:
        UserError: as `run` and `recipe.read`; ParameterError: something is missing, or `note` is there.
    """
    told = recipe.read(repeated) if repeated else {}
    named = {name: value for name, value in given.items() if value not in (None, [])}
    how = told | named | {"options": told.get("options", {}) | (named.get("options") or {})}
    for name in ("sketch", "reference", "out"):
        if name not in how:
            also = "" if name == "out" else ", or --from a .json that tells it"
            raise ParameterError(f"--{name}: missing; name a picture{also}")
    if note and (note.suffix.lower() != ".json" or note.exists()):
        reason = "there already, and nothing is replaced" if note.exists() else "give it the ending .json"
        raise ParameterError(f"--note {note}: {reason}")
    if "weights" not in how:
        how["weights"] = at_hand.best()
        why = "which come with ssimbad" if how["weights"] == load.STARTER else "the best here"
        print(f"ssimbad: weights: {how['weights']}, {why}; --weights names others", file=sys.stderr)
    run(**how)
    if note:
        artifacts.write_json(note, recipe.written(note, how))


def run(
    sketch: Path,
    reference: Path | Sequence[Path],
    weights: Path,
    out: Path,
    *,
    mask: Path | None = None,
    reference_mask: Path | None = None,
    mask_network: Path | None = None,
    options: Mapping[str, Any] | None = None,
    show_lines: Path | None = None,
    layers: Path | None = None,
    ora: Path | None = None,
    overwrite: bool = False,
    sequence: bool = False,
    **how: Any,
) -> None:
    """Colour one sketch or a folder of them; one reference serves all, a folder of references goes by equal names.

    Args:
        reference: one, or several whose answers are averaged.
        mask, reference_mask: of the figures (white) in the sketch and in the reference, for weights that take them, or
            folders with equal names; without, they are found by rules (pairing/masks.py).
        mask_network: what finds the figures of references instead, an ONNX file.
        options: of the weights' colour options, those that are to be otherwise; text is read as YAML.
        show_lines: where the drawing is written as the network sees it; a folder where the sketches are one.
        layers: where the colours alone are written, at the sketch's own size, RGBA.
        ora: where lines, colours and flat areas are written as the layers of an OpenRaster file.
        overwrite: earlier answers may be replaced, and nothing else.
        sequence: the sketches are the frames of one, and how much neighbouring answers differ is told.
        how: other arguments of `Painter.colour`.

    Raises:
        UserError: an input is missing or no picture, of status 3 where others of the folder were coloured;
            ParameterError: the options do not fit each other, or an answer would replace a file.
    """
    references = [reference] if isinstance(reference, Path) else list(reference)
    asked = {"out": out, "show_lines": show_lines, "layers": layers, "ora": ora}
    places = {name: path for name, path in asked.items() if path}
    if sequence and (not sketch.is_dir() or any(path.is_dir() for path in references)):
        raise ParameterError("--sequence: wants a folder of sketches and the same references, files, for all")
    jobs = _jobs(sketch, references, mask, reference_mask, places)
    read = [path for job in jobs for paths in job.inputs.values() for path in paths]
    network = [mask_network] if mask_network else []
    answers.check([*load.files(weights), *network, *read], [p for job in jobs for p in job.places.values()], overwrite)
    painter = Painter(weights, mask_network=mask_network)
    how["options"] = {key: _value(value) for key, value in (options or {}).items()}
    failed, frames = [], Flicker()
    with tqdm(total=len(jobs), unit="sketch", disable=None) as bar:
        for job, answer in _coloured(painter, jobs, how):
            if isinstance(answer, Wrong):
                if not sketch.is_dir() or answer.code != 1 or _shared(job, jobs, answer):
                    raise _told(answer, job)
                failed.append(_told(answer, job))
            else:
                tqdm.write(shown(job.places["out"]))
                frames.add(job.sketch.name, answer)
            bar.update()
    if sequence:
        print(frames.told())
    for error in failed:
        print(f"ssimbad: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} sketches were not coloured; they are named above", SOME_FAILED)


class Flicker:
    """How much each answer differs from the one before it, where neither drawing has a line."""

    def __init__(self) -> None:
        self._last: tuple[str, Answer] | None = None
        self.steps: list[tuple[float, str, str]] = []
        """(mean absolute difference of levels of 255, and the two frames) of each pair of neighbours."""

    def add(self, name: str, answer: Answer) -> None:
        """The next frame."""
        if self._last:
            before, last = self._last
            paper = (answer.seen > _PAPER) & (last.seen > _PAPER)
            change = np.abs(answer.small[paper].astype(np.int16) - last.small[paper])
            self.steps.append((float(change.mean()) if change.size else 0.0, before, name))
        self._last = name, answer

    def told(self) -> str:
        """A line for people."""
        if not self.steps:
            return "flicker: fewer than two frames"
        most, one, other = max(self.steps)
        mean = sum(change for change, _, _ in self.steps) / len(self.steps)
        return (
            f"flicker between neighbouring frames, where neither has a line: {mean:.2f} of 255 on average,"
            f" {most:.2f} at most, from {shown(one)} to {shown(other)}"
        )


def _coloured(painter: Painter, jobs: Sequence[Job], how: Mapping[str, Any]) -> Iterator[tuple[Job, Answer | Wrong]]:
    """In order, each written before it is told of."""

    def colour(painter: Painter, job: Job) -> tuple[Job, Answer | Wrong]:
        try:
            given: dict[str, Any] = {
                name: [_read(name, path, i) for i, path in enumerate(paths)] for name, paths in job.inputs.items()
            }
            given |= {name: pictures[0] for name, pictures in given.items() if name in ("sketch", "mask")}
            answer = painter.colour(**given, **how)
        except Wrong as wrong:
            return job, wrong
        for name, path in job.places.items():
            answers.write(path, getattr(answer, _WRITTEN[name]))
        return job, answer

    return pool.ordered_map(colour, jobs, [painter] * len(devices.workers([painter.device], cores.granted())))


def _told(wrong: Wrong, job: Job) -> UserError:
    """As the command line calls what is wrong: a file, or an option."""
    if wrong.code == 1:
        paths = job.inputs[wrong.argument]
        return UserError(wrong.named(str(paths[wrong.number])))
    return ParameterError(wrong.named(f"--{'option' if wrong.argument == 'options' else _flag(wrong.argument)}"))


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _shared(job: Job, jobs: Sequence[Job], wrong: Wrong) -> bool:
    """Whether what is wrong is not this sketch's own, but everybody's."""
    return (
        len(jobs) > 1
        and wrong.argument != "sketch"
        and all(other.inputs[wrong.argument] == job.inputs[wrong.argument] for other in jobs)
    )


def _jobs(
    sketch: Path, references: Sequence[Path], mask: Path | None, reference_mask: Path | None, places: Mapping[str, Path]
) -> list[Job]:
    """One for each picture to colour."""
    if not sketch.is_dir():
        named = [*(("reference", path) for path in references), ("mask", mask), ("reference-mask", reference_mask)]
        for name, path in named:
            if path and path.is_dir():
                raise ParameterError(f"--{name} {path}: a folder, but the sketch is one file; name one picture")
        written = {name: _place(name, path, sketch) for name, path in places.items()}
        return [Job(sketch, references, mask, [reference_mask] if reference_mask else None, written)]
    sketches, others = folders.pictures(sketch)
    if others:
        print(f"ssimbad: passed over, no pictures: {', '.join(shown(path.name) for path in others)}", file=sys.stderr)
    if any(path.is_dir() and path.samefile(sketch) for path in places.values()):
        earlier = {path: answers.ours(path) for path in sketches}
        if any(earlier.values()):
            named = ", ".join(shown(path.name) for path, is_ours in earlier.items() if is_ours)
            print(f"ssimbad: passed over, earlier answers: {named}", file=sys.stderr)
        sketches = [path for path in sketches if not earlier[path]]
    if not sketches:
        raise UserError(f"{sketch}: no picture to colour in this folder; name one that has some")
    for name, path in places.items():
        if path.is_file() or path.suffix.lower() == _ending(name):
            raise ParameterError(f"--{_flag(name)} {path}: the sketches are a folder, so name a folder for the answers")
    given = list(zip(*(folders.beside("reference", path, sketches) for path in references), strict=True))
    masks = folders.beside("mask", _by_name("mask", mask, sketches), sketches) if mask else [None] * len(sketches)
    figures: list[Sequence[Path] | None] = [None] * len(sketches)
    if reference_mask:
        own = [row[0] for row in given]
        figures = [[path] for path in folders.beside("mask", _by_name("reference_mask", reference_mask, own), own)]
    names = folders.answers(sketches)
    return [
        Job(
            one,
            row,
            of_sketch,
            of_reference,
            {key: path / f"{names[one]}{_ending(key)}" for key, path in places.items()},
        )
        for one, row, of_sketch, of_reference in zip(sketches, given, masks, figures, strict=True)
    ]


def _place(name: str, path: Path, sketch: Path) -> Path:
    ending = _ending(name)
    if path.is_dir():
        path = path / f"{sketch.stem}{ending}"
    if path.suffix.lower() != ending:
        other = "; for OpenRaster there is --ora" if path.suffix.lower() == _ENDINGS["ora"] else ""
        raise ParameterError(f"--{_flag(name)} {path}: give it the ending {ending}{other}")
    return path


def _ending(name: str) -> str:
    return _ENDINGS.get(name, ".png")


def _by_name(name: str, path: Path, pictures: Sequence[Path]) -> Path:
    if not path.is_dir() and (several := len(set(pictures))) > 1:
        raise ParameterError(f"--{_flag(name)} {path}: one mask for {several} pictures; name a folder with equal names")
    return path


def _value(told: object) -> object:
    """Of an option: text as YAML reads it, and as it stands where that cannot."""
    try:
        return strict_yaml.parse(told, "--option") if isinstance(told, str) else told
    except ParameterError:
        return told


def _read(argument: str, path: Path, number: int) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Wrong(argument, f"cannot be read ({error.strerror})", code=1, number=number) from None
