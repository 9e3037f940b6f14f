"""The shape of the transformer that both models share."""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """Sizes of the trunk; the published model is 2048 wide, 24 layers, 32 heads over 8 KV heads."""

    width: int
    """Channels of the residual stream."""

    num_layers: int
    """Transformer layers."""

    num_heads: int
    """Query heads per layer."""

    num_kv_heads: int
    """Key and value heads per layer; query head h reads KV head h // (num_heads/num_kv_heads)."""

    head_width: int
    """Channels per head; even, because rotary positions turn channels in pairs."""

    ffn_width: int
    """Hidden channels of the SwiGLU block."""

    norm_eps: float = 1e-6
    """Added to the mean square inside every RMSNorm."""

    rope_base: float = 500_000.0
    """Base of the rotary angles."""

    double_fc1_bias: bool = False
    """Add the biases of gate_proj and up_proj twice.

    True only for the published weights: they were trained under a TransformerEngine (2.0 and 2.1)
    that ignored ``return_bias`` and so applied this one bias a second time. Read once, those
    weights give noise. Models trained here leave it False.
    """

    def __post_init__(self) -> None:
        for name in (
            "width",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_width",
            "ffn_width",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"TrunkConfig.{name} must be a positive integer, not {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"TrunkConfig.num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.head_width % 2:
            raise ConfigError(f"TrunkConfig.head_width must be even, not {self.head_width}")
        if not self.norm_eps > 0.0 or not self.rope_base > 1.0:
            raise ConfigError("TrunkConfig needs norm_eps > 0 and rope_base > 1")
