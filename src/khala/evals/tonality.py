"""The key of a song, and how clear it is.

Shape letters, this file only: C channels, N samples, F frequency bins, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from khala.evals.distances import SAMPLE_RATE_HZ, Wave

Floats = npt.NDArray[np.float64]

N_FFT, HOP = 8192, 4096
LOWEST_HZ, HIGHEST_HZ = 60.0, 2000.0
BASS_HZ = (40.0, 220.0)
ENDING = 0.15
"""Part of a song whose bass is asked for the tonic: most songs end at home."""

ENDING_WEIGHT = 0.6
"""What that bass counts beside a correlation: enough to decide between relative keys, which share
their notes. Chosen on songs of the demo corpus."""

PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}
MAJOR = (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400)
MINOR = (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330)
"""How often each step above the tonic sounds, from Temperley's Kostka-Payne corpus (Music and
Probability, 2007)."""

BLOCK = 512
"""Frames transformed at once: the memory of an hour is that of half a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """The likeliest key."""

    name: str
    """Such as "C major" or "F# minor"; empty where nothing has a pitch."""

    clarity: float
    """Correlation with this key's profile minus that of the best key with other notes (not the
    relative one): near 0 for noise or twelve-tone music, 0.1 to 0.4 for songs in one key."""


def find_key(wave_CN: Wave) -> Key:
    """Name the key that fits the pitch classes of a 44.1 kHz song."""
    chroma = pitch_classes(wave_CN)
    ending = pitch_classes(wave_CN[:, -int(ENDING * wave_CN.shape[1]) :], *BASS_HZ)
    if chroma.sum() <= 0 or float(chroma.std()) < 1e-9:
        return Key(name="", clarity=0.0)
    scores = {}
    for mode, profile in (("major", MAJOR), ("minor", MINOR)):
        for tonic in range(12):
            turned = np.roll(profile, tonic)
            scores[tonic, mode] = float(np.corrcoef(chroma, turned)[0, 1])
    best = max(scores, key=lambda key: scores[key] + ENDING_WEIGHT * ending[key[0]])
    tonic, mode = best
    relative = ((tonic + 9) % 12, "minor") if mode == "major" else ((tonic + 3) % 12, "major")
    others = [score for key, score in scores.items() if key not in (best, relative)]
    return Key(name=f"{PITCHES[tonic]} {mode}", clarity=scores[best] - max(others))


def pitch_classes(
    wave_CN: Wave, lowest_hz: float = LOWEST_HZ, highest_hz: float = HIGHEST_HZ
) -> Floats:
    """Return the strength of each pitch class, C first, summing to 1 (or all 0 for silence).

    Magnitudes of spectral peaks, compressed, so that a loud chord does not outvote the others.
    """
    mono_N = np.ascontiguousarray(wave_CN.mean(axis=0), dtype=np.float32)
    window = np.hanning(N_FFT).astype(np.float32)
    hz_F = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ)
    inside = (hz_F >= lowest_hz) & (hz_F <= highest_hz)
    first = int(np.argmax(inside))
    last = first + int(inside.sum())
    total = np.zeros(12)
    num_frames = max(0, (mono_N.size - N_FFT) // HOP + 1)
    for start in range(0, num_frames, BLOCK):
        count = min(BLOCK, num_frames - start)
        places = (start + np.arange(count))[:, None] * HOP + np.arange(N_FFT)
        spectrum_TF = np.abs(np.fft.rfft(mono_N[places] * window, axis=1))
        total += _folded(spectrum_TF[:, first - 1 : last + 1], first)
    return total / total.sum() if total.sum() > 0 else total


def _folded(magnitude_TF: Floats, first_bin: int) -> Floats:
    """Add up the peaks between the outer two bins by pitch class."""
    left, middle, right = magnitude_TF[:, :-2], magnitude_TF[:, 1:-1], magnitude_TF[:, 2:]
    is_peak = (middle > left) & (middle >= right) & (middle > 1e-3)
    frames, bins = np.nonzero(is_peak)
    a, b, c = left[frames, bins], middle[frames, bins], right[frames, bins]
    offset = 0.5 * (a - c) / np.minimum(a - 2 * b + c, -1e-12)
    hz = (bins + first_bin + offset) * SAMPLE_RATE_HZ / N_FFT
    semitones = 12 * np.log2(hz / 440.0) + 9
    nearest = np.round(semitones)
    # Between two notes a peak counts for neither.
    weight = np.sqrt(b) * np.cos(np.pi * (semitones - nearest)) ** 2
    counts = np.bincount(nearest.astype(np.int64) % 12, weights=weight, minlength=12)
    return counts.astype(np.float64)


def same_key(one: str, other: str) -> bool:
    """Tell whether two names are one key, however its tonic is spelled."""
    return bool(one) and _spelled(one) == _spelled(other)


def _spelled(name: str) -> str:
    tonic, _, mode = name.strip().partition(" ")
    return f"{FLATS.get(tonic, tonic)} {mode.lower()}"
