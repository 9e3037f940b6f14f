"""Cross-entropy against a big output matrix, without ever holding all scores at once.

16,384 positions against a vocabulary of 130,304 are 8.5 GB of float32 scores, and as much again for
their gradient. In pieces, whose scores are computed twice, they are as much as one piece.

Shape letters: N positions, D width, V candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["linear_cross_entropy"]

MAX_SCORES = 1 << 27
"""Scores held at once: 512 MiB in float32. The windows of two levels of a whole song are fewer."""


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, max_scores: int = MAX_SCORES
) -> Tensor:
    """Return -log softmax(hidden W^T) of each position's target in nats, [N], float32.

    Args:
        hidden_ND: positions, in any float type.
        weight_VD: one row per candidate.
        targets_N: the right candidates.
        max_scores: positions times candidates above which they are scored piece by piece; each
            piece's scores are computed again for the gradient.
    """
    num_rows = max(1, max_scores // weight_VD.shape[0])
    if len(hidden_ND) <= num_rows:
        return _losses(hidden_ND, weight_VD, targets_N)
    pieces = zip(torch.split(hidden_ND, num_rows), torch.split(targets_N, num_rows), strict=True)
    return torch.cat(
        [
            checkpoint(_losses, hidden, weight_VD, targets, use_reentrant=False)
            for hidden, targets in pieces
        ]
    )


def _losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_ND, weight_VD).float(), targets_N, reduction="none")
