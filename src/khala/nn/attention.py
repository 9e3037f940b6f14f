"""Grouped-query attention with rotary positions (https://arxiv.org/abs/2305.13245).

Shape letters: B batch, S stream positions, D width, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.nn.blocked import blocked_attention, suits
from khala.nn.cache import KVCache
from khala.nn.config import TrunkConfig
from khala.nn.linear import joined_linear
from khala.nn.rope import rotate


@dataclass(frozen=True, kw_only=True)
class Positions:
    """What every layer of one pass shares: where the rows stand and whom they may look at."""

    cos: Tensor
    """Rotary cosines, [S, K] or [B, 1, S, K]."""

    sin: Tensor
    """Rotary sines, shaped like ``cos``."""

    mask: Tensor | None
    """True where a query may see a key, broadcast to [B, H, S, keys]; None: no explicit mask."""

    is_causal: bool
    """Every query sees itself and what is before it; only without ``mask``."""

    cache: KVCache | None = None
    """Earlier positions, if the stream is read piece by piece."""

    lengths: tuple[int, ...] | None = None
    """Streams that stand one after another in the only row, none of which sees another."""


def visible(
    num_positions: int,
    *,
    causal: bool,
    key_mask_BS: Tensor | None,
) -> Tensor | None:
    """Return the [B, 1, S or 1, S] mask of what may be seen, or None when nothing is hidden.

    Pure causality alone also gives None: the attention kernels know that case by a flag.
    """
    if key_mask_BS is None:
        return None
    mask = key_mask_BS[:, None, None, :]
    if causal:
        ones = torch.ones(num_positions, num_positions, dtype=torch.bool, device=mask.device)
        mask = mask & ones.tril()
    return mask


def visible_with_cache(cache: KVCache, num_new: int, device: torch.device) -> Tensor | None:
    """Return the mask of ``num_new`` positions after a cache's rows, or None if all is visible."""
    uniform = len(set(cache.lengths)) == 1
    if uniform and num_new == 1:
        return None
    starts_B = torch.tensor(cache.lengths, device=device)
    last_BS = starts_B[:, None] + torch.arange(num_new, device=device)
    keys = torch.arange(max(cache.lengths) + num_new, device=device)
    return (keys <= last_BS[:, :, None])[:, None]


class Attention(nn.Module):
    """Four biased projections around softmax attention, scale 1/sqrt(head width)."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_width = config.head_width
        q_width = config.num_heads * config.head_width
        kv_width = config.num_kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, q_width)
        self.k_proj = nn.Linear(config.width, kv_width)
        self.v_proj = nn.Linear(config.width, kv_width)
        self.o_proj = nn.Linear(q_width, config.width)

    def forward(self, x_BSD: Tensor, positions: Positions, layer: int) -> Tensor:
        """Return the block's output, before it is added to the residual stream."""
        batch, num_positions, _ = x_BSD.shape
        flat = joined_linear(x_BSD, (self.q_proj, self.k_proj, self.v_proj))
        q_BHSK, k_BHSK, v_BHSK = (
            y.view(batch, num_positions, -1, self.head_width).transpose(1, 2) for y in flat
        )
        cos, sin = positions.cos.to(q_BHSK.dtype), positions.sin.to(q_BHSK.dtype)
        q_BHSK, k_BHSK = rotate(q_BHSK, cos, sin), rotate(k_BHSK, cos, sin)
        if positions.cache is not None:
            k_BHSK, v_BHSK = positions.cache.append(layer, k_BHSK, v_BHSK)
        if num_positions == 1:
            y_BSD = self._attend_one(q_BHSK, k_BHSK, v_BHSK, positions.mask)
        else:
            y_BHSK = self._attend_streams(q_BHSK, k_BHSK, v_BHSK, positions)
            y_BSD = y_BHSK.transpose(1, 2).reshape(batch, num_positions, -1)
        out_BSD: Tensor = self.o_proj(y_BSD)
        return out_BSD

    def _attend_streams(
        self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, positions: Positions
    ) -> Tensor:
        """Attend in every stream of a row by itself: no product between two is even computed."""
        if positions.lengths is None:
            return self._attend(q_BHSK, k_BHSK, v_BHSK, positions)
        streams = (torch.split(x, list(positions.lengths), 2) for x in (q_BHSK, k_BHSK, v_BHSK))
        each = [self._attend(q, k, v, positions) for q, k, v in zip(*streams, strict=True)]
        return torch.cat(each, dim=2)

    def _attend(
        self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, positions: Positions
    ) -> Tensor:
        """Attend from many positions, by whichever way is fastest here."""
        if suits(q_BHSK):
            return blocked_attention(
                q_BHSK, k_BHSK, v_BHSK, mask=positions.mask, is_causal=positions.is_causal
            )
        return F.scaled_dot_product_attention(
            q_BHSK,
            k_BHSK,
            v_BHSK,
            attn_mask=positions.mask,
            is_causal=positions.is_causal,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )

    def _attend_one(
        self, q_BH1K: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attend from one position: the heads of a KV group become rows of one small product.

        The same numbers as the general path, several times faster on a CPU in bfloat16.
        """
        batch, group = q_BH1K.shape[0], self.num_heads // self.num_kv_heads
        q = q_BH1K.reshape(batch, self.num_kv_heads, group, self.head_width)
        y = F.scaled_dot_product_attention(q, k_BHSK, v_BHSK, attn_mask=mask)
        return y.reshape(batch, 1, self.num_heads * self.head_width)
