"""What every kind of source gives: tensors that are described at once and read piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["PlainTensor", "StoredTensor"]


class StoredTensor(Protocol):
    """A tensor of some file, or of several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""

    @property
    def dtype(self) -> torch.dtype:
        """Kind of its numbers on disk."""

    def read(self, lo: int = 0, hi: int | None = None) -> Tensor:
        """Return rows lo to hi of the first dimension; all of them if not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainTensor:
    """A tensor of one of our models, and where its numbers come from."""

    name: str
    """In our model's state dict."""

    shape: tuple[int, ...]

    dtype: torch.dtype
    """Kind of its numbers in the source."""

    sources: tuple[str, ...]
    """Names of the source's tensors that it is made of."""

    read: Callable[[int, int], Tensor]
    """Returns rows lo to hi of the first dimension."""
