"""How a song is built: where its sections change, and how much of it comes back.

From the self-similarity of half seconds (J. Foote, ICME 2000): a section is a block on the diagonal
of the matrix, and what comes back is a stripe beside it.

Shape letters, this file only: C channels, N samples, M mel bands, T half seconds, D features.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.tonality import pitch_classes

__all__ = ["Structure", "find_structure"]

Floats = npt.NDArray[np.float64]

STEP_S = 0.5
HALF_KERNEL_S = 8.0
"""A section is compared with this much before and after its beginning."""

NOVELTY = 0.2
"""Difference between within and across similarity from which on a peak is a boundary."""

SHORTEST_SECTION_S = 6.0
STRIPE_S = 6.0
NEAREST_RETURN_S = 8.0
RETURNED = 0.75
"""Mean similarity of six seconds to six earlier or later ones from which on they are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """Sections of one song."""

    boundaries_s: tuple[float, ...]
    """Where a new section begins, the song's start left out."""

    recurrence: float
    """Share of the song that comes back at least 8 s away: 0 for one idea after another."""


def find_structure(wave_CN: Wave, mel_MT: Floats, mel_rate_hz: float) -> Structure:
    """Find sections and returns in a 44.1 kHz song.

    Args:
        wave_CN: the song.
        mel_MT: its log-mel frames, of which half seconds are averaged.
        mel_rate_hz: frames a second.
    """
    features_TD = _features(wave_CN, mel_MT, mel_rate_hz)
    if len(features_TD) < 4:
        return Structure(boundaries_s=(), recurrence=0.0)
    similarity_TT = features_TD @ features_TD.T
    return Structure(
        boundaries_s=tuple(STEP_S * place for place in _boundaries(similarity_TT)),
        recurrence=_recurrence(similarity_TT),
    )


def _features(wave_CN: Wave, mel_MT: Floats, mel_rate_hz: float) -> Floats:
    """Return unit rows: timbre (mel bands) and harmony (pitch classes) of every half second."""
    num_steps = int(wave_CN.shape[1] / SAMPLE_RATE_HZ / STEP_S)
    if num_steps < 1:
        return np.zeros((0, 1))
    edges = np.round(np.arange(num_steps + 1) * STEP_S * mel_rate_hz).astype(int)
    timbre = np.stack([mel_MT[:, a:b].mean(1) for a, b in itertools.pairwise(edges)])
    width = int(STEP_S * SAMPLE_RATE_HZ)
    # Two and a half steps of sound: pitches need a longer window than a half second.
    harmony = np.stack(
        [
            pitch_classes(wave_CN[:, max(0, place - 1) * width : (place + 2) * width])
            for place in range(num_steps)
        ]
    )
    parts = []
    for part in (timbre, harmony):
        moving = part - part.mean(axis=0)
        parts.append(moving / max(float(np.sqrt((moving**2).sum(axis=1).mean())), 1e-9))
    rows_TD = np.concatenate(parts, axis=1)
    norms = np.linalg.norm(rows_TD, axis=1, keepdims=True)
    unit: Floats = rows_TD / np.maximum(norms, 1e-9)
    return unit


def _boundaries(similarity_TT: Floats) -> list[int]:
    """Return the half seconds where what follows is alike, and unlike what went before."""
    half, total = round(HALF_KERNEL_S / STEP_S), len(similarity_TT)
    novelty = np.zeros(total)
    for place in range(2, total - 1):
        size = min(half, place, total - place)
        before, after = slice(place - size, place), slice(place, place + size)
        within = similarity_TT[before, before].mean() + similarity_TT[after, after].mean()
        novelty[place] = within / 2 - similarity_TT[before, after].mean()
    apart = round(SHORTEST_SECTION_S / STEP_S)
    found: list[int] = []
    for place in np.argsort(-novelty, kind="stable"):
        if novelty[place] < NOVELTY:
            break
        if apart <= place <= total - apart and all(abs(place - other) >= apart for other in found):
            found.append(int(place))
    return sorted(found)


def _recurrence(similarity_TT: Floats) -> float:
    """Return the share of half seconds on a stripe of likeness away from the diagonal."""
    total, length = len(similarity_TT), round(STRIPE_S / STEP_S)
    returned = np.zeros(total, dtype=bool)
    for lag in range(round(NEAREST_RETURN_S / STEP_S), total - length + 1):
        diagonal = np.diagonal(similarity_TT, lag)
        means = np.convolve(diagonal, np.ones(length) / length, mode="valid")
        for place in np.flatnonzero(means > RETURNED):
            returned[place : place + length] = True
            returned[place + lag : place + lag + length] = True
    return float(returned.mean())
