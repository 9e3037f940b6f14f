"""Megatron's names and layouts -> the names and layouts of our language models.

    embedding.word_embeddings.weight   embed.weight            [V, D]
    output_layer.weight                lm_head.weight          [V, D]
    decoder.final_layernorm.weight     norm.weight             [D]
    decoder.layers.i.                  layers.i.
      self_attention.linear_qkv.layer_norm_weight              input_norm.weight
      self_attention.linear_qkv.weight, .bias                  attn.{q,k,v}_proj
      self_attention.linear_proj.weight, .bias                 attn.o_proj
      mlp.linear_fc1.layer_norm_weight                         post_attn_norm.weight
      mlp.linear_fc1.weight_w, bias_w                          mlp.gate_proj
      mlp.linear_fc1.weight_v, bias_v                          mlp.up_proj
      mlp.linear_fc2.weight, .bias                             mlp.down_proj

Rows of linear_qkv go by key heads: the query heads that share it, the key head, its value head.
Megatron writes fc1 as two tensors or as one (gate rows, then up rows), and layers one by one or all
in one tensor whose first index is the layer: each of these is read.

Shape letters: V rows of the vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from khala.convert.sizes import Sizes
from khala.convert.stored import PlainTensor, StoredTensor
from khala.errors import CheckpointError
from khala.nn.config import TrunkConfig

__all__ = ["is_megatron", "megatron_sizes", "megatron_tensors"]

LAYERS = "decoder.layers."
EMBEDDING = "embedding.word_embeddings.weight"
QKV, PROJ = "self_attention.linear_qkv.", "self_attention.linear_proj."
FC1, FC2 = "mlp.linear_fc1.", "mlp.linear_fc2."
WHOLE = {
    EMBEDDING: "embed.weight",
    "output_layer.weight": "lm_head.weight",
    "decoder.final_layernorm.weight": "norm.weight",
}
COPIED = {
    f"{QKV}layer_norm_weight": "input_norm.weight",
    f"{PROJ}weight": "attn.o_proj.weight",
    f"{PROJ}bias": "attn.o_proj.bias",
    f"{FC1}layer_norm_weight": "post_attn_norm.weight",
    f"{FC2}weight": "mlp.down_proj.weight",
    f"{FC2}bias": "mlp.down_proj.bias",
}


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """One layer's part of a tensor that holds all layers."""

    whole: StoredTensor
    layer: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes without the index of the layer."""
        return self.whole.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """Kind of its numbers on disk."""
        return self.whole.dtype

    def read(self, lo: int = 0, hi: int | None = None) -> Tensor:
        """Return rows lo to hi of the layer's tensor."""
        return self.whole.read(self.layer, self.layer + 1)[0][lo:hi]


def is_megatron(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether a source's tensors have Megatron's names."""
    return any(name.startswith((LAYERS, "embedding.")) for name in stored)


def megatron_sizes(stored: Mapping[str, StoredTensor], *, source: str) -> Sizes:
    """Return the sizes that the tensors' shapes say.

    Raises:
        CheckpointError: a tensor that would say one is missing or has another number of dimensions.
    """
    stacked = is_stacked(stored)
    extra = int(stacked)
    prefix = LAYERS if stacked else f"{LAYERS}0."
    num_rows, width = shape_of(stored, EMBEDDING, 2, source)
    query_width = shape_of(stored, f"{prefix}{PROJ}weight", 2 + extra, source)[-1]
    joined = shape_of(stored, f"{prefix}{QKV}weight", 2 + extra, source)
    if joined[-2] <= query_width or (joined[-2] - query_width) % 2:
        raise CheckpointError(
            f"{source}: {prefix}{QKV}weight has {joined[-2]} rows, which are no queries of "
            f"{query_width} channels with keys and values"
        )
    if stacked:
        num_layers = joined[0]
    else:
        numbers = {name.removeprefix(LAYERS).split(".")[0] for name in stored if LAYERS in name}
        num_layers = 1 + max(int(number) for number in numbers if number.isdecimal())
    return Sizes(
        num_rows=num_rows,
        width=width,
        num_layers=num_layers,
        query_width=query_width,
        kv_width=(joined[-2] - query_width) // 2,
        ffn_width=shape_of(stored, f"{prefix}{FC2}weight", 2 + extra, source)[-1],
    )


def megatron_tensors(
    stored: Mapping[str, StoredTensor], trunk: TrunkConfig, *, num_rows: int, source: str
) -> list[PlainTensor]:
    """Return the tensors of our model; nothing is read yet.

    Raises:
        CheckpointError: names the first missing, extra or misshapen tensor, and what is wanted.
    """
    stacked, fused = is_stacked(stored), is_fused(stored)
    wanted = dict(_wanted(trunk, num_rows, stacked=stacked, fused=fused))
    check_names(stored, wanted, source=source)
    plain = [
        _copied(name, WHOLE[name], stored[name])
        for name in (EMBEDDING, "decoder.final_layernorm.weight", "output_layer.weight")
    ]
    for index in range(trunk.num_layers):
        layer: dict[str, tuple[str, StoredTensor]] = {}
        for name in _layer_shapes(trunk, fused=fused):
            key = f"{LAYERS}{name}" if stacked else f"{LAYERS}{index}.{name}"
            layer[name] = (key, LayerTensor(stored[key], index) if stacked else stored[key])
        for name, ours in COPIED.items():
            plain.append(_copied(layer[name][0], f"layers.{index}.{ours}", layer[name][1]))
        plain += _queries_keys_values(f"layers.{index}.attn.", layer, trunk)
        plain += _gate_and_up(f"layers.{index}.mlp.", layer, trunk, fused=fused)
    return plain


def is_stacked(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether each tensor of a layer holds all layers."""
    return f"{LAYERS}{FC2}weight" in stored or f"{LAYERS}{QKV}weight" in stored


def is_fused(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether gate and up are one tensor."""
    return any(name.endswith(f"{FC1}weight") for name in stored)


def shape_of(
    stored: Mapping[str, StoredTensor], name: str, num_dims: int, source: str
) -> tuple[int, ...]:
    """Return a tensor's shape; CheckpointError if it is not there or has other dimensions."""
    if name not in stored:
        raise CheckpointError(f"{source}: tensor {name} is missing")
    shape = stored[name].shape
    if len(shape) != num_dims:
        raise CheckpointError(f"{source}: tensor {name} has shape {shape}, not {num_dims} sizes")
    return shape


def check_names(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], *, source: str
) -> None:
    """Raise CheckpointError for the first missing, extra or misshapen tensor."""
    for name, shape in wanted.items():
        if name not in stored:
            raise CheckpointError(f"{source}: tensor {name} {shape} is missing")
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {stored[name].shape}, not {shape}"
            )
        if not stored[name].dtype.is_floating_point:
            raise CheckpointError(f"{source}: tensor {name} holds {stored[name].dtype}, no weights")
    for name in sorted(stored.keys() - wanted.keys()):
        raise CheckpointError(
            f"{source}: tensor {name} {stored[name].shape} is not part of a Khala model of "
            "these sizes"
        )


