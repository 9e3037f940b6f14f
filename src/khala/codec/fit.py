"""Fitting the quantiser: k-means starts, running averages of codes, revival of dead codes.

Shape letters, this file only: N vectors, Q levels, D latent width, K codes, W code width, G guide
width. Codebooks are never trained by gradients: they follow the vectors that choose them, as in
VQ-VAE's exponential moving averages (https://arxiv.org/abs/1711.00937, appendix). With several
processes they follow the vectors of all of them, and stay the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala.codec import ranks
from khala.codec.quantizer import ResidualQuantizer, nearest

__all__ = ["CodebookAverages", "Quantised", "fit_quantizer", "k_means", "quantise"]


@dataclass(frozen=True, slots=True)
class Quantised:
    """One pass of the quantiser over a batch of frames, with what training needs."""

    codes_QN: Tensor
    """The chosen codes."""

    coordinates_QNW: Tensor
    """The residual each level saw, in the level's coordinates (no gradient)."""

    sums_QND: Tensor
    """Sum of the vectors of levels 0..q (no gradient)."""


@torch.no_grad()
def quantise(
    quantizer: ResidualQuantizer, latents_ND: Tensor, guide_NG: Tensor | None
) -> Quantised:
    """Quantise every level, keeping the intermediate sums."""
    residual, total = latents_ND, torch.zeros_like(latents_ND)
    codes, coordinates, sums = [], [], []
    for level in range(quantizer.config.num_levels):
        codes_N = quantizer.choose(residual, level, guide_NG)
        coordinates.append(quantizer.coordinates(residual, level))
        vectors = quantizer.vectors(codes_N, level)
        residual, total = residual - vectors, total + vectors
        codes.append(codes_N)
        sums.append(total)
    return Quantised(torch.stack(codes), torch.stack(coordinates), torch.stack(sums))


@torch.no_grad()
def fit_quantizer(
    quantizer: ResidualQuantizer,
    latents_ND: Tensor,
    guide_NG: Tensor | None,
    *,
    iterations: int = 8,
    seed: int = 0,
) -> list[float]:
    """Fit bases, keys and codebooks level by level; return the energy left after each, relative.

    Every level sees the residual that the fitted levels below it leave, so the codebooks are those
    of a greedy residual quantiser on these vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    config = quantizer.config
    residual, energy, left = latents_ND.clone(), float(latents_ND.square().sum()), []
    for level in range(config.num_levels):
        if quantizer.bases is not None:
            moment = residual.T @ residual
            _, vectors = torch.linalg.eigh(moment.double().cpu())
            quantizer.bases[level] = vectors[:, -quantizer.bases.shape[-1] :].flip(1).to(moment)
        points = quantizer.coordinates(residual, level)
        if level == 0 and quantizer.keys is not None:
            assert guide_NG is not None
            quantizer.keys.copy_(k_means(guide_NG, config.codebook_size, iterations, generator))
            codes_N = nearest(guide_NG, quantizer.keys)
            quantizer.codebooks[level] = _means(points, codes_N, config.codebook_size)
        else:
            quantizer.codebooks[level] = k_means(
                points, config.codebook_size, iterations, generator
            )
            codes_N = nearest(points, quantizer.codebooks[level])
        residual = residual - quantizer.vectors(codes_N, level)
        left.append(float(residual.square().sum()) / max(energy, 1e-12))
    return left


def k_means(points_NW: Tensor, size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` centres [K, W] by Lloyd's iterations from random points.

    With more centres than points, points repeat with a little noise. Centres that lose all their
    points restart as slightly moved copies of the busiest centres.
    """
    count = points_NW.shape[0]
    chosen = torch.randperm(count, generator=generator)[:size]
    if count < size:
        extra = torch.randint(count, (size - count,), generator=generator)
        chosen = torch.cat([chosen, extra])
    centres = points_NW[chosen.to(points_NW.device)].clone()
    noise = torch.randn(centres.shape, generator=generator).to(centres)
    centres += 1e-4 * points_NW.std().nan_to_num(0.0) * noise
    for _ in range(iterations):
        codes_N = nearest(points_NW, centres)
        counts = torch.bincount(codes_N, minlength=size)
        centres = _means(points_NW, codes_N, size, fallback=centres)
        _split_busiest(centres, counts.to(centres), counts == 0)
    return centres


def _means(points_NW: Tensor, codes_N: Tensor, size: int, fallback: Tensor | None = None) -> Tensor:
    """Return the mean of the points of each code; unused codes keep ``fallback``, or the mean."""
    counts = torch.bincount(codes_N, minlength=size).to(points_NW)[:, None]
    sums = points_NW.new_zeros(size, points_NW.shape[1]).index_add_(0, codes_N, points_NW)
    other = points_NW.mean(0).expand_as(sums) if fallback is None else fallback
    return torch.where(counts > 0, sums / counts.clamp_min(1), other)


