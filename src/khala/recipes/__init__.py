"""Named runs as functions that return complete configs."""

from khala.recipes.backbone import (
    backbone_debug,
    backbone_full,
    backbone_nano,
    backbone_nano_lora,
    backbone_nano_short,
    backbone_nano_tune,
)
from khala.recipes.codec import (
    codec_conv_debug,
    codec_debug,
    codec_full,
    codec_nano,
    codec_nano_decoder,
)
from khala.recipes.overrides import apply_overrides
from khala.recipes.superres import (
    superres_debug,
    superres_full,
    superres_nano,
    superres_nano_lora,
    superres_nano_tune,
)

__all__ = [
    "apply_overrides",
    "backbone_debug",
    "backbone_full",
    "backbone_nano",
    "backbone_nano_lora",
    "backbone_nano_short",
    "backbone_nano_tune",
    "codec_conv_debug",
    "codec_debug",
    "codec_full",
    "codec_nano",
    "codec_nano_decoder",
    "superres_debug",
    "superres_full",
    "superres_nano",
    "superres_nano_lora",
    "superres_nano_tune",
]
