"""How well yes-or-no judgements agree with the truth, and where to draw their line.

Shape letters, this file only: N songs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Hits", "average_precision", "best_threshold", "count_hits"]

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

FEWEST_POSITIVES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Judgements counted against the truth."""

    num_right: int
    """Heard, and there."""

    num_heard: int
    """Heard, there or not."""

    num_there: int
    """There, heard or not."""

    num: int
    """Judgements in all."""

    @property
    def precision(self) -> float | None:
        """How much of what is heard is there; None if nothing is heard."""
        return self.num_right / self.num_heard if self.num_heard else None

    @property
    def recall(self) -> float | None:
        """How much of what is there is heard; None if nothing is there."""
        return self.num_right / self.num_there if self.num_there else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two; None if nothing is there and nothing heard."""
        total = self.num_heard + self.num_there
        return 2 * self.num_right / total if total else None

    @property
    def base_rate(self) -> float:
        """How often it is there: the precision, and the average precision, of guessing."""
        return self.num_there / self.num


def count_hits(heard_N: Bools, there_N: Bools) -> Hits:
    """Count judgements, of any shape, against the truth of the same shape."""
    return Hits(
        num_right=int((heard_N & there_N).sum()),
        num_heard=int(heard_N.sum()),
        num_there=int(there_N.sum()),
        num=int(there_N.size),
    )


def average_precision(chances_N: Floats, there_N: Bools) -> float | None:
    """Return the mean precision at the places of what is there, likeliest first.

    Equal chances share one place: their order in the corpus must not count. None if nothing is
    there.
    """
    if not there_N.any():
        return None
    values, place_N = np.unique(-chances_N, return_inverse=True)
    num_there = np.bincount(place_N, weights=there_N, minlength=len(values))
    heard = np.cumsum(np.bincount(place_N, minlength=len(values)))
    precision = np.cumsum(num_there) / heard
    return float((precision * num_there).sum() / num_there.sum())


def best_threshold(chances_N: Floats, there_N: Bools) -> float:
    """Return the chance above which calling it heard gives the best F1.

    Midway between two songs' chances; 0.5 where fewer than `FEWEST_POSITIVES` songs have it or
    lack it, which would fit the line to single songs.
    """
    if min(int(there_N.sum()), int((~there_N).sum())) < FEWEST_POSITIVES:
        return 0.5
    values = np.unique(chances_N)
    lines = [*((values[:-1] + values[1:]) / 2), 0.5]
    scores = [count_hits(chances_N > line, there_N).f1 or 0.0 for line in lines]
    best = max(scores)
    equally_good = [line for line, score in zip(lines, scores, strict=True) if score == best]
    return float(min(equally_good, key=lambda line: abs(line - 0.5)))
