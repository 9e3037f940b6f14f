"""Rotary tables at the far end of a stream."""

from __future__ import annotations

import numpy as np
import pytest

from khala.nn.rope import rope_tables


@pytest.mark.parametrize("head_width", [64, 10])
def test_far_angles_are_rounded_as_published(head_width: int) -> None:
    """Rounded elsewhere, the end of a long song would be attended from slightly wrong places."""
    base, num_positions = 500_000.0, 16_384
    cos_SK, sin_SK = (
        table.double().numpy() for table in rope_tables(num_positions, head_width, base)
    )
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    powers = (base ** exponents.astype(np.float64)).astype(np.float32)
    angles = np.outer(np.arange(num_positions, dtype=np.float32), np.float32(1) / powers)
    assert angles.dtype == np.float32
    angles = angles.astype(np.float64)
    half = head_width // 2
    for table, wanted in (
        (cos_SK[:, :half], np.cos(angles)),
        (cos_SK[:, half:], np.cos(angles)),
        (sin_SK[:, :half], -np.sin(angles)),
        (sin_SK[:, half:], np.sin(angles)),
    ):
        np.testing.assert_allclose(table, wanted, rtol=0, atol=2e-7)
