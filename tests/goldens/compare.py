"""Arrays of a model against those it must give: all of them, each as exactly as it is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

TOLERANCES = (
    ("act_ hidden_final hidden_idx embed_idx causal_ single_bias_ top50_probs", 1e-4),
    ("logit_ logits_ padded_ max logsumexp", 2e-4),
    ("margin greedy_free_margin greedy_audio_margin teacher_logp", 4e-4),
    ("hidden_sum embed_sum", 5e-4),
    ("wav z q_z enc_ dec decoded eff_ commit_ chunk_ nn_margin", 3e-4),
)
"""Beginnings of names, and how far a number may be off; a margin is the distance of two logits."""


def tolerance_of(name: str) -> float:
    """Return how far the numbers of an array may be off."""
    return next(
        tolerance
        for beginnings, tolerance in TOLERANCES
        if name.startswith(tuple(beginnings.split()))
    )


def compare(made: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Assert that both have the same arrays, integers exactly and floats within tolerance."""
    assert made.keys() == wanted.keys()
    for name, array in wanted.items():
        assert made[name].shape == array.shape, name
        if array.dtype.kind in "iu":
            np.testing.assert_array_equal(made[name], array, err_msg=name)
        else:
            tolerance = tolerance_of(name)
            np.testing.assert_allclose(made[name], array, rtol=0, atol=tolerance, err_msg=name)


def smallest_margin(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> float:
    """Return the smallest distance between a choice and the next one, among some arrays."""
    return min(float(arrays[name].min()) for name in names if name in arrays)
