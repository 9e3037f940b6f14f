"""Where the weights of a new model start.

One rule: every matrix is normal with standard deviation 0.02 at the published width of 2048, and
scales as 1/sqrt(width) for other widths, so a small model starts with the same activations as the
published one. The two matrices of a layer that write into the residual stream (o_proj, down_proj)
are divided by sqrt(2 * num_layers), so the stream keeps its size whatever the depth. Embeddings
and output rows are normal with 0.02 at any width. Biases start at zero, norms at one.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from khala.nn.config import TrunkConfig

STD = 0.02
PUBLISHED_WIDTH = 2048


def hidden_std(width: int) -> float:
    """Return the standard deviation of a matrix that reads ``width`` channels."""
    return STD * math.sqrt(PUBLISHED_WIDTH / width)


@torch.no_grad()
def init_weights(module: nn.Module, config: TrunkConfig, *, seed: int) -> None:
    """Start every parameter of a model that holds a trunk, by its name, from one seed.

    Parameters named differently from those of the trunk and its tables are left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = hidden_std(config.width) / math.sqrt(2 * config.num_layers)
    for name, parameter in module.named_parameters():
        if name.endswith(("norm.weight",)):
            parameter.fill_(1.0)
        elif name in ("embed.weight", "lm_head.weight"):
            parameter.normal_(0.0, STD, generator=generator)
        elif name.startswith("layers.") and name.endswith(".bias"):
            parameter.zero_()
        elif name.startswith("layers.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.normal_(0.0, residual, generator=generator)
        elif name.startswith("layers."):
            parameter.normal_(0.0, hidden_std(config.width), generator=generator)
