"""Gradients of several processes become their mean, in buckets: PyTorch's DistributedDataParallel (Li et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssimbad.errors import ParameterError, first_line
from ssimbad.runtime.distributed import ProcessGroup


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Parameters that a gradient moves."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


class _Given(nn.Module):
    """What DDP is told of a network: its parameters, and the outputs from which their gradients come.

    It reads in the outputs' graph which parameters they have met. So a loss may call the network as often as it likes,
    and others besides.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.parameters_of_it = nn.ParameterList(network.parameters())

    def forward(self, outputs: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        return outputs


class Exchange:
    """The mean gradient of one network, bit-equal on all processes and whenever the exchange takes place.

    All processes make it at the same time; each then has the leader's weights.

    Args:
        bf16: exchange in bfloat16, in half the bytes.

    Raises:
        ParameterError: this PyTorch cannot do that.
    """

    def __init__(self, network: nn.Module, group: ProcessGroup, bf16: bool = False) -> None:
        self._group, self._parameters = group, trainable(network)
        with group.exchange():
            # Where parameters may go unused, the buckets stay as they are. Else DDP sorts them anew after its first
            # step: then three or more processes would add up in another order in the first step after a resume.
            self._ddp = DistributedDataParallel(
                _Given(network), find_unused_parameters=True, gradient_as_bucket_view=True
            )
        if bf16:
            from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

            try:
                self._ddp.register_comm_hook(None, default_hooks.bf16_compress_hook)
            except TypeError as error:
                raise ParameterError(f"training.exchange: bf16: {first_line(error)}; take overlapped") from None

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self._parameters:
            parameter.grad = None

    def backward(
        self, outputs: Tensor | list[Tensor], gradients: Sequence[Tensor] | None = None, last: bool = True
    ) -> None:
        """Add the gradient of a scalar loss, or of tensors with theirs, to those since `clear`; with the `last` their
        sums are exchanged, each bucket as soon as it is whole.

        Raises:
            UserError: another process was lost.
        """
        with self._group.exchange(), nullcontext() if last else self._ddp.no_sync():
            # Of its own parameters alone: a loss that looks through an opponent would also reach those of the opponent.
            torch.autograd.backward(self._ddp(outputs), gradients, inputs=self._parameters)

    @property
    def gradients(self) -> list[Tensor]:
        """Zeros for a parameter that nothing has met."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]

    def means(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Of gradients that are there already, one per trainable parameter. Raises as `backward` does."""
        self.clear()
        self.backward([p.view_as(p) for p in self._parameters], gradients)
        return self.gradients
