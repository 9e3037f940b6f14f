"""Recordings that are the same one: as another file, louder, cut, or through a lossy codec.

Signs of energy differences between neighbouring bands and frames survive all of that (Haitsma and
Kalker, "A highly robust audio fingerprinting system", ISMIR 2002). Of a song's thousands of 32-bit
words only the `NUM_LANDMARKS` with the smallest hashes are kept, so two recordings of one song keep
the same ones without knowing of each other (min-wise sampling), and sets of millions of songs fit
into memory. Another tempo, key or performance is another recording.

Shape letters: C channels, N samples, F frames, B bands, L landmarks, M landmarks of all songs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

__all__ = ["Duplicate", "find_duplicates", "landmarks"]

RATE_HZ = 5_512.5
FRAME = 2_048
HOP = 128
NUM_BANDS = 33
LOW_HZ, HIGH_HZ = 300.0, 2_000.0
BLOCK_FRAMES = 4_096

NUM_LANDMARKS = 512
FEWEST_SHARED = 12
"""Landmarks at one and the same delay that two songs must share. Of 1,801 demo songs, which share a
band, two have 12; AAC at 96 kbit/s and Opus at 32 keep 13 and more of a song's own."""

SHORTEST_SHARED_S = 4.0
"""They must be spread over this time: a sample or a drum loop used twice is no duplicate."""

SAME_DELAY = 2
"""Frames by which delays may differ."""

MOST_ALIKE = 24
"""Each landmark is compared with so many of the same word: silence has them by the million."""

Landmarks = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A song that is another recording of an earlier one."""

    index: int
    """The later song."""

    of: int
    """The earlier one."""

    shared: float
    """Share of the landmarks that they have in common at one delay."""


def landmarks(wave_CN: NDArray[np.float32], *, sample_rate_hz: int = 44_100) -> Landmarks:
    """Return [L, 2]: 32-bit words and the frames where they stand, sorted by frame.

    Silence and less than a few frames have none.
    """
    mono_N = np.asarray(wave_CN, dtype=np.float32).mean(axis=0)
    slow_N = soxr.resample(mono_N, sample_rate_hz, RATE_HZ, quality="HQ")
    words_F, is_sound_F = _words(slow_N)
    frames_F = np.flatnonzero(is_sound_F)
    words_F = words_F[frames_F]
    _, first = np.unique(words_F, return_index=True)  # a held chord stays one landmark
    order = np.lexsort((first, _mixed(words_F[first])))[:NUM_LANDMARKS]
    kept = np.sort(first[order])
    return np.stack([words_F[kept], frames_F[kept].astype(np.uint32)], axis=1)


def _words(slow_N: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return a word for every frame but the first, and whether anything sounds in it."""
    num_frames = max(0, (slow_N.size - FRAME) // HOP + 1)
    window = np.hanning(FRAME).astype(np.float32)
    edges_hz = np.geomspace(LOW_HZ, HIGH_HZ, NUM_BANDS + 1)
    edges = np.round(edges_hz * FRAME / RATE_HZ).astype(np.int64)
    energy_FB = np.zeros((num_frames, NUM_BANDS), np.float32)
    padded_N = np.pad(slow_N, (0, max(0, FRAME - slow_N.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded_N, FRAME)[::HOP]
    for start in range(0, num_frames, BLOCK_FRAMES):
        spectrum = (
            np.abs(
                np.fft.rfft(frames[start : min(start + BLOCK_FRAMES, num_frames)] * window, axis=1)
            )
            ** 2
        )
        energy_FB[start : start + BLOCK_FRAMES] = np.add.reduceat(spectrum, edges[:-1], axis=1)
    tilt = np.diff(energy_FB, axis=1)
    bits = np.diff(tilt, axis=0) > 0
    weights = (np.uint64(1) << np.arange(NUM_BANDS - 1, dtype=np.uint64)).astype(np.uint64)
    words_F = (bits.astype(np.uint64) @ weights).astype(np.uint32)
    total_F = energy_FB.sum(axis=1)[1:]
    return words_F, total_F > 1e-6 * max(float(total_F.max(initial=0.0)), 1e-12)


def _mixed(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a hash of every word, so that the smallest are a fair sample of all."""
    mixed = words.astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x846CA68B)
    return mixed ^ (mixed >> np.uint32(16))


def find_duplicates(songs: Sequence[Landmarks]) -> list[Duplicate]:
    """Return every song that is another recording of one before it, with the likest such one."""
    sizes = [len(one) for one in songs]
    if sum(sizes) == 0:
        return []
    all_M2 = np.concatenate([one for one in songs if len(one)])
    owner_M = np.repeat(np.arange(len(songs), dtype=np.uint32), sizes)
    order = np.lexsort((owner_M, all_M2[:, 0]))
    word_M, frame_M, owner_M = all_M2[order, 0], all_M2[order, 1].astype(np.int64), owner_M[order]
    first, second, at, delay = _pairs(word_M, frame_M, owner_M)
    return _agreeing(first, second, at, delay, sizes)


def _pairs(
    word_M: NDArray[np.uint32], frame_M: NDArray[np.int64], owner_M: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of songs with a word in common: both songs, the earlier one's frame, the delay.

    Sorted by song within a word, so the first of a pair is the earlier song.
    """
    found = []
    for apart in range(1, MOST_ALIKE + 1):
        same = word_M[apart:] == word_M[:-apart]
        if not same.any():
            break
        same &= owner_M[apart:] != owner_M[:-apart]
        one = np.flatnonzero(same)
        found.append((one, one + apart))
    one = np.concatenate([pair[0] for pair in found]) if found else np.zeros(0, np.int64)
    other = np.concatenate([pair[1] for pair in found]) if found else np.zeros(0, np.int64)
    return owner_M[one], owner_M[other], frame_M[one], frame_M[other] - frame_M[one]


def _agreeing(
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    at: NDArray[np.int64],
    delay: NDArray[np.int64],
    sizes: Sequence[int],
) -> list[Duplicate]:
    """Return the pairs whose landmarks agree about the delay, one for each later song."""
    order = np.lexsort((delay, first, second))
    first, second, at, delay = first[order], second[order], at[order], delay[order]
    changes = (np.diff(second.astype(np.int64)) != 0) | (np.diff(first.astype(np.int64)) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(first)]
    best: dict[int, Duplicate] = {}
    for start, end in itertools.pairwise(bounds):
        if end - start < FEWEST_SHARED:
            continue
        count, span = _largest_agreement(delay[start:end], at[start:end])
        if count < FEWEST_SHARED or span * HOP / RATE_HZ < SHORTEST_SHARED_S:
            continue
        earlier, later = int(first[start]), int(second[start])
        shared = min(1.0, count / min(sizes[earlier], sizes[later]))
        if later not in best or shared > best[later].shared:
            best[later] = Duplicate(later, earlier, shared)
    return [best[index] for index in sorted(best)]


def _largest_agreement(delay: NDArray[np.int64], at: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many delays (sorted) lie within `SAME_DELAY` of each other, and their span."""
    ends = np.searchsorted(delay, delay + SAME_DELAY, side="right")
    counts = ends - np.arange(len(delay))
    best = int(counts.argmax())
    chosen = at[best : best + int(counts[best])]
    return int(counts[best]), int(chosen.max() - chosen.min())
