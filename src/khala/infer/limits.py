"""How many frames a request means, and whether a model can write them. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from khala.errors import RequestError

__all__ = ["FrameBounds", "frame_bounds", "longest_s"]

SHORTEST_SHARE = 0.95
"""Of the wanted duration: before this the model is not offered the end."""

LONGEST_SHARE = 1.05
"""Of the wanted duration: here the song is cut if the model has not ended it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameBounds:
    """Between how many frames a song may end."""

    least: int
    most: int


def frame_bounds(
    duration_s: float, *, frame_rate_hz: float, num_prompt: int, positions: tuple[int, int]
) -> FrameBounds:
    """Frames for a wanted duration, within a tolerance of 5 % on both sides.

    Args:
        duration_s: what was asked for.
        frame_rate_hz: codec frames per second.
        num_prompt: tokens of the prompt.
        positions: longest stream of the backbone (two per frame) and of super-resolution (one).

    Raises:
        RequestError: the models cannot write that long a song; names the longest.
    """
    most = max(math.floor(duration_s * LONGEST_SHARE * frame_rate_hz), 1)
    least = min(math.ceil(duration_s * SHORTEST_SHARE * frame_rate_hz), most)
    if most > _frames_that_fit(num_prompt, positions):
        limit_s = longest_s(frame_rate_hz=frame_rate_hz, num_prompt=num_prompt, positions=positions)
        raise RequestError(
            f"duration is {duration_s:g} s: with this prompt and these lyrics "
            f"this model can write songs of up to {limit_s:.1f} s"
        )
    return FrameBounds(least=least, most=most)


def longest_s(*, frame_rate_hz: float, num_prompt: int, positions: tuple[int, int]) -> float:
    """Longest duration that can be asked of a model with a prompt of ``num_prompt`` tokens."""
    fit = max(_frames_that_fit(num_prompt, positions), 0)
    return math.floor(fit / frame_rate_hz / LONGEST_SHARE * 10) / 10


def _frames_that_fit(num_prompt: int, positions: tuple[int, int]) -> int:
    backbone, superres = positions
    return min((backbone - num_prompt) // 2, superres - num_prompt)
