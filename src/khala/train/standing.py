"""How far a run is: what a terminal shows while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Show", "Standing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A run after some step. Losses and speeds are those of the last line of its log."""

    kind: str
    """"codec", "backbone" or "superres"."""

    unit: str
    """What the speed counts, as in "tokens"."""

    step: int
    """Updates made."""

    num_steps: int
    """Updates in all."""

    losses: Mapping[str, float] = field(default_factory=dict)
    """Means over the steps of the line."""

    grad_norm: float = 0.0
    """Before clipping."""

    lr: float = 0.0
    """Learning rate."""

    per_s: float = 0.0
    """Units a second."""

    mfu: float = 0.0
    """Share of the arithmetic that large matrix products reach here; 0: not known."""

    left_s: float | None = None
    """Seconds to the end; None before the first line."""


Show = Callable[[Standing], None]
