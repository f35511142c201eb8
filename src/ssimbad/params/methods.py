"""A block of `methods`: its trainings and rows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ssimbad.params.base import Above0, Positive, Sampler, Strict


class Train(Strict):
    """One training stage of one method."""

    start: str | None = Field(default=None, description="method whose pretrained weights it starts from (finetune)")
    objective: str = Field(description="one of the objectives of the method's kind")
    options: dict[str, Any] = Field(default_factory=dict, description="of the objective")
    images: Positive = Field(description="images seen in all")
    batch: Positive = Field(description="global batch, images per optimiser step")
    learning_rate: Above0 = Field(description="of AdamW, after the warm-up")
    warmup_images: Annotated[int, Field(ge=0)] = Field(description="linear warm-up, images; then a cosine")
    validate_images: Annotated[int, Field(ge=0)] = Field(
        description="choose the best weights on the validation split every so many images; 0: keep the last"
    )
    sampler: Sampler | None = Field(
        default=None, description="with which this row colours; null for a method that answers in one pass"
    )


class Method(Strict):
    """One method: rows of the main table."""

    kind: str = Field(description="file in src/ssimbad/methods")
    label: str = Field(description="name in tables and figures")
    config: dict[str, Any] = Field(default_factory=dict, description="of the kind")
    pretrain: Train | None = Field(default=None, description="null: the method has no such stage")
    finetune: Train | None = Field(default=None, description="null: the method has no such stage")
