"""Rotary positions, rotate-half form (https://arxiv.org/abs/2104.09864).

Shape letters: B batch, H heads, S stream positions, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(num_positions: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Return (cos_SK, sin_SK) in float32, ready for ``rotate``.

    Channel i turns together with channel i + K/2, by position * base**(-2i/K). The first half of
    the sine table carries the minus sign of the rotation, so that ``rotate`` is two products.

    Far into a stream the rounding of an angle to float32 is larger than all other rounding of a
    pass, so it is done in the published program's steps: power, reciprocal, product.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    frequencies = 1.0 / base**exponents
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)


def rotate(x_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Turn queries or keys to their positions; tables broadcast as [S, K] or [B, 1, S, K]."""
    swapped_BHSK = x_BHSK.roll(x_BHSK.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_BHSK * cos_SK, swapped_BHSK, sin_SK)
