"""Tables of plain values, shown the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t

Cell = str | int | float | bool | None


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """Return one table as plain JSON types; every row must be as long as the columns."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: a row of {len(row)} cells, {len(columns)} columns")
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def with_interval(values: Sequence[float], *, digits: int = 3) -> str:
    """Return a mean, and half its 95 % interval (Student's t) where there are several values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.{digits}f}"
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:+.{digits}f} ±{float(t.ppf(0.975, len(values) - 1)) * error:.{digits}f}"


def shown_cell(value: Cell) -> str:
    """Return a cell as a reader sees it: yes and no, three digits, "-" for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)
