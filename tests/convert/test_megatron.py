"""Megatron's layouts become ours, and what does not fit is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron_folders import ARGUMENTS, TRUNK, plain_weights, save_folder, to_megatron

from khala.convert.dcp import read_distributed
from khala.convert.megatron import megatron_sizes, megatron_tensors
from khala.convert.sizes import Sizes, max_positions, trunk_config
from khala.convert.stored import PlainTensor
from khala.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
ROWS = 31
SIZES = Sizes(num_rows=ROWS, width=12, num_layers=3, query_width=24, kv_width=8, ffn_width=20)


def read(folder: Path, args: dict[str, Any] | None = None) -> list[PlainTensor]:
    stored = read_distributed(folder).tensors
    sizes = megatron_sizes(stored, source="here")
    trunk, _ = trunk_config(sizes, ARGUMENTS if args is None else args, source="here")
    assert trunk == TRUNK
    return megatron_tensors(stored, trunk, num_rows=sizes.num_rows, source="here")


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "chunks"])
@pytest.mark.parametrize("stacked", [False, True], ids=["by-layer", "stacked"])
@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
def test_every_layout_gives_the_same_weights(
    tmp_path: Path, fused: bool, stacked: bool, cut: bool
) -> None:
    """Megatron writes the same model in several ways; a mistake in one is noise for its users."""
    plain = plain_weights(ROWS)
    state = to_megatron(plain, fused=fused, stacked=stacked)
    made = read(save_folder(tmp_path, state, cut=cut))
    assert {one.name for one in made} == plain.keys()
    for one in made:
        wanted = plain[one.name]
        assert torch.equal(one.read(0, one.shape[0]), wanted), one.name
        assert torch.equal(one.read(2, 5), wanted[2:5]), one.name
    assert {name for one in made for name in one.sources} == state.keys()


def test_one_head_per_group(tmp_path: Path) -> None:
    """Without shared key heads there are as many groups as heads."""
    trunk = dataclasses.replace(TRUNK, num_kv_heads=6)
    plain = plain_weights(ROWS, trunk=trunk)
    stored = read_distributed(save_folder(tmp_path, to_megatron(plain, trunk=trunk))).tensors
    sizes = megatron_sizes(stored, source="here")
    args = {**ARGUMENTS, "group_query_attention": False, "num_query_groups": 1}
    found, _ = trunk_config(sizes, args, source="here")
    assert found == trunk
    for one in megatron_tensors(stored, found, num_rows=ROWS, source="here"):
        assert torch.equal(one.read(0, one.shape[0]), plain[one.name]), one.name


@pytest.mark.parametrize(
    "args",
    [
        {"num_attention_heads": 6},
        {"kv_channels": 4},
        {"group_query_attention": True, "num_query_groups": 2},
        {"num_attention_heads": 6, "kv_channels": None, "num_query_groups": 2},
    ],
)
def test_any_argument_that_says_the_heads_is_enough(args: dict[str, Any]) -> None:
    """Copies of the arguments that leave some out are what people have."""
    trunk, _ = trunk_config(SIZES, args, source="here")
    assert trunk == TRUNK


def test_heads_that_share_nothing_have_no_groups() -> None:
    """Megatron writes num_query_groups = 1 beside models without groups, and does not mean it."""
    sizes = dataclasses.replace(SIZES, kv_width=24)
    for told in ({}, {"group_query_attention": False}, {"group_query_attention": None}):
        args = {"num_attention_heads": 6, "num_query_groups": 1, **told}
        assert trunk_config(sizes, args, source="here")[0].num_kv_heads == 6
    args = {"num_attention_heads": 6, "num_query_groups": 1, "group_query_attention": True}
    with pytest.raises(CheckpointError, match="num_query_groups is 1, and the tensors have 6"):
        trunk_config(sizes, args, source="here")
    with pytest.raises(CheckpointError, match="num_query_groups is 1, and the tensors have 2"):
        trunk_config(SIZES, {"num_attention_heads": 6, "num_query_groups": 1}, source="here")


def test_only_the_published_widths_speak_for_themselves() -> None:
    """The published weights load without their arguments; others would be cut by a guess."""
    published = Sizes(
        num_rows=130_432,
        width=2048,
        num_layers=24,
        ffn_width=5632,
        query_width=2048,
        kv_width=512,
    )
    trunk, notes = trunk_config(published, None, source="here")
    assert (trunk.num_heads, trunk.num_kv_heads, trunk.head_width) == (32, 8, 64)
    assert any("64 channels, as in the published models" in note for note in notes)
    with pytest.raises(CheckpointError, match="num_attention_heads is missing"):
        trunk_config(dataclasses.replace(published, kv_width=1024), None, source="here")


def test_the_longest_stream() -> None:
    """A length that nobody can read must not become another one."""
    assert max_positions({"seq_length": 77}, 9, source="here") == (77, [])
    assert (
        max_positions({"seq_length": 77, "max_position_embeddings": 80}, 9, source="here")[0] == 80
    )
    assert max_positions(None, 9, source="here")[0] == 9
    with pytest.raises(CheckpointError, match="seq_length must be a positive integer, not '77'"):
        max_positions({"seq_length": "77"}, 9, source="here")


LAYER = "decoder.layers.1."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{LAYER}mlp.linear_fc2.bias": None}, r"layers\.1\.mlp\.linear_fc2\.bias \(12,\) is mis"),
        ({"output_layer.weight": None}, r"output_layer\.weight \(31, 12\) is missing"),
        ({"embedding.word_embeddings.weight": None}, r"word_embeddings\.weight is missing"),
        ({f"{LAYER}mlp.linear_fc1.bias": (40,)}, r"linear_fc1\.bias \(40,\) is not part"),
        ({"decoder.layers.3.mlp.linear_fc2.bias": (12,)}, r"layers\.3\..* is missing|num_layers"),
        ({f"{LAYER}self_attention.linear_qkv.weight": (40, 11)}, r"\(40, 11\), not \(40, 12\)"),
        ({"output_layer.weight": (30, 12)}, r"output_layer\.weight has shape \(30, 12\), not \(31"),
        ({"decoder.layers.0.self_attention.linear_qkv.weight": (39, 12)}, "39 rows"),
        ({"mtp.weight": (2, 2)}, r"mtp\.weight \(2, 2\) is not part of a Khala model"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    """A loader that forgives loads noise: each deviation is one line that names the tensor."""
    state = to_megatron(plain_weights(ROWS))
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=message):
        read(save_folder(tmp_path, state))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    """A tensor of counts under a weight's name is a damaged file."""
    state = to_megatron(plain_weights(ROWS))
    state["decoder.final_layernorm.weight"] = torch.ones(12, dtype=torch.int64)
    with pytest.raises(CheckpointError, match="final_layernorm"):
        read(save_folder(tmp_path, state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 16}, "hidden_size is 16, and the tensors have 12"),
        ({"num_layers": 4}, "num_layers is 4, and the tensors have 3"),
        ({"num_attention_heads": 3, "kv_channels": 4}, "num_attention_heads is 3"),
        ({"num_query_groups": 3}, "num_query_groups is 3, and the tensors have 2"),
        ({"kv_channels": 5}, "not a whole number of parts of 5"),
        ({"ffn_hidden_size": 40}, "ffn_hidden_size is 40, and the tensors have 20"),
        ({"padded_vocab_size": 32}, "padded_vocab_size is 32, and the tensors have 31"),
        ({"group_query_attention": False}, "2 key heads for 6 heads"),
        ({"swiglu": False}, "swiglu is False, and only True"),
        ({"normalization": "LayerNorm"}, "normalization is 'LayerNorm'"),
        ({"position_embedding_type": "learned_absolute"}, "position_embedding_type"),
        ({"use_rope_scaling": True}, "use_rope_scaling is True, and only False"),
        ({"num_attention_heads": "six"}, "num_attention_heads must be a positive integer"),
        ({"norm_epsilon": -1.0}, "norm_eps"),
    ],
)
def test_arguments_that_contradict_the_weights(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Arguments of another model would cut the heads elsewhere and load without an error."""
    folder = save_folder(tmp_path, to_megatron(plain_weights(ROWS)))
    with pytest.raises(CheckpointError, match=message):
        read(folder, {**ARGUMENTS, **change})
