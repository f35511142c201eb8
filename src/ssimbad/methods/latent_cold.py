"""Latent cold diffusion: from the sketch's latents to those of the coloured face, on a straight line without noise.

An autoencoder (VQ-VAE, van den Oord et al. 2017) is a training of its own, `encoder`. Its latents, before quantisation,
are degraded along z_u = z_0 + (z_c - z_0) u: z_c of the face, z_0 of what is given, u the share of colour. A network R
restores z_c from z_u and u (Bansal et al. 2022, Cold Diffusion, eq. 1), and is applied once or step by step (Alg. 2).
The published work colours grey photographs, dense, and without a reference: `latent_cold_restore` has its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from ssimbad.methods.contract import (
    AUTOENCODER,
    Batch,
    Conditions,
    Features,
    Fresh,
    Losses,
    Method,
    NoOptions,
    Plan,
    Rng,
    Setup,
    Shared,
)
from ssimbad.params.base import Above0, Colour, Fraction, Positive, Sampler, Strict
from ssimbad.samplers.counts import Calls

if TYPE_CHECKING:
    from torch import Tensor

    from ssimbad.networks.latent_cold import LatentCold
    from ssimbad.networks.vqvae import VQVAE
    from ssimbad.samplers.ode import Watch

    Model = VQVAE | LatentCold

FACTOR = 4
"""The latents' side is the image's by this."""
STEPS = 50

Restore = Callable[["Tensor", float], "Tensor"]
"""(latents, u) → the clean latents."""


class Codec(Strict):
    """The VQ-VAE. Left out, its keys are those of the source."""

    widths: Annotated[list[Positive], Field(min_length=2, max_length=2)] = Field(
        default=[128, 256], description="channels after each halving of the side"
    )
    residuals: Positive = Field(default=6, description="residual layers of the encoder, and of the decoder")
    codes: Annotated[int, Field(ge=2)] = Field(default=512, description="vectors of the codebook")
    code_size: Positive = Field(default=32, description="numbers of a vector: channels of the latents")
    rate: Above0 = Field(default=1.0, description="of the codes, as a multiple of the learning rate")


EncoderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*/encoder$")]


class Config(Strict):
    """An autoencoder, of its own training or of another block's, and the network R on its latents."""

    codec: Codec | None = Field(default=None, description="of the block's own `encoder`; null: the source's sizes")
    encoder: EncoderName | None = Field(
        default=None, description="training whose finished autoencoder is used, `<method>/encoder`; null: the block's"
    )
    network: Literal["dense", "convolutional"] = Field(
        default="dense", description="dense: the source's, whose weights grow with the fourth power of the side"
    )
    layers: Positive = Field(default=8, description="of the network")
    width: Annotated[int, Field(ge=8, multiple_of=8)] = Field(default=64, description="channels, if convolutional")
    times: Annotated[int, Field(ge=2)] = Field(default=STEPS, description="T: trained at u = 0, 1/T … (T - 1)/T")
    timed: bool = Field(default=True, description="whether the network is told u")
    as_published: bool = Field(
        default=False, description="ReLU behind the last layer too, so that latents only rise, and one_shot at u = 1"
    )

    @model_validator(mode="after")
    def _one_codec(self) -> Config:
        if self.codec and self.encoder:
            raise ValueError(f"codec: belongs to {self.encoder}, whose autoencoder is used; remove it")
        if self.as_published and self.network != "dense":
            raise ValueError("as_published: the published network is dense; set network to dense, or remove it")
        return self


class Reconstruction(Strict):
    """The autoencoder's: squared error of the reconstructed pictures, and the two terms of the codebook."""

    commitment: Annotated[float, Field(ge=0)] = Field(default=0.25, description="weight beta of the commitment")
    direct: Fraction = Field(
        default=0.0, description="share of the pictures decoded from their latents, as all are later, not from codes"
    )
    grey: Literal["luma", "mean"] | None = Field(
        default=None, description="grey copies among the pictures, for an autoencoder that serves greys as well"
    )


class Restoration(Strict):
    """Squared error of the restored latents, at a random u."""


C = TypeVar("C", bound=Config)

Begin = Callable[[C, Conditions, Callable[..., "Tensor"]], "Tensor"]
"""(config, given, normal) → (B, 3, H, W) in [-1, 1]: the pictures whose latents are the starts of the lines. What is
random in them comes from `normal`, (*shape) → (B, *shape) ~ N(0, 1)."""


def from_sketch(config: Config, given: Conditions, normal: Callable[..., Tensor]) -> Tensor:
    """The sketch in three equal channels."""
    return given.sketch.expand(-1, 3, -1, -1)


def needs(config: Config, slot: str) -> dict[str, str]:
    return {} if slot == "encoder" else {"encoder": config.encoder or "encoder"}


def fits(config: Config, size: int, shared: Shared) -> None:
    """Raises ValueError when images of `size` cannot be halved twice."""
    if size % FACTOR:
        raise ValueError(f"config.codec: halves the side twice; data.size {size} is not divisible by {FACTOR}")


