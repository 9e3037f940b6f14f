"""Where the weights of a new model start.

Matrices and embeddings are normal with standard deviation 0.02 at the published width of 2048 and
scale as 1/sqrt(width), so that a small model starts with the activations of the published one. The
two matrices of a layer that write into the residual stream (o_proj, down_proj) are divided by
sqrt(2 * num_layers), so the stream keeps its size whatever the depth. Output rows are normal with
0.02 at any width. Biases start at zero, norms at one.

Why not 0.02 everywhere: at small widths attention then starts so flat that a model leans on the
last few codes and takes far longer to listen to its lyrics. Why embeddings scale too: left at
0.02 they drown under what scaled layers add, and what stands where is learned late.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from khala.nn.config import TrunkConfig

STD = 0.02
PUBLISHED_WIDTH = 2048


def hidden_std(width: int) -> float:
    """Return the standard deviation of embeddings and of matrices that read ``width`` channels."""
    return STD * math.sqrt(PUBLISHED_WIDTH / width)


def blank_embedding(num_rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose numbers are still to be made or loaded.

    Drawing them, as torch does, would be for nothing; where they have no memory yet, it would
    import a compiler first, which takes longer than a sketch.
    """
    blank = torch.empty(num_rows, width)
    made: nn.Embedding = nn.Embedding.from_pretrained(blank, freeze=False)  # type: ignore[no-untyped-call]
    return made


@torch.no_grad()
def init_weights(module: nn.Module, config: TrunkConfig, *, seed: int) -> None:
    """Start every parameter of a model that holds a trunk, by its name, from one seed.

    Parameters named differently from those of the trunk and its tables are left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    std = hidden_std(config.width)
    for name, parameter in module.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name == "embed.weight":
            parameter.normal_(0.0, std, generator=generator)
        elif name == "lm_head.weight":
            parameter.normal_(0.0, STD, generator=generator)
        elif name.startswith("layers.") and name.endswith(".bias"):
            parameter.zero_()
        elif name.startswith("layers."):
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = math.sqrt(2 * config.num_layers) if writes else 1.0
            parameter.normal_(0.0, std / scale, generator=generator)
