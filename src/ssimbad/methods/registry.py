"""Methods by name: a method is a module in this package.

A method module is import-light (no torch at the top) and offers
- `Config`: pydantic model of `methods.<name>.config`;
- `OBJECTIVES`: {name: pydantic model of its options}, the training objectives it knows. Options whose loss looks
  through a feature network name it in a property `features`, and in `OPTIONAL_FEATURES` whether they can do without;
- `SAMPLED`: whether it colours by a sampler;
- `build(...)`, `training_step(...)`, `colorize(...)`: see `ssimbad.methods.contract`;
- `fits(config, size)`, if not every image size will do: raises ValueError;
- `remarks(config, options, features)`, if it has something to say under the tables: what of a training departs from the
  method's description. `features`: whether the feature network was there.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from ssimbad.params.methods import Method, Train

_NOT_METHODS = {"registry", "contract", "chain", "losses"}


def kinds() -> list[str]:
    """Names of all method modules."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in _NOT_METHODS)


def module(kind: str) -> ModuleType:
    """The module of a kind. Raises ValueError naming the known ones."""
    if kind not in kinds():
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds())}")
    return importlib.import_module(f"ssimbad.methods.{kind}")


def _typed(key: str, model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"unknown key {where}; known keys: {', '.join(model.model_fields)}") from None
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def config(method: Method, key: str = "config") -> Any:
    """The typed config of a method. Raises ValueError naming the wrong key."""
    return _typed(key, module(method.kind).Config, method.config)


def options(kind: str, objective: str, values: dict[str, Any], key: str = "options") -> Any:
    """The typed options of an objective. Raises ValueError naming the wrong key."""
    objectives = module(kind).OBJECTIVES
    if objective not in objectives:
        raise ValueError(f"{key}: kind {kind} has no objective {objective!r}; it has {', '.join(objectives)}")
    return _typed(key, objectives[objective], values)


def features(method: Method, stage: str) -> str | None:
    """The feature network that a stage's loss looks through (a key of `weights`), None where it needs none."""
    train: Train | None = getattr(method, stage)
    return getattr(options(method.kind, train.objective, train.options), "features", None) if train else None


def needs_features(method: Method, stage: str) -> bool:
    """Whether the stage cannot do without its feature network."""
    train: Train = getattr(method, stage)
    asked = options(method.kind, train.objective, train.options)
    return features(method, stage) is not None and not getattr(asked, "OPTIONAL_FEATURES", False)


def remarks(kind: str, config: Any, options: Any, features: bool) -> list[str]:
    """What the method says about a training under the tables."""
    say = getattr(module(kind), "remarks", None)
    return say(config, options, features) if say else []


def require_size(kind: str, config: Any, size: int) -> None:
    """Raises ValueError, which begins with the config's key, when the kind cannot do with images of `size`."""
    getattr(module(kind), "fits", lambda *_: None)(config, size)


def check(name: str, method: Method, size: int) -> None:
    """Validate one block of `methods` for images of `size`. Raises ValueError naming the wrong key."""
    try:
        module(method.kind)
    except ValueError as error:
        raise ValueError(f"methods.{name}.kind: {error}") from None
    typed = config(method, f"methods.{name}.config")
    try:
        require_size(method.kind, typed, size)
    except ValueError as error:
        raise ValueError(f"methods.{name}.config.{error}") from None
    for stage, train in (("pretrain", method.pretrain), ("finetune", method.finetune)):
        if train:
            options(method.kind, train.objective, train.options, f"methods.{name}.{stage}.options")
            if (train.sampler is not None) != module(method.kind).SAMPLED:
                wanted = "missing" if train.sampler is None else f"kind {method.kind} colours in one pass; remove it"
                raise ValueError(f"methods.{name}.{stage}.sampler: {wanted}")
