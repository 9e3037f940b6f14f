"""Precision, recall and thresholds, against what the definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals.tagger.scoring import average_precision, best_threshold, count_hits


def test_hits_are_counted_by_their_definitions() -> None:
    """Precision and recall exchanged would praise a tagger that hears everything."""
    heard = np.array([True, True, True, False, False])
    there = np.array([True, False, False, True, False])
    hits = count_hits(heard, there)
    assert hits.precision == pytest.approx(1 / 3)
    assert hits.recall == pytest.approx(1 / 2)
    assert hits.f1 == pytest.approx(2 / 5)
    assert hits.base_rate == pytest.approx(2 / 5)
    nothing = count_hits(np.zeros(3, bool), np.zeros(3, bool))
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


def test_average_precision_is_that_of_the_definition() -> None:
    """Ties broken by the corpus's order give a constant guess more than its base rate."""
    generator = np.random.default_rng(0)
    chances, there = generator.random(40), generator.random(40) < 0.3
    order = np.argsort(-chances)
    slowly = [there[order[: place + 1]].mean() for place in range(40) if there[order[place]]]
    assert average_precision(chances, there) == pytest.approx(np.mean(slowly))
    constant = np.full(40, 0.7)
    assert average_precision(constant, there) == pytest.approx(there.mean())
    assert average_precision(there.astype(float), there) == 1.0
    assert average_precision(chances, np.zeros(40, bool)) is None


def test_the_threshold_gives_the_best_f1() -> None:
    """A rare instrument is heard at a tenth or never."""
    generator = np.random.default_rng(1)
    there = generator.random(200) < 0.2
    chances = np.clip(0.1 * generator.random(200) + 0.06 * there, 0, 1)
    line = best_threshold(chances, there)
    best = max(count_hits(chances > one, there).f1 or 0 for one in np.linspace(0, 0.2, 2001))
    assert count_hits(chances > line, there).f1 == pytest.approx(best)
    assert best > (count_hits(chances > 0.5, there).f1 or 0)


def test_a_threshold_is_not_fitted_to_single_songs() -> None:
    """Four harps would set the line where one of them happens to lie."""
    there = np.array([True] * 4 + [False] * 30)
    assert best_threshold(np.linspace(0.3, 0, 34), there) == 0.5
    assert best_threshold(np.linspace(0.3, 0, 34), ~there) == 0.5
    exactly = np.where(np.arange(34) < 10, 0.9, 0.1)
    assert best_threshold(exactly, np.arange(34) < 10) == 0.5
