"""Waveform <-> codes: 64 residual levels of 1,024 codes, 21.53 frames a second."""

from khala.codec.codec import Codec
from khala.codec.config import (
    CodecConfig,
    ConvConfig,
    EnvelopeConfig,
    GuideConfig,
    QuantizerConfig,
    SpectralConfig,
)

__all__ = [
    "Codec",
    "CodecConfig",
    "ConvConfig",
    "EnvelopeConfig",
    "GuideConfig",
    "QuantizerConfig",
    "SpectralConfig",
]
