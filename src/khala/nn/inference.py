"""A trunk laid out for inference: the same numbers as `Trunk.transform`, without its generality.

Projections of the same input are one product, rows of a layer stay one matrix, and the matrix
products may have a narrower dtype than the residual stream.

Shape letters: R rows (of all streams), I inputs, O outputs, D width, H query heads, G KV heads,
S stream positions, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.nn.attention import visible_with_cache
from khala.nn.blocked import blocked_attention, suits
from khala.nn.cache import KVCache
from khala.nn.config import TrunkConfig
from khala.nn.lora import weight_rows
from khala.nn.rope import rotate
from khala.nn.trunk import Layer, Trunk

__all__ = ["InferenceTrunk", "block_linear", "in_8_bits", "laid_out_bytes", "rows_at_once"]

BLOCK_ROWS = {torch.float32: 2}
"""Rows that are multiplied at once on a CPU: a second one is free, more are paid for."""

BLOCK_ROWS_16_BIT = 16
"""The same in 16 bits, where sixteen rows cost what one does: reading the weights is all."""

SMALL_BYTES = 8 << 20
"""Matrices up to here are copied side by side; larger ones are multiplied one after another."""

KERNEL_INPUTS = 16
"""The library's product with 8-bit weights reads so many inputs at once, and checks nothing."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Of a layer's number and its q_RHK, k_RGK and v_RGK: what the rows see, [R, H * K]."""

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of rows, weight and bias: the rows multiplied."""