def remarks(config: Config, options: Strict, features: bool) -> list[str]:
    if isinstance(options, Reconstruction):
        return []
    said = [] if config.network == "dense" else ["R is convolutional; the published one is dense."]
    said += [] if config.timed else ["R is not told u, the share of colour."]
    return [*said, *(["R as published: latents can only rise, one_shot at u = 1."] if config.as_published else [])]


def build(begin: Begin[C], reference: bool, setup: Setup) -> Model:
    """The autoencoder alone, or a network on the latents of a finished one."""
    from ssimbad.methods import registry
    from ssimbad.networks.latent_cold import Convolutional, Dense, LatentCold
    from ssimbad.networks.vqvae import VQVAE

    config: C = setup.config
    bound = partial(begin, config)
    encoder = registry.autoencoder(setup, "encoder")
    if encoder is None:
        return VQVAE(**(config.codec or Codec()).model_dump(), begin=bound)
    channels = encoder.code_size
    if config.network == "dense":
        numbers = channels * (setup.size // FACTOR) ** 2
        network = Dense(numbers, config.layers, reference, config.timed, config.as_published)
    else:
        network = Convolutional(channels, config.width, config.layers, reference, config.timed)
    return LatentCold(encoder, network, bound, config.times, 1.0 if config.as_published else 0.0, reference)


def training_step(model: Model, batch: Batch, plan: Plan, rng: Rng, features: Features | None = None) -> Losses:
    import torch

    from ssimbad.networks.vqvae import VQVAE

    if isinstance(model, VQVAE):
        return _reconstruction_step(model, batch, plan.options, rng)
    with torch.no_grad():
        clean = model.encoder.encode(batch.target)
        start, reference = begun(model, batch, rng.normal)
    u = ((rng.uniform() * model.times).floor() / model.times).to(clean)
    degraded = start + (clean - start) * u[:, None, None, None]
    per_image = (model(degraded, reference, u) - clean).square().mean(dim=(1, 2, 3))
    return Losses(per_image.mean(), per_image.detach(), None)


def _reconstruction_step(model: VQVAE, batch: Batch, options: Reconstruction, rng: Rng) -> Losses:
    """Eq. 3 of VQ-VAE on the faces, what they are coloured from, and grey copies if asked for, all together."""
    import torch

    from ssimbad.pairing.degradations import grey

    pictures = [batch.target, *([model.begin(batch, rng.normal)] if model.begin else [])]
    pictures += [grey(batch.target, options.grey)] if options.grey else []
    shown = torch.cat(pictures)
    direct = torch.cat([rng.uniform() for _ in pictures]) < options.direct
    image, quantised = model(shown, direct)
    wrong = (image - shown).square().mean(dim=(1, 2, 3))
    terms = {
        "reconstruction": wrong.mean(),
        "commitment": quantised.commitment,
        "codebook": quantised.codebook,
    }
    loss = terms["reconstruction"] + options.commitment * terms["commitment"] + terms["codebook"]
    per_image = wrong.detach().reshape(len(pictures), -1).mean(dim=0)
    return Losses(loss, per_image, None, {name: value.detach() for name, value in terms.items()})


def begun(model: LatentCold, given: Conditions, normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor | None]:
    """z_0, and the latents of the reference if R reads one; (B, D, h, w) each."""
    reference = model.encoder.encode(given.reference) if model.refers else None
    return model.encoder.encode(model.begin(given, normal)), reference


def cold(restore: Restore, start: Tensor, steps: int) -> Tensor:
    """Cold Diffusion, Alg. 2, from z_0 = `start`. NFE = N.

    On a straight line z - D(x, u) + D(x, u + 1/N) is z + (x - z_0)/N, whatever u: with the true z_c restored at every
    step the end is z_c, and in any case z_0 plus the mean of (x - z_0) over the steps.
    """
    z = start
    for step in range(steps):
        z = z + (restore(z, step / steps) - start) / steps
    return z


def colorize(model: Model, given: Conditions, fresh: Fresh, colour: Colour, watch: Watch | None) -> Tensor:
    from ssimbad.networks.latent_cold import LatentCold

    assert isinstance(model, LatentCold), "an autoencoder has no row"
    start, reference = begun(model, given, fresh)
    return model.encoder.decode(sampled(model, start, reference, colour.by, watch))


def sampled(
    model: LatentCold, start: Tensor, reference: Tensor | None, sampler: Sampler, watch: Watch | None = None
) -> Tensor:
    """(B, D, h, w) restored from `start`. `watch` is told the share of what is degraded, 1 - u, in place of sigma."""
    import torch

    def restore(z: Tensor, u: float) -> Tensor:
        restored = model(z, reference, torch.full((len(z),), u, device=z.device))
        if watch:
            watch(1 - u, model.encoder.decode(restored))
        return restored

    if sampler.name == "one_shot":
        return restore(start, model.one_shot_at)
    return cold(restore, start, sampler.steps)


def score(model: Model, batch: Batch) -> Tensor:
    """(B,): minus the squared error of an autoencoder's images, or of the latents restored in one shot."""
    from ssimbad.networks.vqvae import VQVAE

    if isinstance(model, VQVAE):
        return -(model(batch.target)[0] - batch.target).square().mean(dim=(1, 2, 3))
    clean = model.encoder.encode(batch.target)
    start, reference = begun(model, batch, _same_noise(batch))
    return -(sampled(model, start, reference, _ONE_SHOT) - clean).square().mean(dim=(1, 2, 3))


_ONE_SHOT = Sampler(name="one_shot", steps=1)


def _same_noise(batch: Batch) -> Callable[..., Tensor]:
    """Normal numbers that are the same for every batch: what is judged does not change from one time to the next."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(len(batch.target), *shape, generator=generator).to(batch.target)


def measures(model: Model, batches: Iterator[Batch]) -> dict[str, float]:
    """What the source reports: of an autoencoder its reconstruction and the use of its codebook, of a restoring network
    the errors of its latents and of its pixels by both samplers. Means over all numbers of all faces in [-1, 1]."""
    from ssimbad.networks.vqvae import VQVAE

    return _of_autoencoder(model, batches) if isinstance(model, VQVAE) else _of_network(model, batches)


def _of_autoencoder(model: VQVAE, batches: Iterator[Batch]) -> dict[str, float]:
    import torch

    wrong, direct, used, powers = [], [], [], []
    for batch in batches:
        image, quantised = model(batch.target)
        latents = model.encode(batch.target).double()
        powers.append(torch.stack([latents, latents.square()]).mean(dim=(2, 3, 4)))
        wrong.append((image - batch.target).square().mean(dim=(1, 2, 3)))
        direct.append((model.decode(model.encode(batch.target)) - batch.target).square().mean(dim=(1, 2, 3)))
        used.append(torch.bincount(quantised.codes.flatten().cpu(), minlength=len(model.codebook.codes)))
    first, second = torch.cat(powers, dim=1).detach().mean(dim=1)
    return {
        "reconstruction MSE of faces": _mean(wrong),
        "the same without quantisation, as latents are decoded": _mean(direct),
        "standard deviation of their latents": float((second - first.square()).sqrt()),
        **usage(torch.stack(used).sum(dim=0)),
    }


def usage(counts: Tensor) -> dict[str, float]:
    """(K,) how often each code was chosen → how many were at all, and the perplexity exp(-Σ p ln p), 1 to K."""
    import torch

    share = counts.double() / counts.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return {
        f"codes used by them, of {len(counts)}": float((counts > 0).sum()),
        "perplexity of the codes": float(entropy.exp()),
    }


def _of_network(model: LatentCold, batches: Iterator[Batch]) -> dict[str, float]:
    import torch

    names = {"one_shot": _ONE_SHOT, "cold": Sampler(name="cold", steps=model.times)}
    errors: dict[str, list[Tensor]] = {}
    for batch in batches:
        clean = model.encoder.encode(batch.target)
        start, reference = begun(model, batch, _same_noise(batch))
        found = {name: sampled(model, start, reference, how) for name, how in names.items()}
        for name, z in {**found, "the start itself": start, "the face's own latents": clean}.items():
            image = model.encoder.decode(z)
            each = {
                "MSE of pixels": (image - batch.target).square(),
                "MSE of latents": (z - clean).square(),
                "MAPE of latents, %": 100 * torch.where(clean == 0, 0.0, (z - clean) / clean).abs(),
            }
            for what, values in each.items():
                errors.setdefault(f"{what}, {name}", []).append(values.mean(dim=(1, 2, 3)))
    return {what: _mean(values) for what, values in errors.items()}


def _mean(parts: list[Tensor]) -> float:
    import torch

    return float(torch.cat(parts).detach().double().mean())


def method(
    config: type[C], begin: Begin[C], inputs: tuple[str, ...], fits: Callable[[C, int, Shared], None] = fits
) -> Method[C, Model, NoOptions]:
    """A kind of latent cold diffusion: by where its lines start, and what it is given."""
    return Method(
        Config=config,
        objectives={"reconstruction": Reconstruction, "restoration": Restoration},
        slots={"encoder": ("reconstruction",), "pretrain": ("restoration",), "finetune": ("restoration",)},
        build=partial(build, begin, "reference" in inputs),
        training_step=training_step,
        colorize=colorize,
        score=score,
        measures=measures,
        inputs=inputs,
        samplers={"cold": Calls(), "one_shot": Calls(most=1)},
        by_noise=False,
        default_colour=lambda config: Colour(sampler=Sampler(name="cold", steps=config.times)),
        needs=needs,
        offers={"encoder": AUTOENCODER},
        asks={"encoder": AUTOENCODER},
        remarks=remarks,
        fits=fits,
    )


METHOD = method(Config, from_sketch, ("sketch", "reference"))
