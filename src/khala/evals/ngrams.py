"""Counting models of codes: the peers that a language model must be clearly better than.

Shape letters, this file only: K codes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pairs = tuple[Ints, Ints]

DISCOUNTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Unigram:
    """How often each code occurs, add-one smoothed."""

    probabilities_K: Floats

    @classmethod
    def fit(cls, codes: Sequence[Ints], *, size: int) -> Unigram:
        """Count the codes of many songs."""
        counts_K = np.ones(size)
        for one in codes:
            counts_K += np.bincount(one, minlength=size)
        return cls(probabilities_K=counts_K / counts_K.sum())

    def nats(self, codes: Ints) -> Floats:
        """Return the cost of every code."""
        costs: Floats = -np.log(self.probabilities_K[codes])
        return costs

    def sample(self, num_codes: int, generator: np.random.Generator) -> Ints:
        """Draw codes independently of each other."""
        return generator.choice(self.probabilities_K.size, num_codes, p=self.probabilities_K)


@dataclass(frozen=True, kw_only=True)
class Bigram:
    """A code given one other code: absolute discounting, interpolated with the unigram.

    The discount is the one that predicts a held-out tenth of the training songs best, so the peer
    is as strong as counting gets.
    """

    counts_KK: npt.NDArray[np.float32]
    unigram: Unigram
    discount: float

    @classmethod
    def fit(cls, songs: Sequence[Pairs], *, size: int) -> Bigram:
        """Count (context, code) pairs, one entry of ``songs`` per song.

        Raises:
            ValueError: no song.
        """
        if not songs:
            raise ValueError("a bigram needs songs to count")
        discount = 0.8
        if len(songs) >= 2:
            kept = [song for index, song in enumerate(songs) if index % 10 != 1]
            left_out = [song for index, song in enumerate(songs) if index % 10 == 1]
            trial = cls._counted(kept, size, discount)
            costs = {
                one: np.concatenate([cls._with(trial, one).nats(*song) for song in left_out]).mean()
                for one in DISCOUNTS
            }
            discount = min(costs, key=lambda one: costs[one])
        return cls._counted(songs, size, discount)

    @classmethod
    def _counted(cls, songs: Sequence[Pairs], size: int, discount: float) -> Bigram:
        counts_KK = np.zeros(size * size, dtype=np.float32)
        for contexts, codes in songs:
            counts_KK += np.bincount(contexts * size + codes, minlength=size * size)
        unigram = Unigram.fit([codes for _, codes in songs], size=size)
        return cls(counts_KK=counts_KK.reshape(size, size), unigram=unigram, discount=discount)

    @classmethod
    def _with(cls, other: Bigram, discount: float) -> Bigram:
        return cls(counts_KK=other.counts_KK, unigram=other.unigram, discount=discount)

    def nats(self, contexts: Ints, codes: Ints) -> Floats:
        """Return the cost of every code given its context."""
        totals = self.counts_KK.sum(axis=1)
        kinds = (self.counts_KK > 0).sum(axis=1)
        seen = np.maximum(self.counts_KK[contexts, codes] - self.discount, 0.0)
        total = totals[contexts]
        back_off = np.where(total > 0, self.discount * kinds[contexts] / np.maximum(total, 1), 1.0)
        probabilities = seen / np.maximum(total, 1) + back_off * self.unigram.probabilities_K[codes]
        costs: Floats = -np.log(probabilities)
        return costs
