"""Several projections of the same rows as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 32
"""Up to here joining the weights costs more than one product saves."""


def joined_linear(
    x_BSD: Tensor, projections: Sequence[nn.Linear], *, bias_scale: float = 1.0
) -> Sequence[Tensor]:
    """Return what each projection makes of the rows, its bias scaled.

    The published names keep the projections apart. Over long streams their weights are laid end
    to end for one product: forward and backward are then one large product instead of three
    small ones, and the input is cast once under autocast. Single positions, where reading the
    weights is all the cost, go through each projection by itself; so does everything where one of
    them is more than its weight and bias, as ``khala.nn.lora`` makes them.
    """
    if any(type(p) is not nn.Linear for p in projections):
        ys = [p(x_BSD) for p in projections]
        if bias_scale == 1.0:
            return ys
        return [y + (bias_scale - 1.0) * p.bias for y, p in zip(ys, projections, strict=True)]
    if x_BSD.shape[0] * x_BSD.shape[1] <= FEW_ROWS:
        return [F.linear(x_BSD, p.weight, _scaled(p.bias, bias_scale)) for p in projections]
    weight = torch.cat([p.weight for p in projections])
    bias = _scaled(torch.cat([p.bias for p in projections]), bias_scale)
    sizes = [p.out_features for p in projections]
    return torch.split(F.linear(x_BSD, weight, bias), sizes, dim=-1)


def _scaled(bias: Tensor, scale: float) -> Tensor:
    return bias if scale == 1.0 else bias * scale
