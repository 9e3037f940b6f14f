"""Keys and values of the positions a causal model has already seen.

Shape letters: B batch, H KV heads, S stream positions, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from khala.errors import TokenError
from khala.nn.config import TrunkConfig


@dataclass(kw_only=True)
class KVCache:
    """Memory for one batch of streams, allocated once; rows may have different lengths."""

    keys: list[Tensor]
    """One [B, H, S, K] tensor per layer; keys are stored already rotated."""

    values: list[Tensor]
    """One [B, H, S, K] tensor per layer."""

    lengths: list[int]
    """Positions filled in each row of the batch."""

    @property
    def capacity(self) -> int:
        """Positions each row can hold."""
        return self.keys[0].shape[2]

    def row(self, index: int) -> KVCache:
        """Return a batch-of-one view of one row that shares this cache's memory.

        Lengths are copied: after a prefill through the view, set ``lengths[index]`` here.
        """
        return KVCache(
            keys=[k_BHSK[index : index + 1] for k_BHSK in self.keys],
            values=[v_BHSK[index : index + 1] for v_BHSK in self.values],
            lengths=[self.lengths[index]],
        )

    def take(self, row: int, other: KVCache) -> None:
        """Take over what a stream alone has read, as a row of this cache."""
        (num,) = other.lengths
        for ours, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            ours[row, :, :num] = theirs[0, :, :num]
        self.lengths[row] = num

    def copy_from(self, other: KVCache, lengths: Sequence[int]) -> None:
        """Take over the first positions of another cache's rows, so many of each."""
        for ours, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            for row, length in enumerate(lengths):
                ours[row, :, :length] = theirs[row, :, :length]
        self.lengths = list(lengths)

    def rewind(self, length: int) -> None:
        """Forget every position from ``length`` on, in every row."""
        self.lengths = [min(length, old) for old in self.lengths]

    def check_room(self, num_new: int) -> None:
        """Raise TokenError when ``num_new`` more positions do not fit every row."""
        if max(self.lengths) + num_new > self.capacity:
            raise TokenError(
                f"{max(self.lengths)} + {num_new} positions do not fit a cache of {self.capacity}"
            )

    def advance(self, num_new: int) -> None:
        """Count ``num_new`` positions as filled, after every layer has written them."""
        self.lengths = [length + num_new for length in self.lengths]

    def append(self, layer: int, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Write new positions of one layer; return that layer's keys and values so far.

        What is returned ends at the longest row: shorter rows need a mask.
        """
        num_new = k_BHSK.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        if len(set(self.lengths)) == 1:
            start = self.lengths[0]
            keys[:, :, start : start + num_new] = k_BHSK
            values[:, :, start : start + num_new] = v_BHSK
        else:
            for row, start in enumerate(self.lengths):
                keys[row, :, start : start + num_new] = k_BHSK[row]
                values[row, :, start : start + num_new] = v_BHSK[row]
        end = max(self.lengths) + num_new
        return keys[:, :, :end], values[:, :, :end]


def new_cache(
    config: TrunkConfig,
    *,
    batch: int,
    positions: int,
    device: torch.device,
    dtype: torch.dtype,
) -> KVCache:
    """Allocate an empty cache for ``batch`` streams of up to ``positions`` positions."""
    shape = (batch, config.num_kv_heads, positions, config.head_width)
    return KVCache(
        keys=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)],
        values=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)],
        lengths=[0] * batch,
    )
