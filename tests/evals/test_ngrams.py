"""Peers that count: a weak bigram would make a weak model look strong."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals.ngrams import Bigram, Unigram


def test_unigram_costs_are_a_distribution_and_its_samples_follow_it() -> None:
    """A peer whose probabilities do not sum to one cannot be compared in nats."""
    codes = np.array([0, 0, 0, 1, 2])
    unigram = Unigram.fit([codes], size=4)
    np.testing.assert_allclose(np.exp(-unigram.nats(np.arange(4))).sum(), 1.0)
    drawn = unigram.sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [4 / 9, 2 / 9, 2 / 9, 1 / 9], atol=0.02)


def test_bigram_costs_are_a_distribution_for_every_context() -> None:
    """Lost probability mass would flatter the model that is compared with it."""
    generator = np.random.default_rng(1)
    songs = [(generator.integers(0, 5, 60), generator.integers(0, 6, 60)) for _ in range(12)]
    bigram = Bigram.fit(songs, size=6)
    for context in range(6):  # 5 was never seen as a context
        costs = bigram.nats(np.full(6, context), np.arange(6))
        np.testing.assert_allclose(np.exp(-costs).sum(), 1.0, rtol=1e-6)


def test_bigram_learns_a_rule_and_does_not_invent_one() -> None:
    """It must be near zero where the context decides and no worse than counting where not."""
    generator = np.random.default_rng(2)
    ruled, free = [], []
    for _ in range(12):
        contexts = generator.integers(0, 16, 400)
        ruled.append((contexts, (contexts * 5 + 3) % 16))
        free.append((contexts, generator.integers(0, 16, 400)))
    assert Bigram.fit(ruled, size=16).nats(*ruled[0]).mean() < 0.05
    unseen = (generator.integers(0, 16, 4000), generator.integers(0, 16, 4000))
    assert Bigram.fit(free, size=16).nats(*unseen).mean() == pytest.approx(np.log(16), abs=0.1)
