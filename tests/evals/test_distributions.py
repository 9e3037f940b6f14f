"""Distances between sets: right where they are known, ordered, and honest about small sets."""

from __future__ import annotations

import numpy as np
import pytest

from khala.errors import ConfigError
from khala.evals.distributions import (
    frechet,
    frechet_distance,
    kernel_distance,
    squared_mmd,
)


def normal(seed: int, num: int, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(num, 6))


def test_frechet_is_the_known_one_of_normal_distributions() -> None:
    """A wrong root of a matrix gives numbers that look like distances."""
    one, other = normal(0, 200_000), normal(1, 200_000, shift=0.5, scale=2.0)
    assert frechet(one, other) == pytest.approx(6 * (0.25 + 1.0), rel=0.02)
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    stretched = one * np.array([1, 2, 3, 4, 5, 6])
    assert frechet(stretched @ turned, stretched) > 1.0
    assert frechet(stretched @ turned, stretched @ turned) == pytest.approx(0.0, abs=1e-6)
    flat = np.concatenate([one[:100, :3], np.zeros((100, 3))], axis=1)
    assert frechet(flat, flat) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_worse_is_farther(distance: object) -> None:
    """Real < a little worse < much worse < noise, or it cannot choose between two models."""
    real = normal(0, 80)
    found = [
        distance(real, other).value  # type: ignore[operator]
        for other in (
            normal(1, 80),
            normal(2, 80, shift=0.5),
            normal(3, 80, shift=1.0, scale=1.3),
            np.random.default_rng(4).uniform(-8, 8, (80, 6)),
        )
    ]
    assert found == sorted(found)
    assert found[1] > 3 * abs(found[0])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_the_same_distribution_is_at_distance_zero_however_few_songs(distance: object) -> None:
    """Twenty songs must not look worse than two hundred only because they are few."""
    values, biased = [], []
    for trial in range(12):
        found = distance(normal(100 + trial, 40), normal(200 + trial, 40))  # type: ignore[operator]
        values.append(found.value)
        biased.append(found.biased)
        assert found.low <= found.value <= found.high
    assert abs(np.mean(values)) < 0.25 * np.mean(biased)


def test_intervals_narrow_with_more_songs() -> None:
    """An interval that does not know how many songs it saw is none."""
    widths = []
    for num in (30, 240):
        found = kernel_distance(normal(0, num), normal(1, num, shift=0.4))
        widths.append(found.high - found.low)
        assert found.low > 0 or num == 30
    assert widths[1] < 0.6 * widths[0]


def test_intervals_hold_the_truth() -> None:
    """An interval too narrow makes every model different from every other."""
    far = squared_mmd(normal(900, 3000), normal(901, 3000, shift=0.4), 3.4)
    covered = 0
    for trial in range(40):
        one, other = normal(2 * trial, 60), normal(2 * trial + 1, 60, shift=0.4)
        found = kernel_distance(one, other, seed=trial)
        covered += found.low <= far <= found.high
    assert covered >= 34


def test_mmd_needs_no_normal_distribution() -> None:
    """Two sets with the same mean and covariance, of which one has a hole in its middle."""
    ring = np.random.default_rng(0).normal(size=(400, 2))
    ring *= np.sqrt(2) / np.linalg.norm(ring, axis=1, keepdims=True)
    ball = normal(1, 400)[:, :2]
    assert abs(frechet_distance(ring, ball).value) < 0.05
    found = kernel_distance(ring, ball)
    assert found.low > 0
    assert found.biased > found.value == pytest.approx(squared_mmd(ring, ball, 2.0), rel=0.3)


def test_too_few_songs_are_refused() -> None:
    """A distance from five songs is a story."""
    for one, other in ((normal(0, 5), normal(1, 50)), (normal(0, 50), normal(1, 50)[:, :3])):
        with pytest.raises(ConfigError):
            frechet_distance(one, other)
        with pytest.raises(ConfigError):
            kernel_distance(one, other)
    with pytest.raises(ConfigError, match="the same"):
        kernel_distance(np.zeros((20, 3)), normal(1, 20)[:, :3])
