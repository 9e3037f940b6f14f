"""An average of the weights over the last steps: what is validated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from khala.train.ranks import local

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of every trained parameter, in float32 on its device.

    Early in a run the decay is small, (1 + step) / (10 + step), so that the first weights are
    forgotten. Buffers and frozen parameters are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.tensors = {
            name: parameter.detach().float().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after update ``step`` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averages = [local(average) for average in self.tensors.values()]
        weights = [local(one.detach()).float() for one in self._parameters.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model for the length of a ``with`` block."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._copy(self.tensors)
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take averages back from a checkpoint."""
        for name, tensor in self.tensors.items():
            local(tensor).copy_(local(tensors[name]))

    @torch.no_grad()
    def _copy(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the model's parameters."""
        for name, parameter in self._parameters.items():
            local(parameter).copy_(local(tensors[name]))
