"""Split cross-attention (Yan et al. 2025, arXiv 2502.19937): figure and background coloured apart, modes of one weight.

In pixels unless an autoencoder is named; with a small encoder of patches in place of CLIP's, trained in the first
stage; sizes are ours. Predicts noise or velocity on the scaled-linear schedule; x = x_t / sqrt(alpha_bar_t), as
AnimeDiffusion here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ssimbad.errors import UserError
from ssimbad.methods import animediffusion, chain
from ssimbad.methods.contract import (
    AUTOENCODER,
    Batch,
    Conditions,
    Features,
    Fresh,
    Losses,
    Method,
    Plan,
    Rng,
    Setup,
    Shared,
)
from ssimbad.methods.latent_cold import FACTOR, EncoderName
from ssimbad.params.base import Above0, Colour, Fraction, Positive, Sampler, Strict
from ssimbad.samplers.counts import ODE

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.split_attention import Base, Shown, SplitNetwork
    from ssimbad.samplers.ode import Watch

    Model = Base | SplitNetwork

LOWEST, HIGHEST = 0.05, 0.95
"""Between which thresholds of masks are drawn in training."""


class Config(Strict):
    timesteps: Positive = 1000
    beta_start: Above0 = 0.00085
    beta_end: Above0 = 0.012
    prediction: Literal["noise", "velocity"] = Field(
        default="noise",
        description="what the network says of a noisy image: noise, as published; velocity, as released",
    )
    patch: Positive = Field(default=8, description="side of the reference's patches, pixels; each is a token")
    width: Positive = Field(default=128, description="channels of a token")
    heads: Positive = Field(default=4, description="of attention among tokens")
    token_layers: Positive = Field(default=2, description="transformer layers that make the tokens")
    rank: Positive = Field(default=4, description="of the figure's low-rank terms; of the background's: half the width")
    queries: Positive = Field(default=64, description="recovered tokens of the background")
    recovery_layers: Positive = 2
    drop_first: Fraction = Field(default=0.8, description="share of images without a reference as the base begins")
    drop_last: Fraction = Field(default=0.5, description="the same at its end; between them a straight line")
    drop_sketch: Fraction = Field(default=0.05, description="share of the base's images without a sketch")

    encoder: EncoderName | None = Field(
        default=None, description="finished autoencoder in whose latents it works, `<method>/encoder`; null: in pixels"
    )
    latent_scale: Above0 | None = Field(
        default=None, description="times its latents: one over their standard deviation, which its measures say"
    )

    @model_validator(mode="after")
    def _divisible(self) -> Config:
        if (self.encoder is None) != (self.latent_scale is None):
            wrong, other = ("encoder", "latent_scale") if self.encoder is None else ("latent_scale", "encoder")
            raise ValueError(f"{wrong}: missing, and {other} is there; give both for latents, or neither for pixels")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}; change one of them")
        return self


class Noise(Strict):
    """First stage, the base; the reference is not shown to a share of images that falls as training goes."""


class SplitNoise(Strict):
    """Second stage: figure and background split by masks, on the frozen base."""

    drop: Fraction = Field(default=0.1, description="share of images without a reference")


class Options(chain.Scaled):
    """How one set of weights colours."""

    mode: Literal["vanilla", "bg2fig", "fig2fig"] = Field(
        default="vanilla",
        description="vanilla: no split; bg2fig: from a figure before a busy background; fig2fig: from figure to figure",
    )
    sketch_threshold: Fraction = Field(default=0.05, description="of the sketch's mask: figure is above")
    reference_threshold: Fraction = Field(default=0.5, description="of the reference's mask: background is below")
    terms: bool = Field(default=True, description="false: split, but without the low-rank terms (an ablation)")
    recovery: bool = Field(default=True, description="false: background tokens as they are (an ablation)")

    @model_validator(mode="after")
    def _of_its_mode(self) -> Options:
        if self.mode == "vanilla" and not (self.terms and self.recovery):
            raise ValueError("mode: vanilla has neither terms nor recovery; leave both out, or choose another mode")
        if self.mode == "bg2fig" and not self.recovery:
            raise ValueError("recovery: bg2fig has none; leave it out, or choose fig2fig")
        return self


def build(setup: Setup) -> Model:
    """The base; with a finished base, what is added to it."""
    from ssimbad.methods import registry
    from ssimbad.networks.split_attention import Base, Recovery, ReferencedUNet, SplitNetwork, TokenEncoder
    from ssimbad.noise import ddpm

    config, network = setup.config, setup.shared["network"].model_dump()
    if isinstance(base := registry.part(setup, "base"), Base):
        recovery = Recovery(config.queries, config.width, config.heads, config.recovery_layers)
        return SplitNetwork(base, config.rank, recovery, config.width, network["embedding"])
    codec = registry.autoencoder(setup, "codec")
    betas = ddpm.scaled_betas(config.timesteps, config.beta_start, config.beta_end)
    encoder = TokenEncoder(setup.size, config.patch, config.width, config.heads, config.token_layers)
    unet = ReferencedUNet(config.width, *((codec.code_size, 2) if codec else (3, 1)), **network)
    return Base(unet, encoder, ddpm.sigma_of(betas), config, codec)


def _base(model: Model) -> Base:
    from ssimbad.networks.split_attention import Base

    return model if isinstance(model, Base) else model.base


def training_step(model: Model, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None) -> Losses:
    import torch

    from ssimbad.networks.split_attention import Shown, SplitNetwork

    base = _base(model)
    t = (rng.uniform() * len(base.sigmas)).long()
    sigma = base.sigmas[t].to(batch.target)
    clean = base.encoded(batch.target)
    noise = rng.normal(*clean.shape[1:])
    noisy = clean + sigma[:, None, None, None] * noise
    sketch = batch.sketch
    if isinstance(model, SplitNetwork):
        ends = torch.stack([rng.uniform(), rng.uniform()]).to(batch.target)
        of_sketch, of_reference = LOWEST + (HIGHEST - LOWEST) * ends
        shown, drop = _split(model, batch, of_sketch, of_reference), plan.options.drop
    else:
        shown = Shown(base.encoder(batch.reference))
        drop = base.config.drop_first + (base.config.drop_last - base.config.drop_first) * batch.progress
        blank = (rng.uniform() < base.config.drop_sketch)[:, None, None, None]
        sketch = torch.where(blank, torch.ones_like(sketch), sketch)
    shown = _dimmed(shown, (rng.uniform() >= drop).to(noisy)[:, None, None])
    wanted = base.wanted(clean, noise, sigma)
    per_image = (base.predicted(noisy, sigma, sketch, shown) - wanted).square().mean(dim=(1, 2, 3))
    return Losses(per_image.mean(), per_image.detach(), sigma)


def _split(
    model: SplitNetwork, given: Conditions, of_sketch: Tensor, of_reference: Tensor, options: Options | None = None
) -> Shown:
    """What figure and background see apart, with thresholds (B,) of the two masks; fig2fig unless the options say."""
    from ssimbad.networks.split_attention import Shown, Split

    options = options or Options(mode="fig2fig")
    tokens = background = model.base.encoder(given.reference)
    if options.mode == "fig2fig":
        background = model.background_tokens(given.reference, given.reference_mask, of_reference, options.recovery)
    figure_terms = model.figure if options.terms else None
    background_terms = model.background if options.terms and options.mode == "fig2fig" else None
    return Shown(tokens, Split(given.mask, of_sketch, background, figure_terms, background_terms))


def _dimmed(shown: Shown, share: Tensor | float) -> Shown:
    """All tokens times the share: nothing is shown at 0."""
    split = shown.split and replace(shown.split, background=shown.split.background * share)
    return replace(shown, tokens=shown.tokens * share, split=split)


def shown(model: Model, given: Conditions, options: Options) -> Shown:
    """What the weights are shown in a mode.

    Raises:
        UserError: these are weights of the first stage, which know one mode.
    """
    import torch

    from ssimbad.networks.split_attention import Base, Shown

    if options.mode == "vanilla":
        return Shown(_base(model).encoder(given.reference))
    if isinstance(model, Base):
        raise UserError(f"mode {options.mode}: these weights have no split; colour with those of the finetuning")
    whole = torch.ones(len(given.sketch), device=given.sketch.device)
    return _split(model, given, options.sketch_threshold * whole, options.reference_threshold * whole, options)


def denoiser(model: Model, given: Conditions, options: Options) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x; sigma), guided without classifiers (Ho & Salimans 2022): D + Σ (scale - 1)·(D - D without the condition)."""
    import torch

    base, seen = _base(model), shown(model, given, options)
    unseen, blank = _dimmed(seen, 0.0), torch.ones_like(given.sketch)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        whole = guided = base(x, sigma, given.sketch, seen)
        if options.guidance_scale != 1:
            guided = guided + (options.guidance_scale - 1) * (whole - base(x, sigma, given.sketch, unseen))
        if options.sketch_guidance_scale != 1:
            guided = guided + (options.sketch_guidance_scale - 1) * (whole - base(x, sigma, blank, seen))
        return guided

    return denoise


