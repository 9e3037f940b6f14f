"""Residual vector quantisation: each level codes what the levels below it left over.

Shape letters, this file only: B batch, T frames, Q levels, D latent width, K codes of a level,
W code width, G guide width.

Level q holds a codebook [K, W] and, when W < D, an orthonormal basis [D, W]; its vectors are
``basis @ code``. Because the basis is orthonormal, the nearest of those vectors to a residual is
the nearest code to the residual's coordinates in the basis (plain Euclidean distance). The sum of
the chosen vectors is what the decoder sees. See SoundStream (https://arxiv.org/abs/2107.03312).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from khala.codec.config import QuantizerConfig
from khala.errors import TokenError

__all__ = ["ResidualQuantizer", "nearest"]

BLOCK = 1024
"""Points whose distances to every code are held at once."""


class ResidualQuantizer(nn.Module):
    """Codebooks of every level, and the two directions: latents to codes and back."""

    codebooks: Tensor
    bases: Tensor | None
    keys: Tensor | None

    def __init__(self, config: QuantizerConfig, *, guide_width: int | None = None) -> None:
        """Make empty codebooks; ``guide_width`` adds keys by which level 0 is chosen."""
        super().__init__()
        self.config = config
        levels, size, width = config.num_levels, config.codebook_size, config.latent_width
        inner = config.code_width or width
        self.register_buffer("codebooks", torch.randn(levels, size, inner) / inner**0.5)
        bases = None
        if config.code_width is not None:
            bases = torch.eye(width, inner).repeat(levels, 1, 1)
        self.register_buffer("bases", bases)
        keys = None if guide_width is None else torch.randn(size, guide_width)
        self.register_buffer("keys", keys)

    def coordinates(self, residual_BTD: Tensor, level: int) -> Tensor:
        """Return the residual in the level's own coordinates, [B, T, W]."""
        return residual_BTD if self.bases is None else residual_BTD @ self.bases[level]

    def vectors(self, codes_BT: Tensor, level: int) -> Tensor:
        """Return the latent vectors of one level's codes, [B, T, D]."""
        chosen = self.codebooks[level][codes_BT]
        return chosen if self.bases is None else chosen @ self.bases[level].T

    def choose(self, residual_BTD: Tensor, level: int, guide_BTG: Tensor | None) -> Tensor:
        """Return the code of each frame at one level, [B, T]."""
        if level == 0 and self.keys is not None:
            assert guide_BTG is not None, "a guided quantiser needs the guide's output"
            return nearest(guide_BTG, self.keys)
        return nearest(self.coordinates(residual_BTD, level), self.codebooks[level])

    def encode(
        self,
        latents_BTD: Tensor,
        guide_BTG: Tensor | None = None,
        *,
        num_levels: int | None = None,
    ) -> Tensor:
        """Return codes_BQT of the first ``num_levels`` levels (all, if not given)."""
        residual = latents_BTD
        codes = []
        for level in range(num_levels or self.config.num_levels):
            codes_BT = self.choose(residual, level, guide_BTG)
            residual = residual - self.vectors(codes_BT, level)
            codes.append(codes_BT)
        return torch.stack(codes, dim=1)

    def decode(self, codes_BQT: Tensor) -> Tensor:
        """Return the sum of the vectors of any prefix of levels, latents_BTD.

        Raises:
            TokenError: no level, more levels than there are, or a code outside its codebook.
        """
        if codes_BQT.ndim != 3 or codes_BQT.is_floating_point():
            raise TokenError(
                "codes must be integers [batch, levels, frames], not "
                f"{codes_BQT.dtype} {tuple(codes_BQT.shape)}"
            )
        codes_BQT = codes_BQT.long()
        batch, levels, frames = codes_BQT.shape
        if not 1 <= levels <= self.config.num_levels:
            raise TokenError(f"levels must lie in 1..{self.config.num_levels}, not {levels}")
        if codes_BQT.numel():
            low, high = int(codes_BQT.min()), int(codes_BQT.max())
            if low < 0 or high >= self.config.codebook_size:
                raise TokenError(
                    f"codes must lie in 0..{self.config.codebook_size - 1}, not {low}..{high}"
                )
        total = self.codebooks.new_zeros(batch, frames, self.config.latent_width)
        for level in range(levels):
            total = total + self.vectors(codes_BQT[:, level], level)
        return total


def nearest(points_BTW: Tensor, codes_KW: Tensor) -> Tensor:
    """Return the index of the Euclidean nearest code of each point, [B, T]; ties: the lowest."""
    half_norms_K = 0.5 * codes_KW.square().sum(-1)
    rows_NW = points_BTW.reshape(-1, points_BTW.shape[-1])
    # In blocks whose scores stay in the cache: several times faster for many points.
    codes = [
        _first_largest(torch.addmm(half_norms_K, block, codes_KW.T, beta=-1))
        for block in torch.split(rows_NW, BLOCK)
    ]
    return torch.cat(codes).reshape(points_BTW.shape[:-1])


def _first_largest(scores_NK: Tensor) -> Tensor:
    """Return argmax of each row; numpy's is ten times faster than torch's on a CPU."""
    if scores_NK.device.type == "cpu" and scores_NK.dtype == torch.float32:
        return torch.from_numpy(scores_NK.detach().numpy().argmax(axis=1))
    return scores_NK.argmax(-1)
