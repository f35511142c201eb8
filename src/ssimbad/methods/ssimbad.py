"""SSIMBaD: phi(sigma), along which SSIM falls in a straight line, for training density, sampling grid and embedding.

It is EDM's preconditioned denoiser with phi in all three places and plain mean squared error (arXiv 2506.04283).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import model_validator

from ssimbad.methods import edm
from ssimbad.params.base import Colour, Sampler


class Config(edm.Schedule):
    sigma_density: Literal["phi"] = "phi"
    sampling_grid: Literal["phi"] = "phi"
    c_noise: Literal["phi"] = "phi"
    loss_weight: Literal["none"] = "none"

    @model_validator(mode="after")
    def _phi_given(self) -> Config:
        if self.phi is None:
            raise ValueError("phi: needed; give `selected` or a literal such as {form: rational, c: 0.3}")
        return self


METHOD = replace(
    edm.METHOD, Config=Config, default_colour=lambda config: Colour(sampler=Sampler(name="phi2", steps=50))
)
