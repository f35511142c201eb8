"""SCFT (Lee et al. 2020): a GAN that learns where in the reference each place of the sketch finds its colour.

The reference is the target itself, recoloured and warped, so the correspondence is known and supervises the attention
(§3). What the paper leaves open is chosen as the public re-implementations agree: least-squares
GAN, Adam with betas (0.5, 0.999) and no weight decay, the discriminator at twice the learning rate. The learning rate
follows the schedule of all rows (warm-up and cosine), not the re-implementations' linear fall over the second half.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ssimbad.methods.contract import (
    Batch,
    Conditions,
    Exported,
    Features,
    Fresh,
    Losses,
    Method,
    Plan,
    Player,
    Rng,
    Setup,
    Shared,
)
from ssimbad.params.base import Colour, Positive, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssimbad.samplers.ode import Watch

BETAS = (0.5, 0.999)
FAR = 2.0
"""A negative of the triplet reads more than so many tokens from the place: 4×4 tokens at least."""

Weight = Annotated[float, Field(ge=0)]


class Config(Strict):
    base: Positive = Field(default=16, description="channels of the first level")
    levels: Annotated[int, Field(ge=2)] = Field(default=5, description="tokens have the side size / 2^(levels - 1)")
    width: Positive | None = Field(default=None, description="channels of a token; null: all that the encoder has")
    residuals: Positive = Field(default=4, description="residual blocks behind the attention")
    attention: Literal["scft", "sga"] = Field(
        default="scft", description="learnt with gradients, or the stop-gradient attention of SGA, which has no triplet"
    )


class Adversarial(Strict):
    """The five weighted terms (SCFT eq. 6 to 11)."""

    OPTIONAL_FEATURES: ClassVar[bool] = True

    adversarial: Weight = 1.0
    reconstruction: Weight = 30.0
    perceptual: Weight = Field(default=0.01, description="needs weights.vgg19; without, the term is off")
    style: Weight = Field(default=50.0, description="needs weights.vgg19; without, the term is off")
    triplet: Weight = 1.0
    margin: Weight = Field(default=12.0, description="of the triplet, in logits")
    recolour: Weight = Field(default=50.0, description="largest shift of each colour channel, of 255; 0: none")
    discriminator: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[16, 32, 64, 128], description="channels of its stride-2 layers"
    )
    discriminator_rate: Annotated[float, Field(gt=0)] = Field(default=2.0, description="multiple of the learning rate")

    @property
    def features(self) -> str | None:
        """The feature network that the losses look through."""
        return "vgg19" if self.perceptual or self.style else None


def remarks(config: Config, options: Adversarial, features: bool) -> list[str]:
    found = []
    if config.attention == "sga" and options.triplet:
        found.append("SCFT with stop-gradient attention: the triplet term is off, its map has no weights to train.")
    if not features:
        why = "they need the weights of VGG-19 (weights.enabled: false)" if options.features else "their weights are 0"
        found.append(f"SCFT without its perceptual and style terms: {why}.")
    return found


def fits(config: Config, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be cut into enough tokens."""
    cell = 2 ** (config.levels - 1)
    if size % cell or size // cell < 4:
        raise ValueError(f"config.levels: {config.levels} leave no whole 4×4 tokens of {size} pixels; give fewer")


def build(setup: Setup) -> nn.Module:
    from ssimbad.networks.scft import Generator

    return Generator(**setup.config.model_dump())


def players(model: nn.Module, plan: Plan, features: Features | None) -> list[Player]:
    """The discriminator moves first, then the generator against the moved discriminator."""
    from ssimbad.networks.patch_gan import PatchGAN

    options: Adversarial = plan.options
    critic = PatchGAN(options.discriminator)
    judge = partial(discriminator_step, model, critic, options)
    colour = partial(generator_step, model, critic, options, features)
    return [
        Player(critic, judge, "discriminator", options.discriminator_rate, BETAS, weight_decay=0.0),
        Player(model, colour, betas=BETAS, weight_decay=0.0),
    ]


def discriminator_step(model: nn.Module, critic: nn.Module, options: Adversarial, batch: Batch, rng: Rng) -> Losses:
    """Least-squares GAN (Mao et al. 2017, eq. 9): real patches towards 1, coloured ones towards 0."""
    import torch

    batch, _ = recoloured(batch, options.recolour, rng)
    with torch.no_grad():
        image, _ = model(batch.sketch, batch.reference)
    real = (critic(batch.target, batch.sketch) - 1).square().mean(dim=(1, 2, 3))
    fake = critic(image, batch.sketch).square().mean(dim=(1, 2, 3))
    per_image = (real + fake) / 2
    return Losses(per_image.mean(), per_image.detach(), None)


def generator_step(
    model: nn.Module,
    critic: nn.Module,
    options: Adversarial,
    features: Features | None,
    batch: Batch,
    rng: Rng,
) -> Losses:
    batch, source = recoloured(batch, options.recolour, rng)
    image, logits = model(batch.sketch, batch.reference)
    per_image = (image - batch.target).abs().mean(dim=(1, 2, 3))
    terms = {
        "adversarial": (critic(image, batch.sketch) - 1).square().mean(),
        "reconstruction": per_image.mean(),
    }
    if logits is not None:
        terms["triplet"] = triplet(logits, source, options.margin, rng)
    if features:
        terms |= perceptual_and_style(features(image), features(batch.target))
    loss = sum(getattr(options, name) * value for name, value in terms.items())
    return Losses(loss, per_image.detach(), None, {name: value.detach() for name, value in terms.items()})


