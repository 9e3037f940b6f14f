"""Checkpoints as Megatron and torch write them, with weights that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, SavePlan, save
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from khala.nn import TrunkConfig

TRUNK = TrunkConfig(
    width=12,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_width=4,
    ffn_width=20,
    double_fc1_bias=True,
)
"""Three query heads share a key head, and no two sizes are equal."""

ARGUMENTS = {
    "hidden_size": 12,
    "num_layers": 3,
    "num_attention_heads": 6,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 4,
    "ffn_hidden_size": 20,
    "swiglu": True,
    "add_bias_linear": True,
    "untie_embeddings_and_output_weights": True,
    "normalization": "RMSNorm",
    "position_embedding_type": "rope",
    "rotary_base": 500_000,
    "rotary_percent": 1.0,
    "norm_epsilon": 1e-6,
}


def plain_weights(num_rows: int, *, trunk: TrunkConfig = TRUNK, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under our names, in bfloat16."""
    width, head = trunk.width, trunk.head_width
    queries, keys = trunk.num_heads * head, trunk.num_kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "embed.weight": (num_rows, width),
        "lm_head.weight": (num_rows, width),
        "norm.weight": (width,),
    }
    for index in range(trunk.num_layers):
        layer = f"layers.{index}."
        for name in ("input_norm", "post_attn_norm"):
            shapes[f"{layer}{name}.weight"] = (width,)
        for name, out, inputs in (
            ("attn.q_proj", queries, width),
            ("attn.k_proj", keys, width),
            ("attn.v_proj", keys, width),
            ("attn.o_proj", width, queries),
            ("mlp.gate_proj", trunk.ffn_width, width),
            ("mlp.up_proj", trunk.ffn_width, width),
            ("mlp.down_proj", width, trunk.ffn_width),
        ):
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = (out, inputs), (out,)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()
    }


def to_megatron(
    plain: dict[str, Tensor],
    *,
    fused: bool = False,
    stacked: bool = False,
    trunk: TrunkConfig = TRUNK,
) -> dict[str, Tensor]:
    """The same weights as Megatron lays them out, written head by head."""
    out = {
        "embedding.word_embeddings.weight": plain["embed.weight"],
        "output_layer.weight": plain["lm_head.weight"],
        "decoder.final_layernorm.weight": plain["norm.weight"],
    }
    layers = [_layer(plain, f"layers.{i}.", fused, trunk) for i in range(trunk.num_layers)]
    if stacked:
        for name in layers[0]:
            out[f"decoder.layers.{name}"] = torch.stack([layer[name] for layer in layers])
    else:
        for index, layer in enumerate(layers):
            out |= {f"decoder.layers.{index}.{name}": tensor for name, tensor in layer.items()}
    return out


def _layer(plain: dict[str, Tensor], ours: str, fused: bool, trunk: TrunkConfig) -> dict[str, Any]:
    out = {
        "self_attention.linear_qkv.layer_norm_weight": plain[f"{ours}input_norm.weight"],
        "mlp.linear_fc1.layer_norm_weight": plain[f"{ours}post_attn_norm.weight"],
    }
    head, shared = trunk.head_width, trunk.num_heads // trunk.num_kv_heads
    for kind in ("weight", "bias"):
        pieces = []
        for group in range(trunk.num_kv_heads):
            for one in range(group * shared, (group + 1) * shared):
                pieces.append(plain[f"{ours}attn.q_proj.{kind}"][one * head : (one + 1) * head])
            for name in ("k_proj", "v_proj"):
                whole = plain[f"{ours}attn.{name}.{kind}"]
                pieces.append(whole[group * head : (group + 1) * head])
        out[f"self_attention.linear_qkv.{kind}"] = torch.cat(pieces)
        out[f"self_attention.linear_proj.{kind}"] = plain[f"{ours}attn.o_proj.{kind}"]
        out[f"mlp.linear_fc2.{kind}"] = plain[f"{ours}mlp.down_proj.{kind}"]
        gate, up = plain[f"{ours}mlp.gate_proj.{kind}"], plain[f"{ours}mlp.up_proj.{kind}"]
        if fused:
            out[f"mlp.linear_fc1.{kind}"] = torch.cat([gate, up])
        else:
            out[f"mlp.linear_fc1.{kind}_w"], out[f"mlp.linear_fc1.{kind}_v"] = gate, up
    return out


class Cutter(DefaultSavePlanner):
    """Plans several chunks for every large tensor, as several ranks would have them."""

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = [piece for item in plan.items for piece in self._cut(item)]
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def _cut(self, item: WriteItem) -> list[WriteItem]:
        tensor = self.state_dict[item.index.fqn]
        if not isinstance(tensor, Tensor) or tensor.dim() < 2:
            return [item]
        rows, columns = tensor.shape[0] // 2, tensor.shape[1] // 3
        pieces = []
        for number, (at, count) in enumerate(((0, rows), (rows, tensor.shape[0] - rows))):
            for left, wide in ((0, columns), (columns, tensor.shape[1] - columns)):
                rest = tensor.shape[2:]
                offsets = torch.Size((at, left, *(0 for _ in rest)))
                sizes = torch.Size((count, wide, *rest))
                if 0 in sizes:
                    continue
                data = TensorWriteData(
                    chunk=ChunkStorageMetadata(offsets=offsets, sizes=sizes),
                    properties=TensorProperties.create_from_tensor(tensor),
                    size=tensor.size(),
                )
                index = MetadataIndex(item.index.fqn, offsets, number)
                pieces.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))
        return pieces

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type != WriteItemType.SHARD:
            return super().resolve_data(write_item)
        assert write_item.tensor_data is not None
        chunk = write_item.tensor_data.chunk
        where = tuple(slice(at, at + n) for at, n in zip(chunk.offsets, chunk.sizes, strict=True))
        return self.state_dict[write_item.index.fqn][where].clone()


def save_folder(
    folder: Path, state: dict[str, Any], *, cut: bool = False, files: int = 3, few: bool = False
) -> Path:
    """Write a torch.distributed.checkpoint folder with several shard files, or one per thread."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = FileSystemWriter(folder, single_file_per_rank=few, thread_count=files)
    planner = Cutter() if cut else DefaultSavePlanner()
    save(state, storage_writer=writer, planner=planner, no_dist=True)
    return folder
