"""How a backbone reads single tokens: by the library's operations, or compiled where that pays.

Shape letters: R rows (of all streams), D width, V candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from khala.backbone.model import Backbone
from khala.nn import compiled
from khala.nn.cache import KVCache
from khala.nn.inference import InferenceTrunk, block_linear
from khala.tokens import COARSE_LEVELS

__all__ = ["LibrarySteps", "Steps", "has_compiled_steps", "steps_of"]


class Steps(Protocol):
    """Reads a token of several streams; a stream's numbers do not depend on the others."""

    def new_cache(self, num_streams: int, positions: int) -> Any:
        """Make room for what a song's streams read; see `KVCache`."""

    def step(self, hidden_RD: Tensor, caches: Sequence[Any]) -> Tensor:
        """Return hidden_RD after the final norm; see `InferenceTrunk.step`."""

    def scores(self, hidden_RD: Tensor, level: int) -> Tensor:
        """Return scores_RV in float32 of what can be a code of a level; level 0 may end, too."""


def has_compiled_steps(backbone: Backbone) -> bool:
    """Whether 8-bit steps of this backbone are compiled; its weights need not be there."""
    weight = backbone.norm.weight
    is_float32 = weight.dtype == torch.float32
    return is_float32 and compiled.suits(backbone.trunk_config, weight.device.type)


def steps_of(backbone: Backbone, *, has_int8_steps: bool) -> Steps:
    """Lay a backbone out for single tokens.

    Args:
        backbone: with weights.
        has_int8_steps: read matrices in 8 bits.
    """
    if has_int8_steps and has_compiled_steps(backbone):
        return compiled.CompiledSteps(backbone, _level_heads(backbone))
    return LibrarySteps(backbone, has_int8_steps=has_int8_steps)


class LibrarySteps:
    """The plain way, on any device and with any numbers."""

    def __init__(self, backbone: Backbone, *, has_int8_steps: bool = False) -> None:
        """Lay a backbone out; see `steps_of`."""
        self._backbone = backbone
        self.trunk = InferenceTrunk(backbone, has_int8_steps=has_int8_steps)
        self.heads = _level_heads(backbone)

    def new_cache(self, num_streams: int, positions: int) -> KVCache:
        return self._backbone.new_cache(num_streams, positions)

    def step(self, hidden_RD: Tensor, caches: Sequence[KVCache]) -> Tensor:
        return self.trunk.step(hidden_RD, caches)

    def scores(self, hidden_RD: Tensor, level: int) -> Tensor:
        return block_linear(hidden_RD, self.heads[level]).float()


def _level_heads(backbone: Backbone) -> list[Tensor]:
    """Return each level's rows of the output matrix; level 0 has the end token's row after them."""
    layout, weight_VD = backbone.config.layout, backbone.lm_head.weight
    heads = [
        weight_VD[layout.window(level)[0] : layout.window(level)[1]]
        for level in range(COARSE_LEVELS)
    ]
    end = layout.control.end_of_text
    heads[0] = torch.cat((heads[0], weight_VD[end : end + 1]))
    return heads
