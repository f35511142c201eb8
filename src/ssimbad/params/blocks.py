"""The blocks of params.yaml besides methods: their keys, types, units and limits, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ssimbad.faces.sources import registry as sources
from ssimbad.pairing.styles import STYLES
from ssimbad.params.base import Above0, Fraction, OwnPath, Positive, Size, Solver, Steps, Strict
from ssimbad.params.methods import TrainingName

# A checker reads no table of names.
if TYPE_CHECKING:
    Style = str
else:
    Style = Literal[*STYLES]


class Data(Strict):
    """Where faces come from and how they are cut."""

    source: sources.Block = Field(
        description="embedded: rendered here; folder: your own images; or a block with a kind: docs/data.md"
    )
    path: OwnPath | None = Field(description="folder or .zip of your own images; only for the short form folder")
    test_list: OwnPath | None = Field(description="text file, one file name a line, of the given test set; or null")
    native_size: Annotated[int, Field(ge=32, le=2048)] = Field(description="side of the stored square faces, pixels")
    size: Size = Field(description="side the networks see, pixels; native_size divides")
    train: Positive | None = Field(description="training images; null: all that are left")
    val: Annotated[int, Field(ge=0)] = Field(description="validation images")
    test: Annotated[int, Field(ge=3)] = Field(
        description="test images; three, so that each can have two other references"
    )
    seed: int = Field(description="of the split")
    max_pixels: Positive = Field(description="a larger image is quarantined as a decompression bomb, pixels")
    drawings: Literal["refuse", "quarantine", "keep"] = Field(
        default="refuse",
        description="what is done about faces that look like line drawings; refuse: from one in twenty on, stop",
    )

    crop: Literal["none", "centre", "face"] = Field(
        default="centre",
        description="square that is kept of a picture: none, the whole on white; centre, the middle; face, each anime "
        "face that is found in a whole illustration",
    )
    crop_factor: Annotated[float, Field(ge=1, le=4)] = Field(
        default=1.5, description="crop face: side of the square, in sides of the found face"
    )
    crop_least: Positive | None = Field(
        default=None, description="crop face: side of the smallest face, pixels; null: a quarter of native_size"
    )
    crop_most: Positive = Field(default=1, description="crop face: faces kept of one picture, the largest first")
    splits: Literal["drawn", "path"] = Field(
        default="drawn",
        description="drawn: a hash of seed and id decides; path: folders train, val and test of the source do",
    )
    identity: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: where folders are characters, cross pairs never share one; none: they may",
    )
    shards: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="jobs among which reading and drawing the faces are dealt out; no result depends on it, 1: no such "
        "jobs, and half the disk",
    )

    @model_validator(mode="after")
    def _possible(self) -> Data:
        answers = sources.of(self.source).answers
        if self.source == "folder" and not self.path:
            raise ValueError("data.path: missing; source folder needs the folder or .zip of your images")
        if answers and (self.path or self.test_list):
            raise ValueError("data.path and data.test_list belong to source folder; set them to null for embedded")
        if not isinstance(self.source, str) and self.path:
            raise ValueError("data.path belongs to the short form of source; set it to null, the block has its own")
        if answers and self.train is None:
            raise ValueError("data.train: embedded faces are as many as you say; give a number")
        if self.native_size % self.size:
            raise ValueError(f"data.size: {self.size} does not divide data.native_size {self.native_size}")
        return self


class Embedded(Strict):
    """The rendered faces."""

    style: Literal["adventurer"] = Field(description="DiceBear style")
    size: Annotated[int, Field(ge=32, le=1024)] = Field(description="side of the rendered PNG, pixels")
    seed: int = Field(description="of shapes and palettes")
    background: Literal["flat", "scene"] = Field(
        default="flat", description="scene: patterns and landscapes; these are references too, in the setting scene"
    )


class Sketches(Strict):
    """XDoG."""

    sigmas: Annotated[list[Above0], Field(min_length=1)] = Field(description="one is drawn per image, pixels")
    k: Above0 = Field(description="ratio of the two Gaussians' sigmas")
    p: Above0 = Field(description="sharpening weight")
    epsilon: float = Field(description="threshold")
    phi: Above0 = Field(description="steepness of the dark side")
    seed: int = Field(description="of the sigma of each image")
    styles: Annotated[list[Style], Field(min_length=1)] = Field(
        default=["xdog"],
        description="of the lines that trainings see, one drawn per image shown; validation and test faces keep xdog",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Sketches:
        if len(set(self.styles)) != len(self.styles):
            raise ValueError("sketches.styles: each style once")
        return self


class References(Strict):
    """Thin-plate-spline warp and cross pairing."""

    seed: int = Field(description="of the test warps and the pairing")
    low: Fraction = Field(description="inner control points lie on the diagonal from here, unit square")
    high: Fraction = Field(description="... to here")
    shift: Above0 = Field(description="largest displacement along the diagonal, unit square")
    decimals: Annotated[int, Field(ge=0, le=9)] = Field(description="points and shifts are rounded to this")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        description="largest turn about the centre, degrees; 0 as in the public code, though the study speaks of turns"
    )
    pairs: OwnPath | None = Field(
        default=None,
        description="CSV with the columns sketch and reference, test images by name: the cross pairing; null: drawn",
    )

    companions: Fraction = Field(
        default=0.0,
        description="share of training images whose reference is another face in the image's colours, warped, and not "
        "the image itself; only of rendered faces",
    )

    @model_validator(mode="after")
    def _ordered(self) -> References:
        if self.low >= self.high:
            raise ValueError("references.low must be below references.high")
        return self


class Masks(Strict):
    """Where the figure is in faces and references, for methods that take masks."""

    network: OwnPath | None = Field(
        default=None,
        description="ONNX file of a segmentation network, for faces that have neither a true nor a given mask; null: "
        "a rule",
    )


class Ddpm(Strict):
    """Discrete schedule."""

    steps: Positive = Field(description="timesteps T")
    beta_start: Above0 = Field(description="beta of the first timestep; linear in between")
    beta_end: Above0 = Field(description="beta of the last timestep")


class Schedule(Strict):
    """The noise-schedule study."""

    images: Annotated[int, Field(ge=2)] = Field(description="training faces measured")
    size: Annotated[int, Field(ge=16)] = Field(description="side at which SSIM is measured, pixels")
    seed: int = Field(description="of the image sample and the noise")
    sigmas: Annotated[int, Field(ge=8)] = Field(description="points of the shared sigma grid")
    points: Annotated[int, Field(ge=3)] = Field(description="points of the straight-line fit, uniform in phi")
    saturation: Above0 = Field(description="tanh, sigmoid and erf are clipped at 1 minus this")
    bootstrap: Annotated[int, Field(ge=100)] = Field(description="resamples over images")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(description="of the bootstrap intervals")
    select_from: Literal["rational", "published", "empirical"] = Field(
        description="family of `phi: selected`: continuous c, the published ten c, or 1 - mean SSIM"
    )
    c_low: Above0 = Field(description="search range of the continuous c")
    c_high: Above0 = Field(description="... to here")
    ddpm: Ddpm


class Grid(Strict):
    """Pictures of the first validation faces, coloured by the averaged weights: for the logbook, no outputs."""

    images: Positive = Field(description="columns: sketch, reference, answer and target of so many faces")
    every: Positive = Field(description="images between two pictures")


class Training(Strict):
    """What every training stage shares."""

    threads: Positive = Field(
        description="shares of a batch computed side by side on a CPU; the last bits of the weights depend on it"
    )
    micro_batch: Positive | None = Field(
        default=None,
        description="at most so many images at once in a forward and backward pass, their gradients added up to the "
        "batch's; null: as many as a share of the batch has",
    )
    exchange: Literal["after", "overlapped", "bf16"] = Field(
        default="overlapped",
        description="of gradients between processes, with one result: after the backward pass, or overlapped with it "
        "(on a CPU, with threads: 1); bf16: overlapped and rounded to bfloat16, half the bytes",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        description="autocast of the network's forward and backward; auto: bf16 where the device computes with it"
    )
    channels_last: bool = Field(description="memory format of images and weights")
    compile: bool = Field(
        default=False,
        description="on a GPU, torch.compile of each block of the network by itself; the last bits depend on it",
    )
    prefetch: bool = Field(
        default=False,
        description="make each batch by a thread while the step before it computes, all its parts at once: for a GPU",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="AdamW")
    clip: Above0 = Field(description="largest norm of the true gradient")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="EMA half-life as a share of the images seen so far; 0: no EMA, last weights"
    )
    minimum_rate: Annotated[float, Field(ge=0)] = Field(description="learning rate at the end of the cosine")
    keep: Positive = Field(
        default=1,
        description="so many weights that are best on validation are kept: the best as the result, the others in work/",
    )
    grid: Grid | None = Field(
        default=None, description="pictures in the logbook, of validated trainings that are rows; null: none"
    )
    log_images: Positive = Field(description="a row of the training curve every so many images")
    state_images: Positive = Field(description="resumable state every so many images, or 15 minutes")
    buckets: Annotated[list[Above0], Field(min_length=1)] = Field(description="edges of the loss-per-sigma buckets")


class Colorize(Strict):
    """Sampling of the test set."""

    chunk: Positive = Field(description="images the network always sees together; the last chunk is padded")
    seed: int = Field(description="of the initial noise, with the image id")


class Evaluation(Strict):
    """Metrics."""

    bootstrap: Annotated[int, Field(ge=100)] = Field(description="resamples over test images")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(description="of the intervals")
    seed: int = Field(description="of the resamples")


class WeightFile(Strict):
    """Weights of a feature network."""

    url: str = Field(description="where they are fetched from")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="of the whole file")
    path: OwnPath | None = Field(description="a copy of your own, used instead of the url")


class Weights(Strict):
    """Files of the feature networks; switched off, metrics through them are a dash, and losses do without or refuse."""

    enabled: bool = Field(description="fetch and use them")
    inception: WeightFile
    alexnet: WeightFile
    vgg19: WeightFile | None = Field(default=None, description="of the losses that look through it")
    vgg16: WeightFile | None = Field(default=None, description="of the loss lpips-vgg")
    clip: WeightFile | None = Field(default=None, description="of the metric clip_image and the loss clip; safetensors")


class Nfe(Strict):
    """Quality against the number of network calls, for every row that colours by a sampler."""

    calls: Annotated[list[Steps], Field(min_length=1)] = Field(description="at most so many per image")
    samplers: Annotated[list[Solver], Field(min_length=1)] = Field(description="each a curve")
    images: Positive = Field(description="the first so many test faces, same reference")


class Spread(Strict):
    """How far a row's answers from different noise lie apart, for every row that colours by a sampler."""

    samples: Annotated[int, Field(ge=2)] = Field(description="images of each face, the row's own among them")
    images: Positive = Field(description="the first so many test faces, same reference")


