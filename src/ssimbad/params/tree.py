"""The one tree of parameters: `params.yaml` holds the values, blocks.py and methods.py the types of its blocks.

Snakemake, DVC, the command line and MLflow all read the same file through `load`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError, model_validator

from ssimbad import strict_yaml
from ssimbad.errors import HOME, ParameterError
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.methods.contract import Shared
from ssimbad.params import overlay
from ssimbad.params.base import Network, Noise, Strict, nearest
from ssimbad.params.blocks import (
    Colorize,
    Data,
    Embedded,
    Evaluation,
    Masks,
    References,
    Report,
    Schedule,
    Sketches,
    Training,
    Weights,
)
from ssimbad.params.methods import Method, Train, needs, training

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
        shared: Shared = {"network": self.network, "noise": self.noise, "schedule.saturation": self.schedule.saturation}
        for name, method in self.methods.items():
            self._check_block(name, method)
            registry.check(name, method, self.data.size, shared, self._borrowed(method))
            for slot, train in method.trainings.items():
                self._check_training(f"methods.{name}.{slot}", train)
                self._check_sources(name, slot)
        self._check_labels()
        self._check_companions()
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

    def _check_companions(self) -> None:
        if not self.references.companions:
            return
        if not sources.of(self.data.source).answers:
            raise ValueError("references.companions: only rendered faces have others in their colours; set it to 0")
        for name, method in self.methods.items():
            kind = registry.get(method.kind)
            if kind.traces_warps or "reference_mask" in kind.inputs:
                raise ValueError(
                    f"references.companions: kind {method.kind} of methods.{name} trains on references that show the"
                    " image itself; set it to 0, or remove the method"
                )

    def _borrowed(self, method: Method) -> Strict | None:
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


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed where `location` stands in the tree."""
    model: type[BaseModel] = Params
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


def require_plain(folder: Path) -> None:
    """Raises ParameterError where the pipeline cannot work because of the folder's name."""
    if set(str(folder)) & set("{}"):
        raise ParameterError(f"{folder}: Snakemake and DVC stumble over braces in a path; rename the folder")


def load(path: Path = Path("params.yaml")) -> Params:
    """Validated parameters of a file, or of a preset with what it extends; see `parse` for the errors."""
    require_plain(Path.cwd())
    try:
        text = overlay.whole(path)
    except OSError as error:
        raise ParameterError(
            f"{path}: cannot be read ({error.strerror}); {HOME}, where `ssimbad preset demo` makes one"
        ) from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return _parse_cached(text, str(path))