def _layer_shapes(trunk: TrunkConfig, *, fused: bool) -> dict[str, tuple[int, ...]]:
    """Return what one layer is made of."""
    width, ffn = trunk.width, trunk.ffn_width
    queries = trunk.num_heads * trunk.head_width
    joined = (trunk.num_heads + 2 * trunk.num_kv_heads) * trunk.head_width
    shapes = {
        f"{QKV}layer_norm_weight": (width,),
        f"{QKV}weight": (joined, width),
        f"{QKV}bias": (joined,),
        f"{PROJ}weight": (width, queries),
        f"{PROJ}bias": (width,),
        f"{FC1}layer_norm_weight": (width,),
        f"{FC2}weight": (width, ffn),
        f"{FC2}bias": (width,),
    }
    if fused:
        return shapes | {f"{FC1}weight": (2 * ffn, width), f"{FC1}bias": (2 * ffn,)}
    halves = {f"{FC1}weight_{half}": (ffn, width) for half in "wv"}
    return shapes | halves | {f"{FC1}bias_{half}": (ffn,) for half in "wv"}


def _wanted(
    trunk: TrunkConfig, num_rows: int, *, stacked: bool, fused: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield EMBEDDING, (num_rows, trunk.width)
    yield "output_layer.weight", (num_rows, trunk.width)
    yield "decoder.final_layernorm.weight", (trunk.width,)
    for name, shape in _layer_shapes(trunk, fused=fused).items():
        if stacked:
            yield f"{LAYERS}{name}", (trunk.num_layers, *shape)
        else:
            for index in range(trunk.num_layers):
                yield f"{LAYERS}{index}.{name}", shape


def _copied(name: str, ours: str, tensor: StoredTensor) -> PlainTensor:
    return PlainTensor(
        name=ours, shape=tensor.shape, dtype=tensor.dtype, sources=(name,), read=tensor.read
    )


def _queries_keys_values(
    prefix: str, layer: Mapping[str, tuple[str, StoredTensor]], trunk: TrunkConfig
) -> Iterator[PlainTensor]:
    """Yield the three projections, their rows gathered from the groups of key heads."""
    shared = trunk.num_heads // trunk.num_kv_heads
    rows = torch.arange((trunk.num_heads + 2 * trunk.num_kv_heads) * trunk.head_width)
    groups = rows.view(trunk.num_kv_heads, shared + 2, trunk.head_width)
    for ours, part in (
        ("q_proj", groups[:, :shared]),
        ("k_proj", groups[:, shared]),
        ("v_proj", groups[:, shared + 1]),
    ):
        for kind in ("weight", "bias"):
            name, tensor = layer[f"{QKV}{kind}"]
            yield PlainTensor(
                name=f"{prefix}{ours}.{kind}",
                shape=(part.numel(), *tensor.shape[1:]),
                dtype=tensor.dtype,
                sources=(name,),
                read=_Gathered(tensor, part.flatten()),
            )


def _gate_and_up(
    prefix: str,
    layer: Mapping[str, tuple[str, StoredTensor]],
    trunk: TrunkConfig,
    *,
    fused: bool,
) -> Iterator[PlainTensor]:
    """Yield the two halves of fc1; the first, "w", is the one that goes through SiLU."""
    for number, (ours, half) in enumerate((("gate_proj", "w"), ("up_proj", "v"))):
        for kind in ("weight", "bias"):
            name, tensor = layer[f"{FC1}{kind}" if fused else f"{FC1}{kind}_{half}"]
            yield PlainTensor(
                name=f"{prefix}{ours}.{kind}",
                shape=(trunk.ffn_width, *tensor.shape[1:]),
                dtype=tensor.dtype,
                sources=(name,),
                read=_Shifted(tensor, number * trunk.ffn_width if fused else 0),
            )


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Rows of a tensor in another order."""

    tensor: StoredTensor
    rows: Tensor

    def __call__(self, lo: int, hi: int) -> Tensor:
        return self.tensor.read().index_select(0, self.rows[lo:hi])


@dataclass(frozen=True, slots=True)
class _Shifted:
    """Rows of a tensor from one on."""

    tensor: StoredTensor
    first: int

    def __call__(self, lo: int, hi: int) -> Tensor:
        return self.tensor.read(self.first + lo, self.first + hi)