class InferenceTrunk:
    """The layers of a trunk; it holds the weights as they are when it is made."""

    def __init__(
        self, trunk: Trunk, dtype: torch.dtype | None = None, *, has_int8_steps: bool = False
    ) -> None:
        """Lay the weights out.

        Args:
            trunk: what is laid out; large weights are shared with it and not copied.
            dtype: of the matrix products and of attention; None: the weights' own.
            has_int8_steps: the matrices are kept in 8 bits, with a scale for every row, and
                multiply bfloat16; for single tokens only, which cost what reading them costs.
        """
        self._trunk, self._config = trunk, trunk.trunk_config
        self._dtype = trunk.norm.weight.dtype if dtype is None else dtype
        kind = torch.int8 if has_int8_steps else dtype
        self._layers = [_LayerWeights.of(cast(Layer, layer), kind) for layer in trunk.layers]

    def step(self, hidden_RD: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Read one token of several streams; a row's numbers do not depend on other caches.

        Args:
            hidden_RD: embedded tokens; the rows of all caches, one cache after another.
            caches: what each stream has read, with room for one more; the position is added.

        Returns:
            hidden_RD after the final norm.
        """
        group = self._config.num_heads // self._config.num_kv_heads
        masks = [visible_with_cache(cache, 1, hidden_RD.device) for cache in caches]

        def attend(layer: int, q_RHK: Tensor, k_RGK: Tensor, v_RGK: Tensor) -> Tensor:
            """Let every stream look at itself, at its own length."""
            first, ys = 0, []
            for cache, mask in zip(caches, masks, strict=True):
                num = len(cache.lengths)
                rows = slice(first, first + num)
                k_BGSK, v_BGSK = cache.append(layer, k_RGK[rows, :, None], v_RGK[rows, :, None])
                # the query heads of a KV head are the rows of one small product
                q = q_RHK[rows].reshape(num, self._config.num_kv_heads, group, -1)
                y = F.scaled_dot_product_attention(q, k_BGSK, v_BGSK, attn_mask=mask)
                ys.append(y.reshape(num, -1))
                first += num
            return ys[0] if len(ys) == 1 else torch.cat(ys)

        places = [length for cache in caches for length in cache.lengths]
        hidden_RD = self._run(hidden_RD, self._angles(places), attend, block_linear)
        for cache in caches:
            cache.advance(1)
        return hidden_RD

    def step_at(
        self,
        hidden_RD: Tensor,
        caches: Sequence[KVCache],
        places_R: Tensor,
        visible: Sequence[int],
    ) -> Tensor:
        """Read one token of several streams at positions that only the device knows.

        Every shape depends on the arguments' shapes and ``visible`` alone, so this can be recorded
        and replayed. The caches' lengths are neither read nor changed.

        Args:
            hidden_RD: embedded tokens; the rows of all caches, one cache after another.
            caches: what each stream has read.
            places_R: int64, each row's position.
            visible: positions of each cache that attention reads, above its rows' places; those
                after a row's own are hidden from it.

        Returns:
            hidden_RD after the final norm.
        """
        group = self._config.num_heads // self._config.num_kv_heads
        rows_of = torch.split(places_R, [len(cache.lengths) for cache in caches])
        masks = [
            (torch.arange(num, device=places_R.device) <= places_B[:, None])[:, None, None]
            for num, places_B in zip(visible, rows_of, strict=True)
        ]

        def attend(layer: int, q_RHK: Tensor, k_RGK: Tensor, v_RGK: Tensor) -> Tensor:
            """Put the new position where it belongs, and look at all up to it."""
            first, ys = 0, []
            for cache, places_B, mask in zip(caches, rows_of, masks, strict=True):
                rows = slice(first, first + len(places_B))
                keys, values = cache.keys[layer], cache.values[layer]
                at = places_B[:, None, None, None].expand(-1, keys.shape[1], 1, keys.shape[3])
                keys.scatter_(2, at, k_RGK[rows, :, None])
                values.scatter_(2, at, v_RGK[rows, :, None])
                q = q_RHK[rows].reshape(len(places_B), self._config.num_kv_heads, group, -1)
                num = mask.shape[-1]
                y = F.scaled_dot_product_attention(
                    q, keys[:, :, :num], values[:, :, :num], attn_mask=mask
                )
                ys.append(y.reshape(len(places_B), -1))
                first += len(places_B)
            return ys[0] if len(ys) == 1 else torch.cat(ys)

        tables = (self._trunk.cos_SK, self._trunk.sin_SK)
        cos_R1K, sin_R1K = (table[places_R, None].to(self._dtype) for table in tables)
        return self._run(hidden_RD, (cos_R1K, sin_R1K), attend, block_linear)

    def whole(self, hidden_RD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Read whole streams in which every row sees all of its own stream.

        On a CPU the rounding of a row depends on how many there are; a stream alone is always the
        same.

        Args:
            hidden_RD: the rows of all streams, one stream after another.
            lengths: rows of each.

        Returns:
            hidden_RD after the final norm.
        """
        tables = (self._trunk.cos_SK, self._trunk.sin_SK)
        cos_R1K, sin_R1K = (
            torch.cat([table[:num, None] for num in lengths]).to(self._dtype) for table in tables
        )

        def attend(_: int, q_RHK: Tensor, k_RGK: Tensor, v_RGK: Tensor) -> Tensor:
            streams = (torch.split(x, list(lengths)) for x in (q_RHK, k_RGK, v_RGK))
            ys = [_attend_whole(*stream) for stream in zip(*streams, strict=True)]
            return ys[0] if len(ys) == 1 else torch.cat(ys)

        return self._run(hidden_RD, (cos_R1K, sin_R1K), attend, F.linear)

    def _angles(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of rows at these positions, [R or 1, 1, K]."""
        cos_SK, sin_SK = self._trunk.cos_SK, self._trunk.sin_SK
        if len(set(places)) == 1:
            rows = slice(places[0], places[0] + 1)
            return cos_SK[rows, None].to(self._dtype), sin_SK[rows, None].to(self._dtype)
        where_R = torch.tensor(places, device=cos_SK.device)
        return cos_SK[where_R, None].to(self._dtype), sin_SK[where_R, None].to(self._dtype)

    def _run(
        self, hidden_RD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend, product: Product
    ) -> Tensor:
        """Run every layer and the final norm."""
        config, eps = self._config, self._config.norm_eps
        num_rows, shape = hidden_RD.shape[0], (config.width,)
        num_turned = config.num_heads + config.num_kv_heads
        for index, layer in enumerate(self._layers):
            x_RD = F.rms_norm(hidden_RD, shape, layer.first_norm, eps).to(self._dtype)
            heads = layer.qkv(x_RD, product).view(num_rows, -1, config.head_width)
            turned = rotate(heads[:, :num_turned], *angles)
            q_RHK, k_RGK = turned[:, : config.num_heads], turned[:, config.num_heads :]
            y_RI = attend(index, q_RHK, k_RGK, heads[:, num_turned:])
            hidden_RD = hidden_RD + layer.out(y_RI, product)
            x_RD = F.rms_norm(hidden_RD, shape, layer.second_norm, eps).to(self._dtype)
            gate, up = layer.gate_up(x_RD, product).chunk(2, dim=1)
            hidden_RD = hidden_RD + layer.down(F.silu(gate).mul_(up), product)
        return F.rms_norm(hidden_RD, shape, self._trunk.norm.weight, eps)


def _attend_whole(q_SHK: Tensor, k_SGK: Tensor, v_SGK: Tensor) -> Tensor:
    """Let every position of a stream look at all of it, [S, H * K]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_SHK, k_SGK, v_SGK))
    if suits(q):
        y = blocked_attention(q, k, v, mask=None, is_causal=False)
    else:
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
    return y[0].transpose(0, 1).reshape(len(q_SHK), -1)


def laid_out_bytes(config: TrunkConfig, size: int, narrow: int | None = None) -> int:
    """Return the bytes of weights that an `InferenceTrunk` copies.

    Args:
        config: of the trunk.
        size: bytes of one of its numbers.
        narrow: bytes of a number in the products, if they have a dtype of their own.
    """
    queries = (config.num_heads + 2 * config.num_kv_heads) * config.head_width
    joined = [queries * config.width, 2 * config.ffn_width * config.width]
    single = [config.num_heads * config.head_width * config.width, config.ffn_width * config.width]
    if narrow is not None:
        return config.num_layers * sum(joined + single) * narrow
    copied = [numbers * size for numbers in joined if numbers * size <= SMALL_BYTES]
    return config.num_layers * sum(copied)


