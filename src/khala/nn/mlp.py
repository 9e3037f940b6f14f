"""The SwiGLU block (https://arxiv.org/abs/2002.05202), with the published fc1 bias as a flag."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from khala.nn.config import TrunkConfig
from khala.nn.linear import joined_linear


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); every projection has a bias."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.double_fc1_bias = config.double_fc1_bias
        self.gate_proj = nn.Linear(config.width, config.ffn_width)
        self.up_proj = nn.Linear(config.width, config.ffn_width)
        self.down_proj = nn.Linear(config.ffn_width, config.width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Return the block's output, before it is added to the residual stream."""
        scale = 2.0 if self.double_fc1_bias else 1.0
        gate, up = joined_linear(x_BSD, (self.gate_proj, self.up_proj), bias_scale=scale)
        out_BSD: Tensor = self.down_proj(F.silu(gate) * up)
        return out_BSD
