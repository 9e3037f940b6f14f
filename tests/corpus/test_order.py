"""Who is in which batch."""

from __future__ import annotations

import numpy as np
import pytest

from khala.corpus.order import BatchPlan, draw, indexes, permutation, uniform
from khala.errors import ConfigError


def test_every_epoch_sees_every_example_once() -> None:
    """An example seen twice as often is learned by heart; one never seen is money thrown away."""
    chosen = [i for step in range(35) for i in indexes(7, step, 4, 20)]
    for epoch in range(7):
        assert sorted(chosen[epoch * 20 : (epoch + 1) * 20]) == list(range(20))
    assert chosen[:20] != chosen[20:40]
    assert indexes(7, 33, 4, 20) == chosen[132:136], "a step must not depend on those before it"
    assert indexes(8, 0, 4, 20) != chosen[:4]


def test_draws_depend_on_every_part_of_their_address() -> None:
    """Two songs that share their dice would always be augmented alike."""
    values = {draw(s, a, b) for s in range(5) for a in range(20) for b in range(20)}
    assert len(values) == 5 * 20 * 20
    mean = np.mean([uniform(1, i) for i in range(4000)])
    assert abs(mean - 0.5) < 0.02
    assert sorted(permutation(3, 1, 50).tolist()) == list(range(50))


def test_batches_hold_their_budget_and_lose_nobody() -> None:
    """A batch over its budget ends a run with out-of-memory; a lost song is never learned."""
    lengths = np.random.default_rng(0).integers(10, 200, 300)
    plan = BatchPlan(lengths.tolist(), max_tokens=1000, seed=5, pool=64)
    seen: list[int] = []
    step = 0
    while plan.epoch_of(step) < 2:
        batch = plan.at(step)
        assert len(batch) * lengths[batch].max() <= 1000
        seen += batch
        step += 1
    assert sorted(seen) == sorted(list(range(300)) * 2)
    padding = 1 - sum(lengths[seen]) / sum(
        len(plan.at(s)) * lengths[plan.at(s)].max() for s in range(step)
    )
    assert padding < 0.15, f"{padding:.0%} of the compute goes into padding"


def test_packed_batches_are_full() -> None:
    """Half-empty batches are half-idle machines; and every song still comes once an epoch."""
    lengths = np.random.default_rng(0).integers(10, 900, 600)
    plan = BatchPlan(lengths.tolist(), max_tokens=1000, seed=5, packed=True)
    batches = []
    while plan.epoch_of(len(batches)) < 1:
        batches.append(plan.at(len(batches)))
    assert sorted(index for batch in batches for index in batch) == list(range(600))
    sums = [int(lengths[batch].sum()) for batch in batches]
    assert max(sums) <= 1000
    assert np.mean(sums) > 930
    again = BatchPlan(lengths.tolist(), max_tokens=1000, seed=5, packed=True)
    assert again.at(7) == batches[7]


def test_a_plan_asked_late_equals_one_asked_in_order() -> None:
    """A resumed run that saw other songs would not be the same run."""
    lengths = list(range(10, 100))
    early, late = (BatchPlan(lengths, max_tokens=300, seed=1) for _ in range(2))
    in_order = [early.at(step) for step in range(200)]
    assert late.at(150) == in_order[150]
    assert late.at(3) == in_order[3]


def test_an_example_too_long_for_a_batch_is_refused() -> None:
    """It must be said before the run, not hours into it."""
    with pytest.raises(ConfigError, match="at most 50"):
        BatchPlan([10, 60], max_tokens=50, seed=0)
