"""The sizes of a language model, from the shapes of its tensors and what was said in training.

Shapes say almost everything. They do not say how wide a head is, nor the constants without weights
(``norm_eps``, ``rope_base``): those come from the training's arguments, if the source has them.
Where both speak, they must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from khala.errors import CheckpointError, ConfigError
from khala.nn.config import TrunkConfig

__all__ = ["Sizes", "max_positions", "trunk_config"]

PUBLISHED_HEAD_WIDTH = 64
"""Channels per head of the published models."""

REQUIRED = {
    "swiglu": (True,),
    "add_bias_linear": (True,),
    "untie_embeddings_and_output_weights": (True,),
    "normalization": ("RMSNorm",),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1, 1.0),
    "rotary_interleaved": (False,),
}
"""What our trunk is, in the arguments' words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What the shapes of the tensors say."""

    num_rows: int
    """Rows of the embedding and of the output matrix."""

    width: int
    num_layers: int

    query_width: int
    """Query heads times channels per head."""

    kv_width: int
    """Key heads times channels per head."""

    ffn_width: int


def trunk_config(
    sizes: Sizes, args: Mapping[str, Any] | None, *, source: str
) -> tuple[TrunkConfig, list[str]]:
    """Return the trunk of published weights, and what had to be assumed, in words.

    Args:
        sizes: what the tensors say.
        args: the training's arguments, if there are any.
        source: names where the arguments or the tensors are, for errors.

    Raises:
        CheckpointError: arguments that contradict the tensors or describe another kind of model.
    """
    args = args or {}
    notes = []
    for name, allowed in REQUIRED.items():
        if name in args and args[name] not in allowed:
            raise CheckpointError(
                f"{source}: {name} is {args[name]!r}, and only {allowed[0]!r} is a Khala model"
            )
    if "num_attention_heads" in args:
        num_heads = _number(args, "num_attention_heads", source)
        head_width = args.get("kv_channels") or _divided(sizes.query_width, num_heads, source)
    else:
        head_width = PUBLISHED_HEAD_WIDTH
        num_heads = _divided(sizes.query_width, head_width, source)
        notes.append(
            f"no arguments say how wide a head is: {head_width} channels, as in the published "
            f"models, makes {num_heads} heads"
        )
    num_kv_heads = _divided(sizes.kv_width, head_width, source)
    _compare(args, sizes, num_heads, num_kv_heads, head_width, source)
    if "rotary_base" not in args or "norm_epsilon" not in args:
        notes.append("rope_base and norm_eps, where no arguments say them, are the published ones")
    try:
        trunk = TrunkConfig(
            width=sizes.width,
            num_layers=sizes.num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_width=head_width,
            ffn_width=sizes.ffn_width,
            norm_eps=float(args.get("norm_epsilon", 1e-6)),
            rope_base=float(args.get("rotary_base", 500_000.0)),
            double_fc1_bias=True,
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    return trunk, notes


def max_positions(args: Mapping[str, Any] | None, published: int) -> int:
    """Return the longest stream that the arguments name, or the published model's."""
    args = args or {}
    found = args.get("max_position_embeddings") or args.get("seq_length")
    return found if isinstance(found, int) and found > 0 else published


def _compare(
    args: Mapping[str, Any],
    sizes: Sizes,
    num_heads: int,
    num_kv_heads: int,
    head_width: int,
    source: str,
) -> None:
    """Raise CheckpointError for the first argument that contradicts the tensors."""
    is_grouped = args.get("group_query_attention", True)
    found = {
        "hidden_size": sizes.width,
        "num_layers": sizes.num_layers,
        "num_attention_heads": sizes.query_width // head_width,
        "num_query_groups": num_kv_heads if is_grouped else args.get("num_query_groups"),
        "kv_channels": head_width,
        "ffn_hidden_size": sizes.ffn_width,
        "padded_vocab_size": sizes.num_rows,
    }
    for name, value in found.items():
        said = args.get(name)
        if said is not None and said != value:
            raise CheckpointError(f"{source}: {name} is {said}, and the tensors have {value}")
    if not is_grouped and num_kv_heads != num_heads:
        raise CheckpointError(
            f"{source}: group_query_attention is False, and the tensors have {num_kv_heads} key "
            f"heads for {num_heads} heads"
        )
    if num_heads * head_width != sizes.query_width:
        raise CheckpointError(
            f"{source}: {num_heads} heads of {head_width} channels, and the tensors have "
            f"{sizes.query_width} channels of queries"
        )


def _number(args: Mapping[str, Any], name: str, source: str) -> int:
    value = args[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{source}: {name} must be a positive integer, not {value!r}")
    return value


def _divided(whole: int, part: Any, source: str) -> int:
    if isinstance(part, bool) or not isinstance(part, int) or part < 1 or whole % part:
        raise CheckpointError(
            f"{source}: {whole} channels are not a whole number of parts of {part!r}; arguments "
            "with num_attention_heads (and kv_channels) belong beside the weights"
        )
    return whole // part
