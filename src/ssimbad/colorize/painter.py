"""Colouring as one object on bytes and arrays: what the command, a page and other programs use.

painter = Painter("models/ssimbad/finetune/seed-0.safetensors")
answer = painter.colour(sketch, reference)      # bytes of files, or uint8 arrays
answer.image                                     # (H, W, 3) uint8
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from ssimbad.colorize import chunks, hub, ink, layers, load, ora
from ssimbad.colorize.pictures import MAX_PIXELS, Picture, Wrong, frame, read, to_model, to_share, to_square
from ssimbad.errors import UserError, there
from ssimbad.methods import registry
from ssimbad.pairing import masks, resize
from ssimbad.params.base import MOST_STEPS, Colour, Sampler
from ssimbad.runtime import devices

FITS = ("model", "sketch")
Progress = Callable[[int, int, np.ndarray], object]
"""Told (calls made, calls in all, the picture (S, S, 3) uint8 as it is seen from there)."""


@dataclass(frozen=True)
class Options:
    """What can be chosen of loaded weights, and what is chosen where nobody says otherwise."""

    size: int
    """Side of the network's square, pixels."""
    takes: tuple[str, ...]
    """What it is given, of `sketch`, `reference`, `mask`, `reference_mask`."""
    samplers: Mapping[str, int]
    """The most steps of each; empty where it answers in one pass."""
    sampler: str | None
    steps: int | None
    colour: Mapping[str, Any]
    """The method's own options."""


@dataclass(frozen=True)
class Answer:
    """What came of one sketch."""

    small: np.ndarray
    """(S, S, 3) uint8: as the network answered."""
    seen: np.ndarray
    """(S, S) uint8: the drawing as the network saw it."""
    drawing: ink.Drawing
    """The sketch at its own size."""
    fit: str

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8: of the network's size, or of the sketch's own by `fit="sketch"`."""
        return layers.composed(self.colours, self.drawing) if self.fit == "sketch" else self.small

    @cached_property
    def colours(self) -> np.ndarray:
        """(H, W, 3) uint8: the colours alone at the sketch's own size, without any line."""
        inside = frame(*self.drawing.lines.shape, len(self.small))
        return layers.colour_layer(self.small[inside], self.seen[inside], self.drawing)

    @property
    def layer(self) -> np.ndarray:
        """(H, W, 4) uint8: the same as a layer that lies under the lines."""
        return layers.transparent(self.colours)

    @property
    def raster(self) -> list[tuple[str, bytes]]:
        """What an OpenRaster file holds, (name, bytes): lines over colours over flat areas, at the sketch's size."""
        flat = layers.transparent(layers.flat(self.colours, self.drawing))
        return ora.members({"lines": layers.line_layer(self.drawing), "colours": self.layer, "flat": flat})


