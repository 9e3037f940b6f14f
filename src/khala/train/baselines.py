"""What counting alone can say about codes: the losses a model must beat.

Unigram: how often a code is used. Bigram: how often it follows its context, blended with the
unigram; the blend is chosen on a tenth of the training songs. Level 0 has level 0 of the frame
before as its context, a higher level has the level below it in the same frame.

Shape letters: Q levels, T frames, V codes of one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bigram_nats", "unigram", "unigram_nats"]

BLENDS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
Codes = NDArray[np.integer]


def unigram_nats(
    train: Sequence[Codes], test: Sequence[Codes], level: int, codebook_size: int
) -> float:
    """Return the mean surprise, in nats, of a level's codes under their frequencies."""
    chances_V = unigram(train, level, codebook_size)
    codes = np.concatenate([codes_QT[level] for codes_QT in test])
    return float(-np.log(chances_V[codes]).mean())


def bigram_nats(
    train: Sequence[Codes], test: Sequence[Codes], level: int, codebook_size: int
) -> float:
    """Return the mean surprise, in nats, of a level's codes given their context."""
    num_kept = max(1, len(train) // 10)
    if len(train) < 2:
        return _bigram(train, test, level, codebook_size, BLENDS[2])
    scores = {
        blend: _bigram(train[num_kept:], train[:num_kept], level, codebook_size, blend)
        for blend in BLENDS
    }
    return _bigram(train, test, level, codebook_size, min(scores, key=lambda b: scores[b]))


def unigram(train: Sequence[Codes], level: int, size: int) -> NDArray[np.float64]:
    """Return the chance of every code, never zero."""
    counts = np.ones(size)
    for codes_QT in train:
        counts += np.bincount(codes_QT[level], minlength=size)
    chances: NDArray[np.float64] = counts / counts.sum()
    return chances


def _bigram(
    train: Sequence[Codes], test: Sequence[Codes], level: int, size: int, blend: float
) -> float:
    """Return the surprise with ``blend`` unigram observations added to every context."""
    chances_V = unigram(train, level, size)
    counts_VV = np.zeros((size, size))
    for codes_QT in train:
        context, code = _pairs(codes_QT, level)
        np.add.at(counts_VV, (context, code), 1)
    totals_V = counts_VV.sum(axis=1)
    surprises = []
    for codes_QT in test:
        context, code = _pairs(codes_QT, level)
        chance = (counts_VV[context, code] + blend * chances_V[code]) / (totals_V[context] + blend)
        surprises.append(-np.log(chance))
        if level == 0:  # the first frame has no context
            surprises.append(-np.log(chances_V[codes_QT[0, :1]]))
    return float(np.concatenate(surprises).mean())


def _pairs(codes_QT: Codes, level: int) -> tuple[Codes, Codes]:
    """Return (context, code) of every frame that has a context."""
    if level == 0:
        return codes_QT[0, :-1], codes_QT[0, 1:]
    return codes_QT[level - 1], codes_QT[level]
