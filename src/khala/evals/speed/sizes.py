"""Models to time: the bundled one, or others with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from khala.backbone import Backbone, BackboneConfig
from khala.codec import Codec
from khala.nn import TrunkConfig
from khala.superres import SuperResConfig, SuperResolution
from khala.tokens import nano_layout, published_layout

__all__ = ["SIZES", "Timed", "load_timed"]

SMALL = TrunkConfig(
    width=256, num_layers=8, num_heads=4, num_kv_heads=2, head_width=64, ffn_width=704
)
FULL = TrunkConfig(
    width=2048, num_layers=24, num_heads=32, num_kv_heads=8, head_width=64, ffn_width=5632,
    double_fc1_bias=True,
)  # fmt: skip
SIZES = {"small": SMALL, "full": FULL}
"""Random weights with the published vocabulary: the bundled model's trunk, the published trunk."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Three models, and what is said of them in a table."""

    name: str
    backbone: Backbone
    superres: SuperResolution
    codec: Codec

    def positions(self, seconds: float) -> int:
        """Return the frames of so many seconds."""
        return round(seconds * float(self.codec.config.frame_rate_hz))


def load_timed(name: str) -> Timed:
    """Return "nano" or a model folder as it is, or a size of ``SIZES`` with random weights.

    The codec is always the bundled one, or the folder's.

    Raises:
        CheckpointError: no such model.
    """
    if name not in SIZES:
        return Timed(
            name=name,
            backbone=Backbone.from_pretrained(name),
            superres=SuperResolution.from_pretrained(name),
            codec=Codec.from_pretrained(name),
        )
    layout = replace(published_layout(), codebook_size=nano_layout().codebook_size)
    with torch.inference_mode():
        backbone = Backbone(
            BackboneConfig(trunk=SIZES[name], layout=layout, max_positions=16_384), seed=1
        )
        superres = SuperResolution(
            SuperResConfig(trunk=SIZES[name], layout=layout, max_positions=8_192), seed=1
        )
    return Timed(
        name=f"{name} (random weights, {layout.vocab_size(2):,} ids)",
        backbone=backbone.eval(),
        superres=superres.eval(),
        codec=Codec.from_pretrained("nano"),
    )
