"""A block of `methods`: what is trained, and the rows that colour with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from ssimbad.methods import registry
from ssimbad.methods.contract import START
from ssimbad.params.base import Above0, Colour, Positive, Strict, nearest

Label = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$")]

TrainingName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*/[a-z][a-z0-9_]*$")]
"""`<method>/<slot>`"""


class Validation(Strict):
    """Choosing the best weights on the validation split."""

    every: Positive = Field(description="images between two validations; the last weights are judged in any case")
    colour: Colour | None = Field(
        default=None, description="how the validation faces are coloured; null: the kind has a score of its own"
    )


class Train(Strict):
    """One training of one method."""

    start: TrainingName | None = Field(
        default=None, description="training whose weights it starts from, `<method>/<stage>`; null: from nothing"
    )
    objective: str = Field(description="one of the objectives of the method's kind")
    options: Any = Field(default_factory=dict, description="of the objective")
    images: Positive = Field(description="images seen in all")
    batch: Positive = Field(description="global batch, images per optimiser step")
    learning_rate: Above0 = Field(description="of AdamW, after the warm-up")
    warmup_images: Annotated[int, Field(ge=0)] = Field(description="linear warm-up, images; then a cosine")
    validation: Validation | None = Field(
        default=None, description="how the best weights are chosen; null: the last are kept"
    )


class Method(Strict):
    """One method: its trainings, and the rows that colour with them or with another method's weights."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(description="file in src/ssimbad/methods")
    label: Label = Field(description="name in tables and figures")
    config: Any = Field(default_factory=dict, description="of the kind; that of the weights where they are borrowed")
    weights: TrainingName | None = Field(
        default=None, description="training whose weights the row borrows, `<method>/<stage>`; then nothing is trained"
    )
    encoder: Train | None = Field(default=None, description="of a part that the others build on; never a row")
    pretrain: Train | None = Field(default=None, description="null: the method has no such training")
    finetune: Train | None = Field(default=None, description="null: the method has no such training")
    colour: dict[str, Colour] = Field(
        default_factory=dict, description="the rows: for each training that is one, how its weights colour"
    )

    # The slots that only its kind has, as pydantic has one type them.
    __pydantic_extra__: dict[str, Train | None] = Field(init=False)  # ty: ignore[incompatible-mutable-override]

    @model_validator(mode="wrap")
    @classmethod
    def _typed(cls, block: Any, handler: ModelWrapValidatorHandler[Method]) -> Method:
        """Config and options become the models of the kind, once and for all."""
        if not isinstance(block, dict):
            return handler(block)
        typed = registry.typed(block)
        known = [*cls.model_fields, *registry.own_slots(block.get("kind"))]
        for key in typed.keys() - set(known):
            raise PydanticCustomError("unknown_key", "{nearest}", {"below": str(key), "nearest": nearest(key, known)})
        model = handler(typed)
        _forget(model, block)
        return model

    @property
    def trainings(self) -> Mapping[str, Train]:
        """By slot, those that there are."""
        return {slot: train for slot in registry.slots() if (train := _values(self).get(slot))}

    @property
    def colouring(self) -> list[str]:
        """The stages whose weights can colour here: its own, or the one that it borrows from."""
        found = list(self.trainings) if self.weights is None else [self.weights.partition("/")[2]]
        return [slot for slot in found if slot not in registry.get(self.kind).rowless]


def _values(model: BaseModel) -> dict[str, Any]:
    """By key; unlike attributes, keys may have the names of what every model has inside."""
    return model.__dict__ | (model.model_extra or {})


def _forget(model: BaseModel, given: Mapping[str, object]) -> None:
    """Keys that were filled in do not count as given: DVC looks for those in the file."""
    model.model_fields_set.intersection_update(given)
    for key, value in given.items():
        inner = _values(model).get(key)
        for part, raw in [(inner, value)] if isinstance(inner, BaseModel) else _pairs(inner, value):
            if isinstance(part, BaseModel) and isinstance(raw, dict):
                _forget(part, raw)


def _pairs(models: object, given: object) -> list[tuple[object, object]]:
    return [(models[key], given[key]) for key in models] if isinstance(models, dict) and isinstance(given, dict) else []


def training(methods: Mapping[str, Method], name: str) -> Train | None:
    """The training `<method>/<slot>`, None where there is none."""
    method, _, slot = name.partition("/")
    return methods[method].trainings.get(slot) if method in methods else None


def lender(methods: Mapping[str, Method], name: str) -> str:
    """The method with whose weights a block colours: itself, unless it borrows."""
    return (methods[name].weights or name).partition("/")[0]


def needs(methods: Mapping[str, Method], name: str, slot: str) -> dict[str, str]:
    """What a training is made from besides data: {name: `phi`, or a training `<method>/<slot>`}; `start` among them."""
    block = methods[name]
    found, start = registry.needs(block.kind, block.config, slot), block.trainings[slot].start
    full = {part: start if what == START else _full(name, what) for part, what in found.items()}
    full |= {"start": start}
    return {part: what for part, what in full.items() if what}


def _full(name: str, what: str) -> str:
    return f"{name}/{what}" if what in registry.slots() else what
