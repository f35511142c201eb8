"""The one tree of parameters. `params.yaml` holds the values, this module their types, units and limits.

Snakemake, DVC, the command line and MLflow all read the same file through `load`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from ssimbad import strict_yaml
from ssimbad.errors import ParameterError
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.params import overlay
from ssimbad.params.base import (
    Above0,
    Fraction,
    Network,
    Noise,
    OwnPath,
    Positive,
    Size,
    Solver,
    Steps,
    Strict,
    nearest,
)
from ssimbad.params.methods import Method, Train, TrainingName, needs, training


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
    precision: Literal["fp32", "bf16"] = Field(description="autocast of the network's forward and backward")
    channels_last: bool = Field(description="memory format of images and weights")
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


MethodName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]


class Params(Strict):
    """params.yaml, whole."""

    preset: str = Field(description="name of the preset this file came from")
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        description="training seeds, 0 or above, one instance each"
    )
    data: Data
    embedded: Embedded
    sketches: Sketches
    references: References
    masks: Masks = Masks()
    noise: Noise
    schedule: Schedule
    network: Network
    training: Training
    methods: Annotated[dict[MethodName, Method], Field(min_length=1)]
    colorize: Colorize
    evaluation: Evaluation
    weights: Weights
    report: Report

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: each seed once")
        if self.masks.network and sources.of(self.data.source).answers:
            raise ValueError("masks.network belongs to source folder: rendered faces have true masks; set it to null")
        if self.schedule.images > (self.data.train or self.schedule.images):
            raise ValueError("schedule.images: more than data.train")
        if self.references.pairs and sources.of(self.data.source).answers:
            raise ValueError("references.pairs belongs to your own faces; set it to null for embedded")
        if self.data.native_size % self.schedule.size:
            raise ValueError(f"schedule.size: {self.schedule.size} does not divide data.native_size")
        shared = {"network": self.network, "noise": self.noise, "schedule.saturation": self.schedule.saturation}
        for name, method in self.methods.items():
            self._check_block(name, method)
            registry.check(name, method, self.data.size, shared, self._borrowed(method))
            for slot, train in method.trainings.items():
                self._check_training(f"methods.{name}.{slot}", train)
                self._check_sources(name, slot)
        self._check_labels()
        self._check_grid()
        self._check_nfe()
        self._check_ladder()
        self._check_chain_steps()
        self._check_reverse()
        for name in self.report.sweep:
            if name not in self.methods or not self.methods[name].colour:
                raise ValueError(f"report.sweep: {name!r} is no method with a row")
        if self.report.modes and training(self.methods, self.report.modes.weights) is None:
            raise ValueError(f"report.modes.weights: {self.report.modes.weights} is no training of these parameters")
        return self

    def _check_labels(self) -> None:
        labels: dict[str, str] = {}
        for name, method in self.methods.items():
            if other := labels.get(method.label):
                raise ValueError(f"methods.{name}.label: {method.label!r} is that of {other} too; rename one of them")
            labels[method.label] = name

    def _borrowed(self, method: Method) -> Any:
        """The config of the weights that a method borrows; None where they are not there."""
        lender = self.methods.get((method.weights or "").partition("/")[0])
        return lender.config if lender and not lender.weights and lender.kind == method.kind else None

    def _check_block(self, name: str, method: Method) -> None:
        key = f"methods.{name}"
        if method.weights is None and not method.trainings:
            raise ValueError(f"{key}: no training; give one, or the weights of another method, or remove the method")
        if method.weights is not None:
            if method.trainings:
                raise ValueError(f"{key}.weights: a method that trains does not borrow; remove it or the trainings")
            lender = method.weights.partition("/")[0]
            if training(self.methods, method.weights) is None:
                raise ValueError(
                    f"{key}.weights: {method.weights} is no training of these parameters; name one, `<method>/<stage>`"
                )
            if self.methods[lender].kind != method.kind:
                raise ValueError(
                    f"{key}.kind: the weights {method.weights} are of kind {self.methods[lender].kind}; make it so"
                )
        for stage in method.colour:
            if stage not in (known := method.colouring):
                raise ValueError(f"{key}.colour: no weights of stage {stage!r} that could be a row; there are {known}")
        if method.weights and not method.colour:
            raise ValueError(f"{key}.colour: missing; say how {method.weights} colours here")

    def _check_training(self, key: str, train: Train) -> None:
        self._check_features(key, train)
        if train.images % train.batch:
            raise ValueError(f"{key}.images: {train.images} is no multiple of {key}.batch {train.batch}")
        if train.batch % self.training.threads:
            raise ValueError(f"training.threads: {self.training.threads} does not divide {key}.batch {train.batch}")
        if train.validation and not self.data.val:
            raise ValueError(f"{key}.validation: there is no validation split; set data.val, or this to null")
        if self.training.state_images % train.batch:
            raise ValueError(f"training.state_images: no multiple of {key}.batch {train.batch}")

    def _check_sources(self, method: str, slot: str) -> None:
        """What a training starts from or needs is there, fits, and does not come from itself."""
        key, start = f"methods.{method}.{slot}", self.methods[method].trainings[slot].start
        for what in needs(self.methods, method, slot).values():
            place = f"{key}.start" if what == start else key
            if what != "phi" and training(self.methods, what) is None:
                raise ValueError(f"{place}: {what} is no training of these parameters; name one that is")
        self._check_forms(method, slot)
        if start and self.methods[start.partition("/")[0]].kind != self.methods[method].kind:
            raise ValueError(f"{key}.start: {start} is of another kind")
        behind, waiting = set(), [f"{method}/{slot}"]
        while waiting:
            sources = needs(self.methods, *waiting.pop().split("/")).values()
            found = {what for what in sources if training(self.methods, what)}
            waiting += found - behind
            behind |= found
        if f"{method}/{slot}" in behind:
            raise ValueError(f"{key}: it would be made from itself; let one of {sorted(behind)} start from nothing")

    def _check_forms(self, method: str, slot: str) -> None:
        """Parts are of the form for which the kind that builds on them asks."""
        for name, what in needs(self.methods, method, slot).items():
            form = registry.get(self.methods[method].kind).asks.get(name)
            if form and self._offered(what) != form:
                fit = [full for m, block in self.methods.items() for s in block.trainings
                       if self._offered(full := f"{m}/{s}") == form]  # fmt: skip
                remedy = f"name one of {', '.join(fit)}" if fit else "there is none, give one"
                raise ValueError(f"methods.{method}.config: {what}, its {name}, is no {form}; {remedy}")

    def _offered(self, name: str) -> str | None:
        """As what other kinds can build on a training."""
        method, _, slot = name.partition("/")
        return registry.get(self.methods[method].kind).offers.get(slot) if training(self.methods, name) else None

    def _check_grid(self) -> None:
        grid = self.training.grid
        if grid and grid.images > (self.data.val or 0):
            raise ValueError(f"training.grid.images: more than data.val {self.data.val}; lower it, or set grid to null")

    def _check_nfe(self) -> None:
        known = {name for kind in registry.usable() for name in registry.get(kind).samplers}
        for i, solver in enumerate(self.report.nfe.samplers if self.report.nfe else []):
            if solver.name not in known:
                raise ValueError(
                    f"report.nfe.samplers.{i}.name: no kind has a sampler {solver.name!r}; known: "
                    + ", ".join(sorted(known))
                )

    def _check_chain_steps(self) -> None:
        for name in self.report.chain_steps:
            stage = self.methods[name].finetune if name in self.methods else None
            if stage is None or stage.objective != "trajectory":
                raise ValueError(f"report.chain_steps: {name!r} is no method with a finetune of objective trajectory")

    def _check_reverse(self) -> None:
        if (asked := self.report.reverse) is None:
            return
        if training(self.methods, asked.weights) is None:
            raise ValueError(f"report.reverse.weights: {asked.weights} is no training of these parameters")
        kind = self.methods[asked.weights.partition("/")[0]].kind
        if "ancestral" not in registry.get(kind).samplers or registry.get(kind).inputs:
            raise ValueError(f"report.reverse.weights: kind {kind} does not sample by `ancestral` from nothing")

    def _check_ladder(self) -> None:
        rungs = self.report.ladder
        for name in rungs:
            if name not in self.methods or "pretrain" not in self.methods[name].colour:
                raise ValueError(f"report.ladder: {name!r} is no method with a pretrain stage that is a row")
            if self.methods[name].pretrain != self.methods[rungs[0]].pretrain:
                raise ValueError(
                    f"report.ladder: methods.{name}.pretrain differs from that of {rungs[0]}; make it equal"
                )
        if len(rungs) == 1 or len(set(rungs)) != len(rungs):
            raise ValueError("report.ladder: two methods or more, each once; or []")

    def _check_features(self, key: str, train: Train) -> None:
        features = registry.features(train)
        if features and not self.weights.enabled and registry.needs_features(train):
            raise ValueError(f"{key}.options: the loss needs weights.{features}; set weights.enabled to true")
        if features and features not in Weights.model_fields:
            raise ValueError(f"{key}.options: the loss looks through {features!r}, which is no feature network here")
        if features and self.weights.enabled and getattr(self.weights, features) is None:
            raise ValueError(f"weights.{features}: missing; {key}.options need it (url, sha256, path)")


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys allowed where `location` stands in the tree."""
    model: Any = Params
    for part in location[:-1]:
        if kind := sources.tagged(part):
            model = kind.Config
            continue
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else Train if model is Method and part in registry.slots() else model
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)


