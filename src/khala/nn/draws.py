"""Draws of `khala.nn.sampling` in machine code: the same candidates, several times faster.

Importing this needs numba; see `khala.nn.jit`.

Shape letters: T frames, V candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from khala.nn.jit import compiled, log

__all__ = ["most_likely"]

DOUBT = 1e-4
"""How far a quick score may be from the exact one, next to 1 or the score: its error is 1e-6."""


@compiled
def most_likely(
    logits_TV: npt.NDArray[np.float32],
    is_kept_TV: npt.NDArray[np.bool_],
    key: tuple[np.uint32, np.uint32],
    frames_T: npt.NDArray[np.int64],
    temperature: float,
) -> npt.NDArray[np.int64]:
    """Return of each row the candidate with the largest sum of logit / temperature and noise.

    The noise is that of `khala.nn.sampling.gumbel`. Scores are quick ones first; those that might
    be the largest are computed again in float64.

    Args:
        logits_TV: scores.
        is_kept_TV: which candidates there are; one at least.
        key: of seed, stage and level.
        frames_T: numbers of the rows' frames.
        temperature: above 0.
    """
    num_rows, num = logits_TV.shape
    chosen_T = np.empty(num_rows, np.int64)
    words_V, scores_V = np.empty(num, np.uint32), np.empty(num, np.float32)
    steps_V = np.empty(num, np.uint32)
    for v in range(num):
        steps_V[v] = np.uint32(np.uint32(v) * np.uint32(0x9E3779B1))
    sharpness = np.float32(1.0 / temperature)
    for row in range(num_rows):
        frame = np.uint32(frames_T[row])
        low = _mix(np.uint32(np.uint32(frame * np.uint32(0x9E3779B1)) + key[0]))
        high = _mix(np.uint32(np.uint32(np.uint32(frame * np.uint32(0x85EBCA6B)) ^ low) ^ key[1]))
        for v in range(num):
            words_V[v] = _mix(np.uint32(_mix(np.uint32(steps_V[v] + low)) ^ high))
        for v in range(num):
            score = logits_TV[row, v] * sharpness - log(_waiting(words_V[v]))
            scores_V[v] = score if is_kept_TV[row, v] else np.float32(-3e38)
        most = scores_V.max()
        enough = most - np.float32(DOUBT) * max(np.float32(1), abs(most))
        best = -np.inf
        for v in range(num):
            if scores_V[v] >= enough:
                u = (float(words_V[v]) + 0.5) * 2.0**-32
                score = float(logits_TV[row, v]) / temperature - np.log(-np.log(u))
                if score > best:
                    best, chosen_T[row] = score, v
    return chosen_T


@compiled
def _mix(x: np.uint32) -> np.uint32:
    """Finalise 32 bits, as `khala.nn.sampling` does."""
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@compiled
def _waiting(word: np.uint32) -> np.float32:
    """Return -ln u to 3e-7 of it, where u = (word + 1/2) / 2**32.

    Near 1, where it is what u lacks of 1 that matters, by a series of that.
    """
    high = np.float32(np.int32(word >> np.uint32(16)))
    low = np.float32(np.int32(word & np.uint32(65535)))
    u = (high * np.float32(65536) + (low + np.float32(0.5))) * np.float32(2.0**-32)
    lacks = (np.float32(65535) - high) * np.float32(65536) + (np.float32(65535.5) - low)
    lacks *= np.float32(2.0**-32)
    ratio = lacks / (np.float32(2) - lacks)
    square = ratio * ratio
    series = np.float32(1 / 13)
    series = series * square + np.float32(1 / 11)
    series = series * square + np.float32(1 / 9)
    series = series * square + np.float32(1 / 7)
    series = series * square + np.float32(1 / 5)
    series = series * square + np.float32(1 / 3)
    series = series * square + np.float32(1)
    near, far = np.float32(2) * ratio * series, -log(u)  # both, as vectors have no branches
    return near if lacks < np.float32(0.5) else far
