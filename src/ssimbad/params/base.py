"""Types that parameters are made of, and the blocks that methods are built from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ssimbad.errors import there

# What stages and engines write into, and what is theirs to delete (a test holds it to the stage table).
MADE = (
    "data/faces", "data/sketches", "data/references", "data/masks", "data/features", "data/weights", "models",
    "outputs", "records", "reports", "logs", "work", "mlruns", "plots", ".state", ".snakemake", ".dvc", ".git",
)  # fmt: skip


def _own(path: str) -> str:
    """A file or folder of the user's, by a name that a shell, Snakemake, DVC and this program read alike."""
    if path.startswith("~"):
        raise ValueError(f"{path!r}: only a shell knows what ~ is; write the whole path")
    if set(path) & set("{}"):
        raise ValueError(f"{path!r}: braces are Snakemake's; rename it, or link to it by another name")
    if "</" in path or "<!--" in path:  # Snakemake writes paths into the scripts of its report as they are
        raise ValueError(
            f"{path!r}: `</` or `<!--` would be markup in a report; rename it, or link to it by another name"
        )
    if "//" in path or not path.isprintable() or path != path.strip():
        raise ValueError(f"{path!r}: no path of this machine; no //, no blanks around it, no line breaks")
    place = Path(path).resolve()
    for made in map(Path, MADE):
        if place.is_relative_to(made.resolve()):
            raise ValueError(f"{path!r}: the pipeline writes and deletes in {made}; keep it elsewhere, as in data/raw")
        if made.resolve().is_relative_to(place):
            raise ValueError(f"{path!r}: the pipeline writes in it, into {made}; keep it elsewhere, as in data/raw")
    return path


OwnPath = Annotated[str, AfterValidator(_own)]
Size = Annotated[int, Field(ge=16, le=1024)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
MOST_STEPS = 1000  # of a sampler: as many timesteps as DDPM has; a slip of the pen would take all memory
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]


SLOTS = ("encoder", "pretrain", "finetune")
"""The trainings that any method can have, in the order of tables; each is a stage of that name."""

TAKEN = (
    *["kind", "label", "config", "weights", "colour", "start", "phi", "all"],
    *[
        "raw",
        "fetch",
        "face_shard",
        "faces",
        "sketch_shard",
        "sketches",
        "references",
        "data_sheet",
        "masks",
        "ssim_curves",
        "select_phi",
        "colorize",
        "evaluate",
        "face_features",
    ],
    *["baselines", "tables", "measures", "figures", "ladder", "compute", "chain_steps", "nfe", "nfe_figure", "spread"],
    *["spread_table", "reverse", "reverse_figures", "modes", "sweep"],
)
"""Names that no training can have: those of other keys of a block, and of other stages (a test holds them all)."""


def slot_order(slot: str) -> tuple[int, str]:
    """Sorts trainings as tables have them: the usual ones, then those that methods bring, by name."""
    return (SLOTS.index(slot) if slot in SLOTS else len(SLOTS)), slot


def nearest(name: object, known: list[str]) -> str:
    """What to say of a name that is none of the known ones."""
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known keys: {', '.join(known)}"


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Noise(Strict):
    """Range of noise levels."""

    sigma_min: Above0 = Field(description="lowest noise level, for images in [-1, 1]")
    sigma_max: Above0 = Field(description="highest noise level")
    sigma_data: Above0 = Field(description="standard deviation assumed of images in [-1, 1]")

    @model_validator(mode="after")
    def _ordered(self) -> Noise:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("noise.sigma_min must be below noise.sigma_max")
        return self