@dataclass(frozen=True, slots=True)
class _LayerWeights:
    """One layer's weights, projections of the same input together."""

    first_norm: Tensor
    qkv: _Joined
    out: _Joined
    second_norm: Tensor
    gate_up: _Joined
    down: _Joined

    @classmethod
    def of(cls, layer: Layer, dtype: torch.dtype | None) -> _LayerWeights:
        attn, mlp = layer.attn, layer.mlp
        scale = 2.0 if mlp.double_fc1_bias else 1.0
        return cls(
            first_norm=layer.input_norm.weight,
            qkv=_Joined.of(attn.q_proj, attn.k_proj, attn.v_proj, dtype=dtype),
            out=_Joined.of(attn.o_proj, dtype=dtype),
            second_norm=layer.post_attn_norm.weight,
            gate_up=_Joined.of(mlp.gate_proj, mlp.up_proj, dtype=dtype, bias_scale=scale),
            down=_Joined.of(mlp.down_proj, dtype=dtype),
        )


@dataclass(frozen=True, slots=True)
class _Joined:
    """Some projections of the same rows, as few products as their sizes allow."""

    parts: tuple[tuple[Tensor, Tensor], ...]
    scales: tuple[Tensor, ...] = ()
    """Of the rows of weights in 8 bits."""

    @classmethod
    def of(cls, *linears: nn.Linear, dtype: torch.dtype | None, bias_scale: float = 1.0) -> _Joined:
        weights = [weight_rows(linear, slice(None)) for linear in linears]
        biases = [linear.bias * bias_scale for linear in linears]
        if dtype == torch.int8:
            pairs = [in_8_bits(weight, torch.bfloat16) for weight in weights]
            weight_OI, scale_O = (torch.cat(each) for each in zip(*pairs, strict=True))
            return cls(((weight_OI, torch.cat(biases)),), (scale_O,))
        weights, biases = ([x.to(dtype) for x in each] for each in (weights, biases))
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        if len(linears) > 1 and size <= SMALL_BYTES:
            return cls(((torch.cat(weights), torch.cat(biases)),))
        return cls(tuple(zip(weights, biases, strict=True)))

    def __call__(self, x_RI: Tensor, product: Product) -> Tensor:
        """Return what the projections make of the rows, side by side."""
        if self.scales:
            ((weight_OI, bias_O),), (scale_O,) = self.parts, self.scales
            return int8_linear(x_RI, weight_OI, scale_O).to(x_RI.dtype).add_(bias_O)
        ys = [product(x_RI, weight, bias) for weight, bias in self.parts]
        return ys[0] if len(ys) == 1 else torch.cat(ys, dim=1)


def in_8_bits(weight_OI: Tensor, scales_are: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return a weight as int8 and the scale of every row, which its largest number fills."""
    weight = weight_OI.detach().float()
    scale_O = (weight.abs().amax(dim=1).clamp_min(1e-12) / 127).to(scales_are)
    return (weight / scale_O.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale_O


def int8_linear(x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """Return y_RO in bfloat16 of rows times int8 weights whose rows have scales.

    On a CPU by the library's kernel, in which rows do not depend on each other; elsewhere, and
    where rows do not fill its registers, behind whose ends it would read, the weights are widened
    first.
    """
    x_RI = x_RI.to(torch.bfloat16)
    if x_RI.device.type == "cpu" and x_RI.shape[1] % KERNEL_INPUTS == 0:
        return torch._weight_int8pack_mm(x_RI, weight_OI, scale_O)
    return block_linear(x_RI, weight_OI.to(torch.bfloat16)) * scale_O


def rows_at_once(dtype: torch.dtype) -> int:
    """Return how many rows of single tokens a CPU multiplies at once."""
    return BLOCK_ROWS.get(dtype, BLOCK_ROWS_16_BIT)


def block_linear(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return y_RO of rows that are the same whatever rows are beside them.

    On a CPU the kernel, and with it the rounding, depends on the number of rows; so they are
    multiplied in blocks of a fixed number, the last one filled up with zeros.
    """
    if x_RI.device.type != "cpu":
        return F.linear(x_RI, weight_OI, bias_O)
    num_rows, block = x_RI.shape[0], rows_at_once(x_RI.dtype)
    if num_rows % block:
        x_RI = F.pad(x_RI, (0, 0, 0, -num_rows % block))
    if x_RI.shape[0] == block:
        return F.linear(x_RI, weight_OI, bias_O)[:num_rows]
    blocks = [F.linear(rows, weight_OI, bias_O) for rows in torch.split(x_RI, block)]
    return torch.cat(blocks)[:num_rows]
