"""Single tokens through a small trunk in machine code, where numba is installed.

A layer of a small trunk is twenty small operations, and each costs a library more to begin than to
do. Here a token is one call (`khala.nn.kernels.step`), and streams are read on several cores.

Shape letters: B streams of a song, R rows (of all streams), L layers, G KV heads, S stream
positions, K head width, D width, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from khala.errors import TokenError
from khala.nn.cache import KVCache
from khala.nn.config import TrunkConfig
from khala.nn.cores import has_compiler, on_cores
from khala.nn.inference import in_8_bits
from khala.nn.lora import weight_rows
from khala.nn.trunk import Layer, Trunk

if TYPE_CHECKING:
    from khala.nn.kernels import Kept, Matrices

__all__ = ["CompiledSteps", "NarrowCache", "narrow_cache_bytes", "suits"]

SMALL_LAYER_BYTES = 3 << 20
"""Of a layer's weights in 8 bits: up to here one core a stream is faster than a library's calls."""


def suits(config: TrunkConfig, device: str) -> bool:
    """Whether a trunk with weights in float32 can be read by `CompiledSteps`, and should be."""
    heads = config.num_heads + config.num_kv_heads
    numbers = config.width * (2 * heads * config.head_width + 3 * config.ffn_width)
    return device == "cpu" and numbers <= SMALL_LAYER_BYTES and has_compiler()


def narrow_cache_bytes(config: TrunkConfig, positions: int) -> int:
    """Return the bytes of a `NarrowCache` for one stream."""
    return 2 * config.num_layers * config.num_kv_heads * positions * (2 * config.head_width + 4)


class NarrowCache:
    """Keys and values of a song's streams in 16 bits; each has a scale of its own."""

    lengths: list[int]
    """Positions filled in each stream."""

    def __init__(self, config: TrunkConfig, num_streams: int, positions: int) -> None:
        """Make room; memory is taken as it is filled."""
        from khala.nn.kernels import Kept

        shape = (config.num_layers, config.num_kv_heads)
        width = config.head_width
        self.positions = positions
        self.lengths = [0] * num_streams
        self.streams = [
            Kept(
                np.empty((*shape, width, positions), np.int16),
                np.empty((*shape, positions), np.float32),
                np.empty((*shape, positions, width), np.int16),
                np.empty((*shape, positions), np.float32),
            )
            for _ in range(num_streams)
        ]

    def take(self, stream: int, cache: KVCache) -> None:
        """Take over what a stream alone has read."""
        from khala.nn.kernels import put_all

        (num,) = cache.lengths
        for layer, (k_BGSK, v_BGSK) in enumerate(zip(cache.keys, cache.values, strict=True)):
            k_GSK, v_GSK = (x[0, :, :num].contiguous().numpy() for x in (k_BGSK, v_BGSK))
            put_all(self.streams[stream], layer, k_GSK, v_GSK)
        self.lengths[stream] = num

    def copy_from(self, other: NarrowCache, lengths: Sequence[int]) -> None:
        """Take over the first positions of another cache's streams, so many of each."""
        for ours, theirs, num in zip(self.streams, other.streams, lengths, strict=True):
            ours.keys_LGKS[..., :num] = theirs.keys_LGKS[..., :num]
            ours.key_scales_LGS[..., :num] = theirs.key_scales_LGS[..., :num]
            ours.values_LGSK[:, :, :num] = theirs.values_LGSK[:, :, :num]
            ours.value_scales_LGS[..., :num] = theirs.value_scales_LGS[..., :num]
        self.lengths = list(lengths)


class CompiledSteps:
    """A trunk and the scores after it, for single tokens; see `suits`.

    Matrices have 8 bits and a scale for every output, which is how small models are stored;
    everything else is float32.
    """

    def __init__(self, trunk: Trunk, heads: Sequence[Tensor]) -> None:
        """Lay the weights out.

        Args:
            trunk: what is laid out.
            heads: weight_OD of each kind of scores.
        """
        from khala.nn.kernels import Weights

        config = self._config = trunk.trunk_config
        layers = [cast(Layer, layer) for layer in trunk.layers]
        scale = 2.0 if config.double_fc1_bias else 1.0
        self._weights = Weights(
            first_norm_LD=_stacked([layer.input_norm.weight for layer in layers]),
            qkv=_matrices([(x.attn.q_proj, x.attn.k_proj, x.attn.v_proj) for x in layers]),
            out=_matrices([(x.attn.o_proj,) for x in layers]),
            second_norm_LD=_stacked([layer.post_attn_norm.weight for layer in layers]),
            gate_up=_matrices([(x.mlp.gate_proj, x.mlp.up_proj) for x in layers], scale),
            down=_matrices([(x.mlp.down_proj,) for x in layers]),
            last_norm_D=trunk.norm.weight.detach().numpy(),
            cos_SK=trunk.cos_SK.numpy(),
            sin_SK=trunk.sin_SK.numpy(),
            eps=config.norm_eps,
        )
        self._heads = [_matrix(head, torch.zeros(len(head))) for head in heads]

    def new_cache(self, num_streams: int, positions: int) -> NarrowCache:
        """Make room for what a song's streams read."""
        return NarrowCache(self._config, num_streams, positions)

    def step(self, hidden_RD: Tensor, caches: Sequence[NarrowCache]) -> Tensor:
        """Read one token of several streams, each by itself.

        Args:
            hidden_RD: embedded tokens; the rows of all caches, one cache after another.
            caches: what each stream has read; the position is added.

        Returns:
            hidden_RD after the final norm.

        Raises:
            TokenError: a cache is full.
        """
        from khala.nn import kernels

        tokens_RD = hidden_RD.numpy()
        streams: list[tuple[Kept, int]] = []
        for cache in caches:
            if max(cache.lengths) == cache.positions:
                raise TokenError(f"a cache of {cache.positions} positions is full")
            streams += zip(cache.streams, cache.lengths, strict=True)

        def read(row: int) -> npt.NDArray[np.float32]:
            return kernels.step(tokens_RD[row], self._weights, *streams[row])

        rows = on_cores(read, len(streams))
        for cache in caches:
            cache.lengths = [length + 1 for length in cache.lengths]
        return torch.from_numpy(np.stack(rows))

    def scores(self, hidden_RD: Tensor, head: int) -> Tensor:
        """Return scores_RO of one kind."""
        from khala.nn import kernels

        rows = [kernels.multiply(row_D, *self._heads[head]) for row_D in hidden_RD.numpy()]
        return torch.from_numpy(np.stack(rows))


def _stacked(vectors: Sequence[Tensor]) -> npt.NDArray[np.float32]:
    return torch.stack([vector.detach() for vector in vectors]).numpy()


def _matrices(layers: Sequence[tuple[nn.Linear, ...]], bias_scale: float = 1.0) -> Matrices:
    """Return projections of the same rows as one matrix in every layer."""
    from khala.nn.kernels import Matrices

    each = [
        _matrix(
            torch.cat([weight_rows(linear, slice(None)) for linear in linears]),
            torch.cat([linear.bias for linear in linears]) * bias_scale,
        )
        for linears in layers
    ]
    weights, scales, biases = zip(*each, strict=True)
    return Matrices(np.stack(weights), np.stack(scales), np.stack(biases))


def _matrix(
    weight_OI: Tensor, bias_O: Tensor
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return a matrix in 8 bits, inputs first, with its scales and biases."""
    narrow_OI, scale_O = in_8_bits(weight_OI)
    return narrow_OI.T.contiguous().numpy(), scale_O.numpy(), bias_O.detach().numpy()