def _split_busiest(centres_KW: Tensor, weight_K: Tensor, dead_K: Tensor) -> None:
    """Move each dead centre beside one of the busiest, in place; both share its points from now."""
    dead = dead_K.nonzero()[:, 0]
    if len(dead) == 0 or len(dead) == len(dead_K):
        return
    dead = dead[: len(dead_K) - len(dead)]
    busiest = weight_K.argsort(descending=True)[: len(dead)]
    spread = centres_KW.std(0).nan_to_num(0.0)
    sign = torch.where(torch.arange(centres_KW.shape[1], device=centres_KW.device) % 2 == 0, 1, -1)
    centres_KW[dead] = centres_KW[busiest] + 0.01 * spread * sign


class CodebookAverages(nn.Module):
    """Running counts and sums from which the codebooks are re-made after every step."""

    counts_QK: Tensor
    sums_QKW: Tensor
    key_sums_KG: Tensor

    def __init__(self, quantizer: ResidualQuantizer, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        levels, size, _ = quantizer.codebooks.shape
        keys = quantizer.keys if quantizer.keys is not None else torch.zeros(size, 0)
        self.register_buffer("counts_QK", torch.ones(levels, size))
        self.register_buffer("sums_QKW", quantizer.codebooks.clone())
        self.register_buffer("key_sums_KG", keys.clone())

    @torch.no_grad()
    def restart(self, quantizer: ResidualQuantizer, vectors_per_step: int) -> None:
        """Begin from freshly fitted codebooks, every code used equally."""
        usual = vectors_per_step / quantizer.config.codebook_size
        self.counts_QK.fill_(usual)
        self.sums_QKW.copy_(quantizer.codebooks * usual)
        if quantizer.keys is not None:
            self.key_sums_KG.copy_(quantizer.keys * usual)

    @torch.no_grad()
    def update(
        self, quantizer: ResidualQuantizer, seen: Quantised, guide_NG: Tensor | None
    ) -> None:
        """Move every codebook toward the vectors that chose its codes, in every process."""
        levels, size, width = self.sums_QKW.shape
        offsets = torch.arange(levels, device=seen.codes_QN.device)[:, None] * size
        flat = (seen.codes_QN + offsets).flatten()
        counts = torch.bincount(flat, minlength=levels * size).view(levels, size)
        sums = torch.zeros_like(self.sums_QKW).view(-1, width)
        sums.index_add_(0, flat, seen.coordinates_QNW.flatten(0, 1).to(sums))
        counts, sums = ranks.add_up(counts.to(self.counts_QK)), ranks.add_up(sums)
        self.counts_QK.lerp_(counts, 1 - self.decay)
        self.sums_QKW.lerp_(sums.view_as(self.sums_QKW), 1 - self.decay)
        alive = self.counts_QK[..., None] > 1e-6
        means = self.sums_QKW / self.counts_QK[..., None].clamp_min(1e-6)
        quantizer.codebooks.copy_(torch.where(alive, means, quantizer.codebooks))
        if quantizer.keys is not None:
            assert guide_NG is not None
            key_sums = torch.zeros_like(self.key_sums_KG)
            key_sums.index_add_(0, seen.codes_QN[0], guide_NG.to(key_sums))
            self.key_sums_KG.lerp_(ranks.add_up(key_sums), 1 - self.decay)
            keys = self.key_sums_KG / self.counts_QK[0, :, None].clamp_min(1e-6)
            quantizer.keys.copy_(torch.where(alive[0], keys, quantizer.keys))

    @torch.no_grad()
    def revive(self, quantizer: ResidualQuantizer, *, threshold: float = 0.03) -> int:
        """Give codes used less than ``threshold`` of their share a half of a busy code's.

        Nothing is drawn: the same averages revive the same codes in every process.

        Returns the number of codes revived.
        """
        usual_Q = self.counts_QK.mean(1, keepdim=True)
        dead_QK = self.counts_QK < threshold * usual_Q
        for level in dead_QK.any(1).nonzero()[:, 0].tolist():
            dead, counts = dead_QK[level], self.counts_QK[level]
            keyed = level == 0 and quantizer.keys is not None
            table = quantizer.keys if keyed else quantizer.codebooks[level]
            assert table is not None
            _split_busiest(table, counts, dead)
            share = float(usual_Q[level])
            counts[dead] = share
            self.sums_QKW[level] = quantizer.codebooks[level] * counts[:, None]
            if keyed:
                self.key_sums_KG.copy_(table * counts[:, None])
        return int(dead_QK.sum())


def commitment(latents_ND: Tensor, seen: Quantised) -> Tensor:
    """Return the mean squared distance of the latents to each level's sum, relative, averaged.

    ``latents - sum of levels < q`` is what level q quantises, so this is the commitment loss of
    every level: each pulls the encoder toward what the codes can say. The mean over levels is
    taken as the distance to the mean sum plus the sums' spread around it, which is the same number
    and gradient for a fraction of the memory traffic.
    """
    mean_ND = seen.sums_QND.mean(0)
    spread = seen.sums_QND.square().mean() - mean_ND.square().mean()
    error = functional.mse_loss(latents_ND, mean_ND) + spread
    return error / latents_ND.detach().square().mean().clamp_min(1e-8)