def _one_line(source: str, error: ValidationError) -> str:
    # A misspelt key is missing and unknown at once; the unknown one tells more.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join([*map(str, sources.untagged(first["loc"])), *filter(None, [first.get("ctx", {}).get("below")])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key {where}; {nearest(str(first['loc'][-1]), _known_keys(first['loc']))}{more}"
    if first["type"] == "unknown_key":
        return f"{source}: unknown key {where}; {first['msg']}{more}"
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "float_type" and isinstance(first["input"], str):
        text += f"; {first['input']!r} is text in YAML: write it with a point, like 1.0e-4"
    return f"{source}: {where + ': ' if where else ''}{text}{more}"


def parse(text: str, source: str = "params.yaml") -> Params:
    """Validated parameters from YAML text.

    Raises:
        ParameterError: not YAML, an unknown key, a wrong type or an impossible combination; one line, exit code 2.
    """
    tree = strict_yaml.parse(text, source)
    if not isinstance(tree, dict):
        raise ParameterError(f"{source}: expected keys and values at the top; restore it with `ssimbad preset demo`")
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ParameterError(_one_line(source, error)) from None


@cache
def _parse_cached(text: str, source: str) -> Params:
    return parse(text, source)


def load(path: Path = Path("params.yaml")) -> Params:
    """Validated parameters of a file, or of a preset with what it extends; see `parse` for the errors."""
    if set(str(Path.cwd())) & set("{}"):
        raise ParameterError(f"{Path.cwd()}: Snakemake and DVC stumble over braces in a path; rename the folder")
    try:
        text = overlay.whole(path)
    except OSError as error:
        raise ParameterError(
            f"{path}: cannot be read ({error.strerror}); run in the repository root, or `ssimbad preset demo`"
        ) from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return _parse_cached(text, str(path))
