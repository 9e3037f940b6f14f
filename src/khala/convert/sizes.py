"""The sizes of a language model, from the shapes of its tensors and what was said in training.

Shapes say almost everything. They do not say how wide a head is, nor what has no weights
(``norm_eps``, ``rope_base``, the longest stream): that comes from the training's arguments, if the
source has them. Where both speak, they must agree. Without arguments the constants are the
published ones, and it is said so; heads are cut as in the published models only where all widths
are theirs, for a wrong cut would load and sound like noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from khala.errors import CheckpointError, ConfigError
from khala.nn.config import TrunkConfig

__all__ = ["Sizes", "max_positions", "trunk_config"]

PUBLISHED_WIDTHS = (2048, 2048, 512)
"""Width, channels of all queries and of all keys of the published models."""

PUBLISHED_HEAD_WIDTH = 64
"""Their channels per head."""

REQUIRED: dict[str, tuple[Any, ...]] = {
    "swiglu": (True,),
    "add_bias_linear": (True,),
    "untie_embeddings_and_output_weights": (True,),
    "normalization": ("RMSNorm",),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1, 1.0),
    "rotary_interleaved": (False,),
    "rotary_seq_len_interpolation_factor": (None, 1, 1.0),
    "use_rope_scaling": (False,),
    "no_rope_freq": (None,),
    "window_size": (None,),
    "apply_layernorm_1p": (False,),
    "apply_residual_connection_post_layernorm": (False,),
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
    notes: list[str] = []
    for name, allowed in REQUIRED.items():
        if name in args and args[name] not in allowed:
            raise CheckpointError(
                f"{source}: {name} is {args[name]!r}, and only {allowed[0]!r} is a Khala model"
            )
    head_width = _head_width(args, sizes, source, notes)
    num_heads = _divided(sizes.query_width, head_width, source)
    num_kv_heads = _divided(sizes.kv_width, head_width, source)
    _compare(args, sizes, num_kv_heads, head_width, source)
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


def max_positions(
    args: Mapping[str, Any] | None, published: int, *, source: str
) -> tuple[int, list[str]]:
    """Return the longest stream that the arguments name, or the published model's, and a note.

    Raises:
        CheckpointError: an argument that is no length.
    """
    for name in ("max_position_embeddings", "seq_length"):
        if args and args.get(name) is not None:
            return _number(args, name, source), []
    return published, [f"no arguments say the longest stream: {published} positions, as published"]


def _head_width(args: Mapping[str, Any], sizes: Sizes, source: str, notes: list[str]) -> int:
    """Return the channels per head, from whatever argument says it.

    Raises:
        CheckpointError: nothing does, and the model is not of the published widths.
    """
    names = ("kv_channels", "num_attention_heads", "num_query_groups")
    said = {name: _number(args, name, source) for name in names if args.get(name) is not None}
    if "kv_channels" in said:
        return said["kv_channels"]
    if "num_attention_heads" in said:
        return _divided(sizes.query_width, said["num_attention_heads"], source)
    if "num_query_groups" in said and args.get("group_query_attention") is True:
        return _divided(sizes.kv_width, said["num_query_groups"], source)
    if (sizes.width, sizes.query_width, sizes.kv_width) == PUBLISHED_WIDTHS:
        notes.append(
            f"no arguments say how wide a head is: {PUBLISHED_HEAD_WIDTH} channels, as in the "
            "published models, whose widths these are"
        )
        return PUBLISHED_HEAD_WIDTH
    raise CheckpointError(
        f"{source}: {sizes.query_width} channels of queries in heads of unknown width: "
        "num_attention_heads is missing; put the training's arguments beside the weights, as "
        "megatron_args.json or backbone_megatron_args.json and superres_megatron_args.json"
    )


def _compare(
    args: Mapping[str, Any],
    sizes: Sizes,
    num_kv_heads: int,
    head_width: int,
    source: str,
) -> None:
    """Raise CheckpointError for the first argument that contradicts the tensors."""
    num_heads = sizes.query_width // head_width
    is_grouped = args.get("group_query_attention")
    # Megatron has a num_query_groups, 1, also where heads share nothing, and does not read it.
    has_groups = is_grouped or (is_grouped is None and num_kv_heads != num_heads)
    found = {
        "hidden_size": sizes.width,
        "num_layers": sizes.num_layers,
        "num_attention_heads": num_heads,
        "num_query_groups": num_kv_heads if has_groups else args.get("num_query_groups"),
        "kv_channels": head_width,
        "ffn_hidden_size": sizes.ffn_width,
        "padded_vocab_size": sizes.num_rows,
    }
    for name, value in found.items():
        said = args.get(name)
        if said is not None and said != value:
            raise CheckpointError(f"{source}: {name} is {said}, and the tensors have {value}")
    if is_grouped is False and num_kv_heads != num_heads:
        raise CheckpointError(
            f"{source}: group_query_attention is False, and the tensors have {num_kv_heads} key "
            f"heads for {num_heads} heads"
        )


def _number(args: Mapping[str, Any], name: str, source: str) -> int:
    value = args[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{source}: {name} must be a positive integer, not {value!r}")
    return value


def _divided(whole: int, part: Any, source: str) -> int:
    if isinstance(part, bool) or not isinstance(part, int) or part < 1 or whole % part:
        raise CheckpointError(
            f"{source}: {whole} channels are not a whole number of parts of {part!r}; is "
            "num_attention_heads or kv_channels that of another model?"
        )
    return whole // part
