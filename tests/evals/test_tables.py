"""Figures as a reader sees them."""

from __future__ import annotations

import pytest

from khala.evals.tables import shown_cell, table, with_interval


def test_an_interval_is_student_s() -> None:
    """Of three seeds, twice the standard error would promise far too much."""
    # mean 2, standard error 1 / sqrt(3), t(.975; 2) = 4.3027
    assert with_interval([1.0, 2.0, 3.0]) == "+2.000 ±2.484"
    assert with_interval([1.0, 2.0, 3.0], digits=1) == "+2.0 ±2.5"
    assert with_interval([-0.5]) == "-0.500"


def test_rows_and_columns_belong_together() -> None:
    """A figure under the wrong heading is a false figure."""
    with pytest.raises(ValueError, match="a row of 1 cells, 2 columns"):
        table("t", ["a", "b"], [["x"]])
    assert [shown_cell(value) for value in (None, True, 1.23456, 12.345)] == [
        "-", "yes", "1.235", "12.3",
    ]  # fmt: skip