def recoloured(batch: Batch, most: float, rng: Rng) -> tuple[Batch, Tensor]:
    """The appearance transform (SCFT §3.1), and where each reference pixel reads the target, (B, S, S, 2) pixels.

    A random constant is added to each colour channel of target and reference, so that colours cannot be learnt by
    heart. The reference's black border, where the warp reads outside, stays black: it would give the constant away.
    """
    source, inside = read_by_reference(batch)
    shift = ((2 * rng.uniform(3, 1, 1) - 1) * most / 127.5).to(batch.target.dtype)
    changed = {"target": batch.target + shift, "reference": batch.reference + shift * inside}
    return replace(batch, **{name: images.clamp(-1, 1) for name, images in changed.items()}), source


def read_by_reference(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each reference pixel reads the target, (B, S, S, 2) pixels, and the share of it that lies inside,
    (B, 1, S, S): means over the pixels of the native size, at which the warp was made."""
    from torch.nn import functional as F

    from ssimbad.pairing import tps

    side = batch.target.shape[-1]
    native = batch.native or side
    read = tps.grid(batch.warp, native, native, batch.target.device)
    inside = ((read >= 0) & (read <= native - 1)).all(dim=-1)[:, None].to(batch.target)
    scale = native // side
    # Pixel centres are at 0, 1, … in both sizes.
    source = (F.avg_pool2d(read.permute(0, 3, 1, 2), scale) + 0.5) / scale - 0.5
    return source.permute(0, 2, 3, 1), F.avg_pool2d(inside, scale)


def correspondence(source: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each sketch token the reference token that shows its place, (B, T²) int64, and whether one does, bool; and
    how far from its place every reference token reads, (B, sketch T², reference T²) tokens.

    Args:
        source: (B, S, S, 2), x and y in pixels of the target read by each reference pixel.
        side: T, tokens per row.

    A place has a token when the nearest one reads at most one token away from it.
    """
    import torch
    from torch.nn import functional as F

    scale = source.shape[1] / side
    # The mean over a token's pixels, and from pixels (centres at 0, 1, …) to tokens.
    read = (F.avg_pool2d(source.permute(0, 3, 1, 2), int(scale)) + 0.5) / scale - 0.5
    distance = torch.cdist(read.flatten(2).transpose(1, 2), places(side, source)[None])  # reference × sketch
    nearest, positive = distance.min(dim=1)
    return positive, nearest <= 1, distance.transpose(1, 2)


def places(side: int, like: Tensor) -> Tensor:
    """(T², 2): x and y of each token, row by row, in tokens."""
    import torch

    axis = torch.arange(side, dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def triplet(logits: Tensor, source: Tensor, margin: float, rng: Rng) -> Tensor:
    """max(0, margin - S(q, k_positive) + S(q, k_negative)), mean over an image's tokens with a positive (SCFT eq. 9),
    then over the images: so the shares of a batch have the gradient of the whole, however many such tokens each has.

    On the logits, not on the softmax: of a softmax the gradient vanishes. The negative is a random reference token
    that reads more than `FAR` tokens from the place; a warp that folds shows a place twice.
    """
    count = logits.shape[-1]
    positive, known, distance = correspondence(source, round(count**0.5))
    far = distance > FAR
    known = known & far.any(dim=2)
    lots = rng.uniform(count, count).masked_fill(~far, -1.0)
    wrong = logits.gather(2, lots.argmax(dim=2, keepdim=True))
    right = logits.gather(2, positive[..., None])
    loss = (margin - right + wrong).clamp(min=0)[..., 0]
    return ((loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)).mean()


def perceptual_and_style(coloured: list[Tensor], target: list[Tensor]) -> dict[str, Tensor]:
    """Mean absolute difference of the feature maps, and of their Gram matrices, summed over the layers."""
    pairs = list(zip(coloured, target, strict=True))
    return {
        "perceptual": reduce(add, ((a - b).abs().mean() for a, b in pairs)),
        "style": reduce(add, ((gram(a) - gram(b)).abs().mean() for a, b in pairs)),
    }


def gram(features: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, C) inner products of the channels / (C·H·W), float32."""
    from ssimbad.networks.precision import uncast

    _, c, h, w = features.shape
    flat = features.float().flatten(2)
    with uncast(features):
        return flat @ flat.transpose(1, 2) / (c * h * w)


def colorize(model: nn.Module, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    image, _ = model(given.sketch, given.reference)
    return image


def exported(model: nn.Module, setup: Setup, colour: Colour) -> Exported:
    inputs = {"sketch": (1, setup.size, setup.size), "reference": (3, setup.size, setup.size)}
    return Exported(lambda model, *given: model(*given)[0], inputs)


METHOD = Method(
    Config=Config,
    objectives={"adversarial": Adversarial},
    build=build,
    players=players,
    colorize=colorize,
    traces_warps=True,
    fits=fits,
    exported=exported,
    remarks=remarks,
)
