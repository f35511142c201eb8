"""A network as ONNX, so that programs in other languages can colour with it."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ssimbad.methods.contract import Exported

OPSET = 18


class _Call(nn.Module):
    """What an `Exported` calls, as a module whose arguments are its inputs."""

    def __init__(self, model: nn.Module, what: Exported) -> None:
        super().__init__()
        self.model, self.what = model, what

    def forward(self, *given: Tensor) -> Tensor:
        return self.what.call(self.model, *given)


def written(model: nn.Module, what: Exported) -> bytes:
    """The file: opset `OPSET`, weights within, for any number of images of the model's own size.

    By torch's tracing exporter.
    """
    import onnx  # noqa: F401 - the exporter's: where it is missing, that is told before the work

    given = tuple(torch.rand(2, *shape) + 0.5 for shape in what.inputs.values())
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of constants in a trace, and of the other exporter
        torch.onnx.export(
            _Call(model, what).eval(), given,
            buffer,  # ty: ignore[invalid-argument-type] of the old exporter, which torch's types have forgotten
            dynamo=False, opset_version=OPSET,
            input_names=list(what.inputs), output_names=[what.output],
            dynamic_axes={name: {0: "batch"} for name in (*what.inputs, what.output)},
        )  # fmt: skip
    return buffer.getvalue()


def described(what: Exported, file: str) -> dict[str, Any]:
    """What a program has to know of the file, in JSON's form."""
    inputs = {name: ["batch", *shape] for name, shape in what.inputs.items()}
    chain = {"levels": list(what.levels), "start": what.start} if what.levels else {}
    return {"file": file, "opset": OPSET, "inputs": inputs, "output": what.output, **chain}
