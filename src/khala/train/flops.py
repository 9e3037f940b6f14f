"""How much arithmetic a step is, and how much of it this machine can do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from khala.nn import TrunkConfig
from khala.train.device import autocast

__all__ = ["matrix_ceiling", "trunk_flops"]

PROBE_SIZE = {"cpu": 1024, "cuda": 8192}
PROBE_S = 0.3
BACKWARD = 3
"""Forward once, and twice as much going back."""


def trunk_flops(
    config: TrunkConfig,
    *,
    lengths: Sequence[int],
    head_rows: int,
    head_positions: int,
    causal: bool,
) -> float:
    """Return the floating-point operations of one training step, without what is recomputed.

    Args:
        config: of the trunk.
        lengths: positions of every stream, with what padding it has.
        head_rows: rows of the output matrix that are multiplied.
        head_positions: positions at which they are, over all streams.
        causal: half of the attention's products fall away.
    """
    queries = config.num_heads * config.head_width
    keys = config.num_kv_heads * config.head_width
    matrices = config.width * (2 * queries + 2 * keys + 3 * config.ffn_width)
    pairs = sum(length**2 for length in lengths) * (0.5 if causal else 1.0)
    layers = config.num_layers * (2 * matrices * sum(lengths) + 4 * queries * pairs)
    head = 2 * config.width * head_rows * head_positions
    return BACKWARD * (layers + head)


def matrix_ceiling(device: torch.device, precision: str) -> float:
    """Return the operations a second that large matrix products reach here, measured."""
    size = PROBE_SIZE.get(device.type, 1024)
    one, other = (torch.ones(size, size, device=device) for _ in range(2))
    best = 0.0
    with torch.no_grad(), autocast(device, precision):
        started_s = time.monotonic()
        while time.monotonic() - started_s < PROBE_S or best == 0.0:
            before_s = time.monotonic()
            torch.mm(one, other)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 2 * size**3 / (time.monotonic() - before_s))
    return best
