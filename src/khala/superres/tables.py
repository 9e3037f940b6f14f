"""Low-rank tables for the fine levels, so that 62 of them fit in a few megabytes.

A full table holds levels x 1024 x width numbers twice, once to read codes and once to score them:
at width 256 that is 33 million, several times the trunk. Here a code has one vector of ``rank``
numbers for both uses, and each level has a small matrix into the model and one out of it.

Shape letters: B batch, T frames, Q levels, D width, R rank, V codes of one level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.nn.init import STD, blank_embedding, hidden_std


class LevelTables(nn.Module):
    """Code vectors shared between reading and scoring, with projections per level.

    State dict, for levels first_level .. first_level + Q - 1:
        codes.weight [Q * V, R], in_proj [Q, R, D], out_proj [Q, D, R], out_bias [Q, V].
    """

    def __init__(
        self, *, first_level: int, num_levels: int, codebook_size: int, rank: int, width: int
    ) -> None:
        super().__init__()
        self.first_level, self.num_levels = first_level, num_levels
        self.codebook_size, self.rank, self.width = codebook_size, rank, width
        self.codes = blank_embedding(num_levels * codebook_size, rank)
        self.in_proj = nn.Parameter(torch.empty(num_levels, rank, width))
        self.out_proj = nn.Parameter(torch.empty(num_levels, width, rank))
        self.out_bias = nn.Parameter(torch.empty(num_levels, codebook_size))

    @torch.no_grad()
    def init_weights(self, *, seed: int) -> None:
        """Start so that products look like full tables: see ``khala.nn.init``.

        Code vectors have std 0.02 * sqrt(width / rank) and projections out 1/sqrt(width), which
        makes output rows of std 0.02; projections in are larger by the ratio of the two stds, so
        embeddings have the std of full ones.
        """
        generator = torch.Generator().manual_seed(seed)
        out_std = 1.0 / math.sqrt(self.width)
        self.codes.weight.normal_(0.0, STD * math.sqrt(self.width / self.rank), generator=generator)
        self.in_proj.normal_(0.0, out_std * hidden_std(self.width) / STD, generator=generator)
        self.out_proj.normal_(0.0, out_std, generator=generator)
        self.out_bias.zero_()

    @torch.no_grad()
    def start_from_latents(self, latents_QVC: Tensor, turn_CD: Tensor, gain: float) -> None:
        """Start so that embeddings are the codec's own vectors, all turned by one matrix.

        The sum of the embeddings of some levels is then the turned sum of their vectors, which is
        what those levels say, and every level reads its part of the same picture of what is left.
        Matrices of a level's own would lay up to 62 unrelated pictures over each other.

        Args:
            latents_QVC: vectors of the codes of these levels, coarsest first; the leading
                ``rank`` directions of each level are kept.
            turn_CD: from the codec's width into the model's, with orthonormal columns or rows.
            gain: scale of the embeddings.
        """
        wanted = (self.num_levels, self.codebook_size)
        if tuple(latents_QVC.shape[:2]) != wanted:
            raise ValueError(f"latents must be {wanted}, not {tuple(latents_QVC.shape[:2])}")
        std, out_std = STD * math.sqrt(self.width / self.rank), 1.0 / math.sqrt(self.width)
        codes_QVR = self.codes.weight.view(self.num_levels, self.codebook_size, self.rank)
        for level, latents_VC in enumerate(latents_QVC.to(codes_QVR)):
            centred_VC = latents_VC - latents_VC.mean(dim=0)
            left, sizes, directions = torch.linalg.svd(centred_VC, full_matrices=False)
            num = min(self.rank, sizes.shape[0])
            vectors_VR = left[:, :num] * sizes[:num]
            size = vectors_VR.std().clamp_min(1e-12)
            codes_QVR[level, :, :num] = vectors_VR * (std / size)
            turned_RD = directions[:num] @ turn_CD.to(codes_QVR)
            self.in_proj[level] = 0.0
            self.in_proj[level, :num] = turned_RD * (gain * size / std)
            self.out_proj[level, :, :num] = turned_RD.T * (out_std / turned_RD.std())

    @torch.no_grad()
    def start_from_chances(self, chances_QV: Tensor) -> None:
        """Start the output biases from how often each code stands in its level.

        Nothing has to be learned then to be as good as counting.
        """
        self.out_bias.copy_((chances_QV * self.codebook_size).log())

    def embed(self, codes_BT: Tensor, level: int) -> Tensor:
        """Return the embedding of one level's codes, [..., T, D]."""
        index = level - self.first_level
        vectors_BTR = self.codes(codes_BT + index * self.codebook_size)
        return torch.matmul(vectors_BTR, self.in_proj[index])

    def embed_sum(self, codes_BQT: Tensor) -> Tensor:
        """Return the sum of the embeddings of the first Q of these levels, [B, T, D].

        One product over all levels at once: their vectors lie side by side, and so do their
        matrices.
        """
        batch, num, num_frames = codes_BQT.shape
        offsets_Q1 = torch.arange(num, device=codes_BQT.device)[:, None] * self.codebook_size
        rows_BTQ = (codes_BQT + offsets_Q1).transpose(1, 2)
        vectors = self.codes(rows_BTQ).reshape(batch, num_frames, num * self.rank)
        return torch.matmul(vectors, self.in_proj[:num].reshape(num * self.rank, self.width))

    def logits(self, hidden_BTD: Tensor, level: int) -> Tensor:
        """Return the scores of one level's codes, [..., T, V]."""
        index = level - self.first_level
        start = index * self.codebook_size
        inner_BTR = torch.matmul(hidden_BTD, self.out_proj[index])
        window_VR = self.codes.weight[start : start + self.codebook_size]
        return F.linear(inner_BTR, window_VR, self.out_bias[index])