class Painter:
    """Trained weights, loaded once, that colour any number of sketches; threads may share it."""

    def __init__(
        self,
        weights: str | Path,
        device: torch.device | str | None = None,
        mask_network: str | Path | None = None,
        most_pixels: int = MAX_PIXELS,
    ) -> None:
        """Load NAME.safetensors, described by NAME.json beside it, or a folder that `ssimbad export` wrote.

        "ssimbad:starter" are the weights that come with the package.

        Args:
            device: where it computes; default: a GPU if there is one.
            mask_network: what finds the figure of a reference in place of the rule; see `masks.of_network`.
            most_pixels: of a picture; those of more are refused before they are decoded.

        Raises:
            UserError: a file is missing or unreadable, the two do not fit, the weights take no sketch, or they take no
                masks and a network for them is named.
        """
        self.device = devices.pick() if device is None else torch.device(device)
        self._most = most_pixels
        self._channels_last = self.device.type == "cpu"
        self._loaded = load.trained(Path(weights), self.device, self._channels_last)
        if "sketch" not in self.options.takes:
            raise UserError(f"{weights}: these weights take no sketch; name weights that colour one")
        find = masks.of_face
        if mask_network is not None:
            if "reference_mask" not in self.options.takes:
                raise UserError(f"mask network {mask_network}: {weights} take no reference mask; leave it out")
            find = masks.of_network(Path(mask_network))
        self._find = {"mask": masks.of_sketch, "reference_mask": find}
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self._precision = "bf16" if bf16 else "fp32"

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: torch.device | str | None = None
    ) -> Painter:
        """Of what `ssimbad export` wrote: a folder here, or a repository of the Hugging Face hub, `OWNER/NAME`.

        Raises:
            UserError: there is neither, or as for `Painter(...)`.
        """
        return cls(hub.folder(name, revision), device)

    @property
    def options(self) -> Options:
        """What can be chosen."""
        method, colour = self._loaded.method, self._loaded.colour
        return Options(
            size=self._loaded.setup.size,
            takes=method.takes(colour.options),
            samplers={name: calls.most or MOST_STEPS for name, calls in method.samplers.items()},
            sampler=colour.sampler.name if colour.sampler else None,
            steps=colour.sampler.steps if colour.sampler else None,
            colour=colour.options.model_dump(),
        )

    def colour(
        self,
        sketch: Picture,
        reference: Picture | Sequence[Picture],
        *,
        mask: Picture | None = None,
        reference_mask: Picture | Sequence[Picture] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        lines: str = "auto",
        fit: str = "model",
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Answer:
        """Colour one sketch. The answer depends on these arguments alone, bit for bit on a CPU.

        Args:
            sketch: of any size and kind; see `pictures.Picture`.
            reference: one, or several, whose answers are averaged pixel by pixel.
            mask, reference_mask: of the figures (white), for weights that take them, one for each picture; found by
                rules (pairing/masks.py), or the network, where left out.
            sampler, steps: as the weights were made for, where None.
            seed: of the noise, which is the same for all sketches.
            lines: of `ink.LINES`: how they are found.
            fit: "model" answers at the network's size; "sketch" at the sketch's own, under its lines.
            options: of the weights' colour options, those that are to be otherwise.
            progress: told after each network call that can be watched, and at the end.

        Raises:
            Wrong: naming the argument.
        """
        for name, value, known in (("fit", fit, FITS), ("lines", lines, ink.LINES)):
            if value not in known:
                raise Wrong(name, f"expected {', '.join(known[:-1])} or {known[-1]}", value)
        how = with_options(self._loaded, with_sampler(self._loaded, sampler, steps), options or {})
        takes, size = self._loaded.method.takes(how.options), self._loaded.setup.size
        for name, given in (("mask", mask), ("reference_mask", reference_mask)):
            if given is not None and name not in takes:
                raise Wrong(name, f"these weights take no {name.replace('_', ' ')}; leave it out")
        references = _several(reference)
        if not references:
            raise Wrong("reference", "none is given")
        figures = _several(reference_mask) if reference_mask is not None else [None] * len(references)
        if len(figures) != len(references):
            raise Wrong("reference_mask", f"{len(figures)} for {len(references)} references; give one for each")

        drawing = self._drawing(sketch, lines)
        seen = drawing.seen(to_square(drawing.lines, size), size)
        given = {"sketch": resize.to_unit(seen[None])}
        if "mask" in takes:
            given["mask"] = to_share(self._figure("mask", mask, drawing.lines), size)
        told = _Told(progress, self._calls(how) * (len(references) if "reference" in takes else 1))
        found = []
        for i, (picture, figure) in enumerate(zip(references, figures, strict=True)):
            if "reference" in takes:
                colours, _ = read("reference", picture, i, self._most)
                given["reference"] = to_model(colours, size)
                if "reference_mask" in takes:
                    given["reference_mask"] = to_share(self._figure("reference_mask", figure, colours), size)
            found.append(self._answer(given, how, seed, told))
            if "reference" not in takes:
                break
        small = chunks.mean_image(found)
        told.end(small[0])
        return Answer(small[0], seen, drawing, fit)

    def _drawing(self, sketch: Picture, lines: str) -> ink.Drawing:
        try:
            return ink.read(*read("sketch", sketch, most=self._most), lines)
        except ink.Blank:
            found = "one grey everywhere" if lines == "as-is" else f"no lines found (lines: {lines})"
            raise Wrong(
                "sketch", f"{found}; give a drawing, or say what lines are: {', '.join(ink.LINES)}", code=1
            ) from None

    def _figure(self, argument: str, given: Picture | None, picture: np.ndarray) -> np.ndarray:
        """(H, W) uint8, 255 = figure: the given one, at the picture's size, or as it is found."""
        if given is None:
            return self._find[argument](picture)
        height, width = picture.shape[:2]
        grey = Image.fromarray(read(argument, given, most=self._most)[0]).convert("L")
        return np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))

    def _answer(self, given: Mapping[str, Tensor], how: Colour, seed: int, told: _Told) -> np.ndarray:
        """(1, S, S, 3) uint8."""
        return chunks.colour(
            chunks.bound(self._loaded.method, self._loaded.model), given, [""], how,
            chunk=1, seed=seed, device=self.device, precision=self._precision,
            channels_last=self._channels_last, watch=told.call if told.progress else None,
        )  # fmt: skip

    def _calls(self, how: Colour) -> int:
        """Those of one answer that are watched."""
        if how.sampler is None:
            return how.samples
        return self._loaded.method.samplers[how.sampler.name].of(how.sampler.steps) * how.samples