def colorize(model: Model, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    from ssimbad.samplers import ode

    base = _base(model)
    grid = animediffusion.levels(base, colour.by.steps)

    def noise() -> Tensor:
        return fresh(*base.form(given.sketch))

    sampler = chain.make(colour.by, noise, animediffusion.axis(base))
    seen = watch and (lambda sigma, x: watch(sigma, base.decoded(x)))
    denoise = ode.watched(denoiser(model, given, colour.options or Options()), seen)
    return base.decoded(sampler(denoise, animediffusion.pure(noise(), grid), grid)).clamp(-1, 1)


def fits(config: Config, size: int, shared: Shared) -> None:
    chain.fits(config, size, shared)
    if config.encoder and size % (halved := FACTOR * 2 ** (len(shared["network"].multipliers) - 1)):
        raise ValueError(f"config.encoder: data.size {size} is not divisible by {halved}, as its latents must be")
    if size % config.patch:
        raise ValueError(f"config.patch: {config.patch} does not divide data.size {size}; change one of them")
    if len(shared["network"].multipliers) < 2:
        raise ValueError("kind: split_attention looks at its reference on two levels; give network.multipliers two")


def suits(config: Config, options: Options, slot: str) -> None:
    """Raises ValueError for a mode that weights of the slot do not know, and guidance by what they never missed."""
    if options.mode != "vanilla" and "base" not in needs(config, slot):
        raise ValueError(f"mode: weights of {slot} have no split for {options.mode}; colour with those of finetune")
    shares = {"reference": ("drop_first", max(config.drop_first, config.drop_last))}
    chain.require_missed(options, shares | {"sketch": ("drop_sketch", config.drop_sketch)})


def needs(config: Config, slot: str) -> dict[str, str]:
    return {"base": "pretrain"} if slot == "finetune" else {"codec": config.encoder} if config.encoder else {}


METHOD = Method(
    Config=Config,
    objectives={"noise": Noise, "split": SplitNoise},
    slots={"encoder": ("noise",), "pretrain": ("noise",), "finetune": ("split",)},
    build=build,
    training_step=training_step,
    colorize=colorize,
    inputs=("sketch", "reference", "mask", "reference_mask"),
    samplers=ODE,
    ColourOptions=Options,
    default_colour=lambda config: Colour(sampler=Sampler(name="dpmpp_2m", steps=20), options=Options()),
    reads=("network",),
    needs=needs,
    asks={"codec": AUTOENCODER},
    fits=fits,
    suits=suits,
)
