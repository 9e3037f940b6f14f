"""How well each fine level is predicted, given the true levels below it.

Shape letters, this file only: Q levels, T frames, K codes of a level, D latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from khala.codec import Codec
from khala.evals.ngrams import Unigram
from khala.superres import Packing, SuperResolution
from khala.tokens import COARSE_LEVELS

__all__ = ["Codes", "LevelScores", "energy_score", "fine_logits", "score_levels"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelScores:
    """How well each fine level of a song is predicted, given the true levels below it.

    Means over the song's frames, by level; NaN for the coarse ones.
    """

    nats_Q: Floats
    """Cost of the true codes under the model."""

    energy_Q: Floats
    """Energy score of what is sampled; see `energy_score`."""

    energy_unigram_Q: Floats
    """The same of sampling the unigram."""


@torch.inference_mode()
def score_levels(
    superres: SuperResolution,
    codec: Codec,
    prompt: list[int],
    true_QT: Codes,
    unigrams: Sequence[Unigram],
    *,
    top_k: int | None = None,
) -> LevelScores:
    """Score each fine level of a song given its true levels below.

    Args:
        superres: the model.
        codec: whose vectors say how far apart two codes are.
        prompt: token ids.
        true_QT: the song's codes.
        unigrams: of every level.
        top_k: codes kept by the sampling that is scored; None: the model's own number.
    """
    device = superres.lm_head.weight.device
    num_levels, num_frames = true_QT.shape
    kept = superres.config.sampling_top_k if top_k is None else top_k
    found = np.full((3, num_levels), np.nan)
    for level in range(COARSE_LEVELS, num_levels):
        logits_TK = fine_logits(superres, prompt, true_QT, level)
        true_T = torch.from_numpy(true_QT[level]).to(device)
        size = logits_TK.shape[1]
        vectors_KD = codec.quantizer.vectors(torch.arange(size, device=device)[None], level)[0]
        apart_KK = torch.cdist(vectors_KD.float(), vectors_KD.float())
        least_T1 = logits_TK.topk(min(kept, size), dim=1).values[:, -1:]
        kept_TK = logits_TK.masked_fill(logits_TK < least_T1, -torch.inf)
        sampled_TK = (kept_TK / superres.config.sampling_temperature).softmax(dim=1)
        unigram_K = torch.from_numpy(unigrams[level].probabilities_K).to(apart_KK)
        found[:, level] = (
            float(functional.cross_entropy(logits_TK, true_T)),
            float(energy_score(apart_KK, sampled_TK, true_T).mean()),
            float(energy_score(apart_KK, unigram_K.expand(num_frames, -1), true_T).mean()),
        )
    return LevelScores(nats_Q=found[0], energy_Q=found[1], energy_unigram_Q=found[2])


@torch.inference_mode()
def fine_logits(
    superres: SuperResolution, prompt: Sequence[int], true_QT: Codes, level: int
) -> Tensor:
    """Return logits_TK in float32 of one fine level of a song, given the true levels below."""
    device = superres.lm_head.weight.device
    codes_BQT = torch.from_numpy(true_QT)[None].to(device)
    packing = Packing.full(1, len(prompt), true_QT.shape[1], device)
    hidden_BSD = superres.level_hidden(
        torch.tensor([list(prompt)], device=device),
        superres.embed_levels(codes_BQT, level),
        [level],
        packing=packing,
    )
    return superres.level_logits(packing.frames_of(hidden_BSD), level)[0].float()


def energy_score(apart_KK: Tensor, shares_TK: Tensor, true_T: Tensor) -> Tensor:
    """Return the energy score of a distribution over codes at each frame, [T]; less is better.

    Mean distance of a draw to the truth, less half the mean distance of two draws
    (https://doi.org/10.1198/016214506000001437). It is strictly proper: only the true distribution
    given the same context reaches the least expected score, and a distribution with the right
    marginal or a sharper one than the truth do not. Here it is exact, over all codes.

    Args:
        apart_KK: distance between the vectors of two codes.
        shares_TK: probability of each code.
        true_T: the true codes.
    """
    to_truth_T = (shares_TK * apart_KK[true_T]).sum(dim=1)
    to_each_other_T = ((shares_TK @ apart_KK) * shares_TK).sum(dim=1)
    return to_truth_T - 0.5 * to_each_other_T
