"""Whether a model's probabilities are those with which things happen.

Shape letters: T frames, K codes, N predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["NUM_BINS", "Guesses", "calibration_error", "reliability"]

NUM_BINS = 10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Guesses:
    """The likeliest code at each frame: how sure the model was, and whether it was right."""

    confidence_N: Floats
    """Probability of the likeliest code."""

    is_right_N: npt.NDArray[np.bool_]
    """Whether that was the true one."""

    entropy_N: Floats
    """Entropy of the whole distribution, in nats: what the model expects to pay."""

    nats_N: Floats
    """What it paid for the true code."""

    @classmethod
    def of(cls, logits_TK: Tensor, true_T: Tensor) -> Guesses:
        """Read them from the logits of one level of a song and the codes that were there."""
        log_TK = logits_TK.double().log_softmax(dim=1)
        best = log_TK.max(dim=1)
        true_T = true_T.to(log_TK.device)
        return cls(
            confidence_N=best.values.exp().cpu().numpy(),
            is_right_N=(best.indices == true_T).cpu().numpy(),
            entropy_N=-(log_TK.exp() * log_TK).sum(dim=1).cpu().numpy(),
            nats_N=-log_TK[torch.arange(len(true_T)), true_T].cpu().numpy(),
        )

    @classmethod
    def joined(cls, parts: Sequence[Guesses]) -> Guesses:
        """Put songs one after another."""
        return cls(
            confidence_N=np.concatenate([part.confidence_N for part in parts]),
            is_right_N=np.concatenate([part.is_right_N for part in parts]),
            entropy_N=np.concatenate([part.entropy_N for part in parts]),
            nats_N=np.concatenate([part.nats_N for part in parts]),
        )


def reliability(guesses: Guesses) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share right, size) of `NUM_BINS` groups, the unsure first.

    Groups of equal size, not of equal width: among a thousand codes nearly every confidence is
    small, and bins of equal width would hold all of it in one.
    """
    order = np.argsort(guesses.confidence_N, kind="stable")
    return [
        (
            float(guesses.confidence_N[group].mean()),
            float(guesses.is_right_N[group].mean()),
            group.size,
        )
        for group in np.array_split(order, NUM_BINS)
        if group.size
    ]


def calibration_error(guesses: Guesses) -> float:
    """Return the mean gap between confidence and share right over the groups of `reliability`.

    The expected calibration error of https://arxiv.org/abs/1706.04599 with groups of equal size.
    Chance alone makes it positive: about 0.4 / sqrt(guesses in a group) where half are right.
    """
    groups = reliability(guesses)
    gaps = [abs(confidence - right) for confidence, right, _ in groups]
    return float(np.average(gaps, weights=[size for *_, size in groups]))
