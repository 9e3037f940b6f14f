"""Attention in blocks of queries, as plain matrix products.

On a CPU in bfloat16 the library's kernel is two to three times slower than this, forward and
backward: it does not reach the matrix units' bfloat16 rate at 64 channels per head. Forward alone
on cores with tiles (AMX) it is faster, as it is without bfloat16. Memory: one block of scores while
generating; all of them while training, so very long streams should not be trained this way.

Shape letters: B batch, H query heads, G KV heads, N queries of one block, S keys, K head width.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

BLOCK = 256
"""Queries per block: the fastest of 128, 256 and 512 on cores with 1 MiB of L2."""


def suits(q_BHSK: Tensor) -> bool:
    """Tell whether blocks beat the library's kernel for these queries."""
    if q_BHSK.device.type != "cpu" or q_BHSK.dtype != torch.bfloat16:
        return False
    return q_BHSK.requires_grad or not _has_tiles()


@functools.cache
def _has_tiles() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def blocked_attention(
    q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, *, mask: Tensor | None, is_causal: bool
) -> Tensor:
    """Return what ``scaled_dot_product_attention(..., enable_gqa=True)`` does.

    Args:
        mask: True where a query may see a key, four axes that broadcast to [B, H, S, keys], with
            one entry on the head axis; or None.
        is_causal: the blocks above the diagonal are not even computed.
    """
    batch, num_heads, num_queries, width = q_BHSK.shape
    num_kv, num_keys = k_BGSK.shape[1], k_BGSK.shape[2]
    group = num_heads // num_kv
    q = (q_BHSK * width**-0.5).view(batch, num_kv, group, num_queries, width)
    k, v = k_BGSK.flatten(0, 1), v_BGSK.flatten(0, 1)
    blocks = []
    for start in range(0, num_queries, BLOCK):
        stop = min(start + BLOCK, num_queries)
        end = stop if is_causal else num_keys
        rows = q[:, :, :, start:stop].reshape(batch * num_kv, group * (stop - start), width)
        scores = torch.bmm(rows, k[:, :end].transpose(1, 2))
        shaped = scores.view(batch, num_kv, group, stop - start, end)
        if is_causal:
            num = stop - start
            above = torch.full((num, num), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
            shaped[..., start:stop] += above
        if mask is not None:
            rows_of = mask if mask.shape[2] == 1 else mask[:, :, start:stop]
            hidden = ~rows_of[:, :, None, :, :end]
            # Added in place: unlike masked_fill, neither this nor its gradient copies the scores.
            shaped += torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, float("-inf"))
        weights = shaped.softmax(dim=-1).view_as(scores)
        block = torch.bmm(weights, v[:, :end])
        blocks.append(block.view(batch, num_kv, group, stop - start, width))
    return torch.cat(blocks, dim=3).view(batch, num_heads, num_queries, width)
