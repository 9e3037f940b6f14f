"""The SwiGLU block (https://arxiv.org/abs/2002.05202), with the published fc1 bias as a flag."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from khala.nn.config import TrunkConfig


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
        gate_bias, up_bias = self.gate_proj.bias, self.up_proj.bias
        if self.double_fc1_bias:
            gate_bias, up_bias = gate_bias * 2, up_bias * 2
        gate = F.linear(x_BSD, self.gate_proj.weight, gate_bias)
        up = F.linear(x_BSD, self.up_proj.weight, up_bias)
        out_BSD: Tensor = self.down_proj(F.silu(gate) * up)
        return out_BSD
