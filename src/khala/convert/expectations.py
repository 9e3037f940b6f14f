"""What is believed of the published checkpoints, compared with the files a user has.

The descriptions that this project had are second-hand in places: each line here is one fact that
only the real files can settle. A fact that differs is no error; what would be wrong to load is
refused while looking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from khala.backbone import BackboneConfig
from khala.codec.config import CodecConfig, ConvConfig
from khala.convert.published import POSITIONS, Part, Source
from khala.nn.config import TrunkConfig
from khala.superres import SuperResConfig

__all__ = ["Fact", "compare"]

TRUNK = TrunkConfig(
    width=2048,
    num_layers=24,
    num_heads=32,
    num_kv_heads=8,
    head_width=64,
    ffn_width=5632,
    double_fc1_bias=True,
)
NUM_ROWS = {"backbone": 130_432, "superres": 193_920}
NUM_SOURCES = {"backbone": 291, "superres": 291}
CODEC_ENTRIES = 558


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing about one part."""

    part: str
    what: str

    expected: Any
    """None: not known."""

    found: Any

    @property
    def agrees(self) -> bool | None:
        """Whether what was found is what was expected; None if nothing was."""
        return None if self.expected is None else bool(self.expected == self.found)


def compare(source: Source) -> list[Fact]:
    """Return the facts of every part that is there."""
    return [fact for part in source.parts.values() for fact in _facts(part)]


def _facts(part: Part) -> list[Fact]:
    numbers = sorted({str(one.dtype).removeprefix("torch.") for one in part.tensors})
    facts: list[tuple[str, Any, Any]] = [("numbers on disk", None, ", ".join(numbers))]
    used = {name for one in part.tensors for name in one.sources}
    facts.append(("files", None, len(part.files)))
    facts.append(("entries skipped", None, len(part.skipped)))
    config = part.config
    if isinstance(config, CodecConfig):
        copies = [name for name, why in part.skipped.items() if why.startswith("a copy")]
        inside = [name for name in part.skipped if "quantizer." in name]
        whole = config.conv is not None and config.conv.encoder_filters is not None
        conv = ConvConfig() if whole else ConvConfig(encoder_filters=None, encoder_strides=())
        entries = CODEC_ENTRIES if whole else None
        facts.append(("entries of the codec", entries, len(used) + len(inside)))
        facts.append(("codebooks with an equal copy", config.quantizer.num_levels, len(copies)))
        facts.append(("sizes", CodecConfig(conv=conv), config))
    else:
        facts += _language_facts(part.kind, config, used)
    return [Fact(part.kind, what, expected, found) for what, expected, found in facts]


def _language_facts(
    kind: str, config: BackboneConfig | SuperResConfig, used: set[str]
) -> list[tuple[str, Any, Any]]:
    is_megatron = any(name.startswith("decoder.layers.") for name in used)
    apart = any(name.endswith("weight_w") for name in used)
    facts: list[tuple[str, Any, Any]] = [
        ("rows of the vocabulary", NUM_ROWS[kind], config.num_rows),
        ("longest stream", POSITIONS[kind], config.max_positions),
        ("sizes", TRUNK, config.trunk),
    ]
    if is_megatron:
        facts.append(("tensors", NUM_SOURCES[kind], len(used)))
        facts.append(("gate and up", "apart", "apart" if apart else "joined"))
        by_layer = "decoder.layers.0.mlp.linear_fc2.weight" in used
        facts.append(("layers", "one by one", "one by one" if by_layer else "stacked"))
    return facts