class _Told:
    """Passes on what is watched."""

    def __init__(self, progress: Progress | None, calls: int) -> None:
        self.progress, self._calls, self._made = progress, calls, 0

    def call(self, sigma: float, denoised: Tensor) -> None:
        self._made = min(self._made + 1, self._calls)
        there(self.progress)(self._made, self._calls, resize.to_bytes(denoised[:1].clamp(-1, 1))[0])

    def end(self, image: np.ndarray) -> None:
        if self.progress:
            self.progress(self._calls, self._calls, image)


def _several(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(pictures, bytes | bytearray | memoryview | np.ndarray):
        return [pictures]  # ty: ignore[invalid-explicit-return] whoever has bytes in another form may give them too
    return list(pictures)


def with_sampler(loaded: load.Trained, name: str | None, steps: int | None) -> Colour:
    """As the weights were made for, but for what is asked otherwise. Raises Wrong: it cannot be."""
    known, own = loaded.method.samplers, loaded.colour.sampler
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise Wrong("steps", f"expected 1 to {MOST_STEPS}", steps)
    if own is None:
        if name or steps:
            raise Wrong("sampler" if name else "steps", "these weights colour in one pass; leave it out")
        return loaded.colour
    if name is not None and name not in known:
        raise Wrong("sampler", f"expected one of {', '.join(known)}", name)
    # eta and churn go with the name
    kept = own.model_dump() if name in (None, own.name) else {}
    name = name or own.name
    most = known[name].most or MOST_STEPS
    if steps is not None and steps > most:
        raise Wrong("steps", f"{name} has at most {most}", steps)
    sampler = Sampler.model_validate({**kept, "name": name, "steps": steps or min(own.steps, most)})
    return loaded.colour.model_copy(update={"sampler": sampler})


def with_options(loaded: load.Trained, how: Colour, options: Mapping[str, Any]) -> Colour:
    """Raises Wrong when the weights' method has no such option, or not with this value, or the weights do not."""
    if not options:
        return how
    model = loaded.method.ColourOptions
    try:
        typed = model.model_validate(how.options.model_dump() | dict(options))
        changed = how.model_copy(update={"options": typed})
        registry.check_colour("colour", loaded.setup.kind, changed, loaded.setup.config)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(model.model_fields) or "none"
        said = first["msg"].removeprefix("Value error, ")
        raise Wrong("options", f"{said}; known options: {known}", ".".join(map(str, first["loc"]))) from None
    except ValueError as error:
        key, _, reason = str(error).removeprefix("colour.options.").partition(": ")
        raise Wrong("options", reason, key) from None
    return changed