class Reverse(Strict):
    """Pictures of a DDPM that is given nothing: samples, trajectories, and noisy faces brought back."""

    weights: TrainingName = Field(description="training, `<method>/<stage>`, of a kind that samples by `ancestral`")
    steps: Steps = Field(description="from the last timestep; all of them, as published, are 1000")
    samples: Positive = Field(description="faces drawn from pure noise, by either variance")
    columns: Positive = Field(default=16, description="of the grid of samples")
    trajectories: Positive = Field(description="the first so many of the samples are watched on their way")
    snapshots: Annotated[int, Field(ge=2)] = Field(description="of each way, the noise and the face among them")
    images: Positive = Field(description="the first so many test faces are noised and brought back")
    start: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = Field(
        description="shares of the timesteps to which they are noised"
    )

    @model_validator(mode="after")
    def _possible(self) -> Reverse:
        if self.trajectories > self.samples:
            raise ValueError(f"trajectories: {self.trajectories} of {self.samples} samples; lower it, or raise samples")
        if self.snapshots > self.steps + 1:
            raise ValueError(f"snapshots: {self.snapshots}, but {self.steps} steps pass {self.steps + 1} pictures")
        return self

    def steps_from(self, start: float) -> int:
        """Steps from that share of the timesteps, as long as those from the last one."""
        return max(1, round(start * self.steps))


class Modes(Strict):
    """Pictures of one set of weights in all rows that colour with it, by every kind of reference."""

    weights: TrainingName = Field(description="training, `<method>/<stage>`")
    images: Positive = Field(description="the first so many test faces, of each kind of reference")


class Report(Strict):
    """Tables and figures."""

    grid_images: Positive = Field(description="columns of the picture grids")
    ladder: list[str] = Field(
        default=[], description="methods that lead from one schedule to another, each changing a part of the last"
    )
    chain_steps: list[str] = Field(
        default=[], description="methods refined through chains of different lengths; [] for no figure of them"
    )
    sweep: list[str] = Field(
        default=[], description="methods that are the points of a grid (`ssimbad sweep` writes them); [] for no table"
    )
    nfe: Nfe | None = Field(default=None, description="of the figure quality against network calls; null: no figure")
    spread: Spread | None = Field(default=None, description="of the table of spread between seeds of noise; null: none")
    modes: Modes | None = Field(default=None, description="of the pictures of weights in all their modes; null: none")
    reverse: Reverse | None = Field(default=None, description="of the pictures of a DDPM given nothing; null: none")