class Network(Strict):
    """The shared U-Net."""

    base: Positive = Field(description="channels of the first level")
    multipliers: Annotated[list[Positive], Field(min_length=1)] = Field(description="channels per level / base")
    blocks: Positive = Field(description="residual blocks per level")
    heads: Positive = Field(description="of attention")
    embedding: Annotated[int, Field(ge=2)] = Field(description="channels of the sinusoid of c_noise")
    groups: Positive = Field(description="groups of GroupNorm")
    attention: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], description="levels that attend, besides the bottleneck behind the last; 0 is the image's own size"
    )

    @model_validator(mode="after")
    def _divisible(self) -> Network:
        if self.base % self.groups:
            raise ValueError(f"network.groups: {self.groups} does not divide network.base {self.base}")
        if self.embedding % 2:
            raise ValueError("network.embedding must be even (sine and cosine)")
        if (self.base * self.multipliers[-1]) % self.heads:
            raise ValueError("network.heads must divide the channels of the bottleneck")
        for level in self.attention:
            if level >= len(self.multipliers) or self.attention.count(level) > 1:
                raise ValueError(f"network.attention: {level}: expected each of 0 to {len(self.multipliers) - 1} once")
            if (self.base * self.multipliers[level]) % self.heads:
                raise ValueError(f"network.attention: network.heads must divide the channels of level {level}")
        return self

    def require_size(self, size: int) -> None:
        """Raises ValueError when images of `size` cannot be halved as often as the network does."""
        if size % (depth := 2 ** (len(self.multipliers) - 1)):
            raise ValueError(f"data.size: {size} is not divisible by {depth}, the network's downsampling")


class Churn(Strict):
    """Stochastic sampling (Karras et al. 2022, Alg. 2)."""

    s_churn: Above0 = Field(description="how much noise is added, over all steps")
    s_min: Annotated[float, Field(ge=0)] = Field(default=0.0, description="lower noise levels are left alone")
    s_max: Above0 | None = Field(default=None, description="higher noise levels are left alone; null: none are")
    s_noise: Above0 = Field(default=1.0, description="standard deviation of the added noise")


class Solver(Strict):
    """A sampler, whatever its number of steps."""

    name: str = Field(description="one of those that the method's kind has")
    eta: Fraction = Field(default=0.0, description="ddim: share of the noise that is renewed; 1 is DDPM's own sampling")
    churn: Churn | None = Field(default=None, description="heun: stochastic sampling")

    @model_validator(mode="after")
    def _own(self) -> Solver:
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta belongs to ddim, not to {self.name}; remove it")
        if self.churn and self.name != "heun":
            raise ValueError(f"churn belongs to heun, not to {self.name}; remove it")
        return self

    @property
    def label(self) -> str:
        """For tables and figures: `ddim, eta 1`."""
        own = [f"eta {self.eta:g}"] if self.eta else [f"churn {self.churn.s_churn:g}"] if self.churn else []
        return ", ".join([self.name, *own])


class Sampler(Solver):
    """A sampler on so many steps."""

    steps: Steps = Field(
        description="noise levels of the method's grid; NFE is steps, or 2 steps - 1 for heun, phi2, log2"
    )


class Colour(Strict):
    """How weights are used to colour: a row of the tables. A change of it trains nothing anew."""

    sampler: Sampler | None = Field(default=None, description="null for a method that answers in one pass")
    samples: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="the answer is the mean, pixel by pixel, of so many samples from different noise"
    )
    options: Any = Field(default_factory=dict, description="of the kind")

    @property
    def by(self) -> Sampler:
        """The sampler, for a kind that colours by one: others are refused when parameters are read."""
        return there(self.sampler)

    @property
    def words(self) -> str:
        """For logs and notes: `by ddim, eta 1 in 50 steps, the mean of 4 samples`."""
        how = f"by {self.sampler.label} in {self.sampler.steps} steps" if self.sampler else "in one pass"
        options = self.options if isinstance(self.options, dict) else self.options.model_dump(exclude_defaults=True)
        chosen = [f"{key} {_spoken(value)}" for key, value in options.items()]
        return ", ".join([how, *chosen, *([f"the mean of {self.samples} samples"] if self.samples > 1 else [])])


def _spoken(value: object) -> str:
    """`(weight 0.1, enlarge 2)` of a value that has parts."""
    return f"({', '.join(f'{k} {_spoken(v)}' for k, v in value.items())})" if isinstance(value, dict) else f"{value}"
