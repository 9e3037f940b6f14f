"""The trunk both models share: pre-norm layers of attention and SwiGLU, and a final norm.

Shape letters: B batch, S stream positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from khala.errors import TokenError
from khala.nn.attention import Attention, Positions, visible, visible_with_cache
from khala.nn.cache import KVCache, new_cache
from khala.nn.config import TrunkConfig
from khala.nn.mlp import SwiGLU
from khala.nn.rope import rope_tables


class Layer(nn.Module):
    """x += attn(input_norm(x)); x += mlp(post_attn_norm(x))."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.input_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.post_attn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, hidden_BSD: Tensor, positions: Positions, index: int) -> Tensor:
        """Return the residual stream after this layer."""
        hidden_BSD = hidden_BSD + self.attn(self.input_norm(hidden_BSD), positions, index)
        out_BSD: Tensor = hidden_BSD + self.mlp(self.post_attn_norm(hidden_BSD))
        return out_BSD


class Trunk(nn.Module):
    """Layers and final norm; a model is a trunk with a way in and a way out.

    Models inherit from it, so that their tensors keep the published names
    (``layers.0.attn.q_proj.weight``, ``norm.weight``) with no prefix.
    """

    cos_SK: Tensor
    sin_SK: Tensor

    def __init__(self, config: TrunkConfig, *, max_positions: int) -> None:
        super().__init__()
        self.trunk_config = config
        self.max_positions = max_positions
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.fill_rope()

    def fill_rope(self, device: torch.device | str | None = None) -> None:
        """Compute the rotary tables: no weights, so loading does not bring them.

        A trunk without weights gets empty ones: where numbers have no memory, torch computes with
        a part of itself that alone takes half a second to import.
        """
        config = self.trunk_config
        if self.norm.weight.is_meta:
            for name in ("cos_SK", "sin_SK"):
                empty = torch.empty(self.max_positions, config.head_width)
                self.register_buffer(name, empty, persistent=False)
            return
        cos_SK, sin_SK = rope_tables(self.max_positions, config.head_width, config.rope_base)
        self.register_buffer("cos_SK", cos_SK.to(device), persistent=False)
        self.register_buffer("sin_SK", sin_SK.to(device), persistent=False)

    def transform(
        self,
        hidden_BSD: Tensor,
        *,
        causal: bool,
        key_mask_BS: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run every layer and the final norm.

        Args:
            hidden_BSD: embedded rows; positions count from 0, or from the cache's lengths.
            causal: True, each row sees itself and what is before it; False, all rows.
            key_mask_BS: False for padding, which no row may see. A causal batch that is padded
                on the right needs none, and is faster without.
            lengths: the only row holds several streams of these lengths, one after another. Each
                has positions from 0 and sees only itself; a mask cannot be given too.
            cache: earlier positions; the new ones are added to it. Causal only.

        Raises:
            TokenError: more positions than the model or the cache has.
        """
        num_positions = hidden_BSD.shape[1]
        if cache is None:
            if lengths is not None and (hidden_BSD.shape[0] != 1 or key_mask_BS is not None):
                raise ValueError("packed streams stand in one row, without a mask")
            positions = self._whole(num_positions, causal, key_mask_BS, lengths)
        else:
            if not causal or key_mask_BS is not None or lengths is not None:
                raise ValueError("a cache works with causal attention and no masks")
            positions = self._continued(cache, num_positions)
        for index, layer in enumerate(self.layers):
            hidden_BSD = layer(hidden_BSD, positions, index)
        if cache is not None:
            cache.advance(num_positions)
        out_BSD: Tensor = self.norm(hidden_BSD)
        return out_BSD

    def new_cache(self, batch: int, positions: int) -> KVCache:
        """Allocate an empty cache on the model's device, in the model's dtype."""
        weight = self.norm.weight
        return new_cache(
            self.trunk_config,
            batch=batch,
            positions=positions,
            device=weight.device,
            dtype=weight.dtype,
        )

    def _whole(
        self, num: int, causal: bool, key_mask_BS: Tensor | None, lengths: Sequence[int] | None
    ) -> Positions:
        """Positions of streams that are read in one piece."""
        streams = (num,) if lengths is None else tuple(lengths)
        if sum(streams) != num or min(streams) < 1:
            raise ValueError(f"streams of {streams} positions do not fill a row of {num}")
        self._check_length(max(streams))
        mask = visible(num, causal=causal, key_mask_BS=key_mask_BS)
        return Positions(
            cos=torch.cat([self.cos_SK[:length] for length in streams]),
            sin=torch.cat([self.sin_SK[:length] for length in streams]),
            mask=mask,
            is_causal=causal and mask is None and num > 1,
            lengths=streams if len(streams) > 1 else None,
        )

    def _continued(self, cache: KVCache, num_new: int) -> Positions:
        """Positions of a piece that follows what a cache holds."""
        cache.check_room(num_new)
        end = max(cache.lengths) + num_new
        self._check_length(end)
        if len(set(cache.lengths)) == 1:
            start = end - num_new
            cos, sin = self.cos_SK[start:end], self.sin_SK[start:end]
        else:
            starts_B = torch.tensor(cache.lengths, device=self.cos_SK.device)
            where_BS = starts_B[:, None] + torch.arange(num_new, device=starts_B.device)
            cos, sin = self.cos_SK[where_BS][:, None], self.sin_SK[where_BS][:, None]
        fresh = end == num_new
        return Positions(
            cos=cos,
            sin=sin,
            mask=None if fresh else visible_with_cache(cache, num_new, self.cos_SK.device),
            is_causal=fresh and num_new > 1,
            cache=cache,
        )

    def _check_length(self, num: int) -> None:
        if num > self.max_positions:
            raise TokenError(f"{num} positions; this model was built for {self.max_positions}")
