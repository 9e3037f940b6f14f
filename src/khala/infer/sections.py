"""Where the sections of a song probably are: found in its sound, named by its lyrics.

The models are never told when a section begins, so this is an estimate for pictures: the song is
cut into as many stretches as the lyrics have sections, so that each stretch is as even in timbre
as possible and none is far from the length its share of the words suggests. The best cut of all
is found by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Stretch", "find_stretches"]

Array = npt.NDArray[np.float64]

STEP_S = 0.5
LENGTH_WEIGHT = 0.3
"""How much an unexpected length counts against uneven timbre."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """One section of a song, in seconds."""

    name: str
    start_s: float
    end_s: float


def find_stretches(
    log_mel_MT: npt.NDArray[np.floating],
    duration_s: float,
    names: Sequence[str],
    shares: Sequence[float],
) -> list[Stretch]:
    """Cut a song into ``len(names)`` stretches, in order.

    Args:
        log_mel_MT: log-mel spectrogram of the whole song, M bands x T columns.
        duration_s: its length.
        names: what the stretches are called.
        shares: expected share of the length of each; they sum to 1.
    """
    num_steps = max(int(duration_s / STEP_S), 1)
    if len(names) > num_steps:
        names, shares = names[:num_steps], shares[:num_steps]
    features_SM = _steps(np.asarray(log_mel_MT, dtype=np.float64), num_steps)
    cuts = _best_cuts(features_SM, np.asarray(shares, dtype=np.float64))
    times_s = [cut * duration_s / num_steps for cut in cuts]
    return [
        Stretch(name=name, start_s=start, end_s=end)
        for name, start, end in zip(names, times_s[:-1], times_s[1:], strict=True)
    ]


def _steps(log_mel_MT: Array, num_steps: int) -> Array:
    """Mean spectrum of every half second, each band scaled to unit spread."""
    edges = np.linspace(0, log_mel_MT.shape[1], num_steps + 1).astype(int)
    means = [log_mel_MT[:, low : max(high, low + 1)].mean(axis=1) for low, high in pairwise(edges)]
    features_SM = np.stack(means)
    spread = features_SM.std(axis=0)
    scaled: Array = (features_SM - features_SM.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
    return scaled


def _best_cuts(features_SM: Array, shares: Array) -> list[int]:
    """Borders 0 = c0 < c1 < ... < cK = S with the least unevenness plus surprise about length."""
    num_steps, num_parts = len(features_SM), len(shares)
    sums = np.concatenate([np.zeros((1, features_SM.shape[1])), features_SM.cumsum(axis=0)])
    squares = np.concatenate([[0.0], (features_SM**2).sum(axis=1).cumsum()])
    best = np.full((num_parts + 1, num_steps + 1), np.inf)
    came_from = np.zeros((num_parts + 1, num_steps + 1), dtype=int)
    best[0, 0] = 0.0
    for part in range(1, num_parts + 1):
        expected = max(shares[part - 1] * num_steps, 1.0)
        for end in range(part, num_steps + 1):
            starts = np.arange(part - 1, end)
            length = (end - starts).astype(np.float64)
            inside = squares[end] - squares[starts]
            inside -= ((sums[end] - sums[starts]) ** 2).sum(axis=1) / length
            surprise = expected * np.log(length / expected) ** 2 * features_SM.shape[1]
            costs = best[part - 1, starts] + inside + LENGTH_WEIGHT * surprise
            at = int(np.argmin(costs))
            best[part, end], came_from[part, end] = costs[at], starts[at]
    cuts = [num_steps]
    for part in range(num_parts, 0, -1):
        cuts.append(int(came_from[part, cuts[-1]]))
    return cuts[::-1]
