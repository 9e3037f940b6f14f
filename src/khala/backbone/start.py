"""Starting a backbone's tables from the codec's: codes that sound alike begin alike.

Shape letters: V codes of a level, C width of the codec's vectors, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from khala.backbone.model import Backbone

ALIKE = 0.8
"""Part of a row's variance that comes from the codec; the rest stays its own."""


@torch.no_grad()
def start_tables(backbone: Backbone, vectors: Sequence[Tensor], *, seed: int = 0) -> None:
    """Mix the codec's vectors into the rows of the coarse levels, in place.

    A level's vectors are centred, brought to one size and turned into the model's width by one
    random matrix, the same for embedding and output; rows keep the size ``nn.init`` gave them.
    Learned at all, rows would have to find out from counts what the codec already knows.

    Args:
        backbone: fresh from its constructor.
        vectors: [V, C] of level 0, 1: what each level's code is chosen by.
        seed: chooses the random matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = backbone.config.layout
    for level, vectors_VC in enumerate(vectors):
        if vectors_VC.shape[0] != layout.codebook_size:
            raise ValueError(f"level {level} has {vectors_VC.shape[0]} vectors")
        centred_VC = vectors_VC.float() - vectors_VC.float().mean(0)
        turn_CD = torch.randn(centred_VC.shape[1], backbone.config.trunk.width, generator=generator)
        alike_VD = centred_VC @ turn_CD.to(centred_VC)
        alike_VD /= alike_VD.std().clamp_min(1e-12)
        rows = slice(layout.first_id(level), layout.first_id(level) + layout.codebook_size)
        for table in (backbone.embed.weight, backbone.lm_head.weight):
            own_VD = table[rows]
            table[rows] = math.sqrt(ALIKE) * own_VD.std() * alike_VD + math.sqrt(1 - ALIKE) * own_VD
