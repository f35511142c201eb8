"""Latent cold diffusion of the face itself, restored from a degraded copy: the task of its source, which is grey.

Everything is as in `latent_cold`, but for the start of the line, the latents of the degraded face, and for the
reference, which there is none. The other degradations are those that the source hopes for in its conclusion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ssimbad.methods import latent_cold
from ssimbad.methods.contract import Conditions, Shared
from ssimbad.params.base import Above0, Positive, Strict

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(gt=0, lt=1)]


class Degradation(Strict):
    """What is done to the face, in pixel space; only the parameter of the one that is named counts."""

    name: Literal["grey", "blur", "mask", "pixelate", "snow"] = Field(default="grey", description="which")
    channels: Literal["luma", "mean"] = Field(
        default="luma", description="grey: weighted as in the source's code, or the mean of which its text speaks"
    )
    sigma: Above0 = Field(default=2.0, description="blur: standard deviation, pixels")
    hole: Share = Field(default=0.4, description="mask: side of the square hole, as a share of the image's")
    cell: Positive = Field(default=8, description="pixelate: side of a square, pixels")
    flakes: Share = Field(default=0.15, description="snow: share of the pixels under it")


class Config(latent_cold.Config):
    """As of latent_cold, and what is done to the face."""

    degradation: Degradation = Degradation()


def degraded(config: Config, given: Conditions, normal: Callable[..., Tensor]) -> Tensor:
    """The face as it is shown."""
    from ssimbad.pairing import degradations

    face, how = given.face, config.degradation
    match how.name:
        case "grey":
            return degradations.grey(face, how.channels)
        case "blur":
            return degradations.blurred(face, how.sigma)
        case "mask":
            return degradations.masked(face, how.hole, normal)
        case "pixelate":
            return degradations.pixelated(face, how.cell)
        case "snow":
            return degradations.snowed(face, how.flakes, normal)


def fits(config: Config, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be halved twice, or cut into whole squares."""
    latent_cold.fits(config, size, shared)
    if config.degradation.name == "pixelate" and size % config.degradation.cell:
        raise ValueError(
            f"config.degradation.cell: {config.degradation.cell} does not divide data.size {size}; give one that does"
        )


METHOD = latent_cold.method(Config, degraded, ("face",), fits=fits)
